"""Hostile files: a small cut of the campaign, and proof that its judge sees what goes wrong."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.amount import tries
from tests.support.hostile_files import MEGABYTE, row, text

from chaos import files
from chaos.files import Findings, Mutator
from chaos.result import Result

SIZE = tries(300, 100_000)


def heard(_words: str) -> None:
    """Nobody listens."""


def assert_no_fault(result: Result) -> None:
    assert not any(result.faults.values()), "\n".join(result.notes)


def test_there_are_enough_files_made_by_hand() -> None:
    """No fewer than 150, no two of them the same."""
    contents = set(files.by_hand().values())
    assert len(contents) == len(files.by_hand()) >= 150


@pytest.mark.long
def test_files_made_by_hand(tmp_path: Path) -> None:
    """Each is refused or loaded as Python's csv reads it, all in one run."""
    assert_no_fault(files.run_by_hand(tmp_path, heard))


def test_damaged_files(tmp_path: Path) -> None:
    """Files damaged by chance are loaded as Python's csv reads them; most of them are damaged."""
    result = files.run_damaged(7, SIZE, tmp_path, heard)
    assert_no_fault(result)
    assert result.tries["damaged"] > SIZE * 0.8


@pytest.mark.long
def test_large_files_fill_no_memory(tmp_path: Path) -> None:
    """Two million flawed lines take no more memory than is stated."""
    assert_no_fault(files.run_large(8, tmp_path, heard, ("short.csv",)))


def test_hostile_keys_of_a_bucket(tmp_path: Path) -> None:
    """Whatever an object's key, it is archived or told, and the good one beside it is counted."""
    assert_no_fault(files.run_keys(tmp_path, heard, together=True))


def test_a_file_is_known_by_its_seed() -> None:
    """The nth file of a seed is the same whatever was made before it, and another of another."""
    first, again, other = Mutator(7), Mutator(7), Mutator(8)
    made = [first.file(n) for n in range(50)]
    assert again.file(49) == made[49]
    assert [other.file(n) for n in range(50)] != made


Told = dict[str, list[dict[str, list[dict[str, object]]]]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told, dict[str, bytes]]:
    """A shop after a run over three files, what the run told, and the files."""
    folder = tmp_path_factory.mktemp("ended")
    delivered = {
        "a.csv": text(row("a"), row("a", "x")),
        "b.csv": text(row("b")),
        "bad.csv": b"nothing\n",
    }
    shop = files.new_shop(folder / "shop")
    for name, content in delivered.items():
        (shop / "landing" / name).write_bytes(content)
    done = files.run_cli(shop, "run", "--as-of", "2024-04-01", "--output", "json")
    return shop, json.loads(done.out), delivered


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("lost files", "DELETE FROM lines WHERE path = 'b.csv'"),
        ("wrong refusals", "UPDATE lines SET state = 'refused' WHERE path = 'b.csv'"),
        ("silent changes", "UPDATE lines SET state = 'loaded' WHERE path = 'bad.csv'"),
        ("lost records", "UPDATE lines SET loaded = 0 WHERE path = 'a.csv'"),
    ],
)
def test_a_false_report_is_found(
    ended: tuple[Path, Told, dict[str, bytes]], kind: str, statement: str
) -> None:
    """A report that says something else than what is in the files is a fault."""
    shop, told, delivered = ended
    columns = ("path", "state", "message", "records", "loaded", "quarantined")
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"CREATE TABLE lines ({', '.join(columns)})")
        [batch] = told["batches"]
        for line in batch["files"]:
            values = [line[name] for name in columns]
            database.execute("INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?)", values)
        database.execute(statement)
        rows = database.execute("SELECT * FROM lines").fetchall()
    lied = {"batches": [{"files": [dict(zip(columns, line, strict=True)) for line in rows]}]}
    found = Findings()
    files.judge_run(shop, delivered, told, found, "as it is")
    assert not found.faults, found.notes
    files.judge_run(shop, delivered, lied, found, "as it is told")
    assert found.faults[kind]


def test_a_lost_file_and_a_changed_row_are_found(
    ended: tuple[Path, Told, dict[str, bytes]], tmp_path: Path
) -> None:
    """What is taken from the archive is missed, and so is a row that is another now."""
    known, told, delivered = ended
    shop = tmp_path / "shop"
    shutil.copytree(known, shop)
    [archived] = (shop / "archive").rglob("b.csv")
    archived.unlink()
    changed = {**delivered, "a.csv": delivered["a.csv"].replace(b"10.00\n", b"10.01\n", 1)}
    found = Findings()
    files.judge_run(shop, changed, told, found, "changed")
    assert found.faults["lost files"] == 2
    assert found.faults["silent changes"] == 2


def test_memory_is_that_of_the_run_alone(tmp_path: Path) -> None:
    """The measure does not count what this process holds."""
    held = b"x" * (600 * MEGABYTE)
    ended = files.run_files(tmp_path / "shop", {"a.csv": text(row())}, Findings(), "one")
    assert 20 * MEGABYTE < ended.memory < len(held)
