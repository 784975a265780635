"""Projects that earlier versions made go on: the same numbers, the next day, undo of old runs."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import pytest

from retailmart import OpenProject, open_project
from tests.support.judge import COLUMNS, PUBLISHED, Marts, expected_marts, in_cents
from tests.support.judge_shop import market_marts, webshop_marts
from tests.support.pages import commands
from tests.support.shop import Called, Shop, keep_only
from tests.template.looking import differences
from tests.upgrade import story
from tests.upgrade.reading import Tables, tables_of

_PROJECTS = Path(__file__).parent / "upgrade"
_FIRST, _SECOND = "4566b4f", "800a048"
_OLD_SETTINGS = (
    "spark: jdbc_jar is not used any more",
    "spark: file_size is not used any more",
    "spark: jdbc_from is called parallel_from now",
)
_NEXT_DAY = "2024-03-13"
_BEGUN = ("a1", "b1")
_MARKET = ("market_orders", "market_order_totals", "market_users", "market_deliveries")


class _OneProject(Shop):
    """A shop whose project is read once: nobody changes its files."""

    def open(self) -> OpenProject:
        return _opened(self.folder)


@lru_cache(maxsize=1)
def _opened(folder: Path) -> OpenProject:
    return open_project(folder)


@dataclass(frozen=True)
class Earlier:
    """A project of an earlier version; `expected` is what that version had in each table."""

    shop: Shop
    expected: Tables

    @property
    def folder(self) -> Path:
        return self.shop.folder


def _unpacked(commit: str, project: str, folder: Path) -> Earlier:
    with tarfile.open(_PROJECTS / f"{commit}.tar.xz") as packed:
        members = packed.getmembers()
        ours = [m for m in members if m.name.partition("/")[0] in (project, "expected.json")]
        packed.extractall(folder, ours, filter="data")
    expected = json.loads((folder / "expected.json").read_text())
    return Earlier(_OneProject(folder / project), expected[project])


@pytest.mark.parametrize(
    ("commit", "project", "day"),
    [
        (_FIRST, "shop", "2024-03-12"),
        (_SECOND, "shop", "2024-03-12"),
        (_SECOND, "sample", "2024-04-01"),
    ],
)
def test_nothing_new_changes_nothing(
    tmp_path: Path, called: Called, commit: str, project: str, day: str
) -> None:
    """No row of any table changes; what the engine computes from the lake today is the same.

    None of the numbers that may change, says the changelog, are in these projects.
    """
    earlier = _unpacked(commit, project, tmp_path)
    checked = called(earlier.folder, "check")
    assert checked.returncode == 0, checked.stderr
    old = [checked.stderr.count(words) for words in _OLD_SETTINGS]
    assert old == [int((commit, project) == (_SECOND, "shop"))] * 3
    done = called(earlier.folder, "run", "--as-of", day)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stderr
    assert tables_of(earlier.folder) == earlier.expected
    commands = [("verify", "--database"), ("doctor",)]
    if commit == _FIRST:
        commands.append(("verify", "--engines", "duckdb"))
    for words in commands:
        done = called(earlier.folder, *words)
        assert done.returncode == 0, done.stdout
    assert "run 1 " in called(earlier.folder, "status").stdout
    refused = called(earlier.folder, "quarantine", "list").stdout
    assert "1 row   mandatory  sales_" in refused
    assert "file refused  notes." in refused


# The fourth corrected a file of the first, whose other file returned when the second was undone.
@pytest.mark.parametrize(
    ("commit", "runs", "all_marts"), [(_FIRST, (5, 4, 1), False), (_SECOND, (5,), True)]
)
def test_the_next_day_and_the_undo_of_old_runs_are_right(
    tmp_path: Path, called: Called, commit: str, runs: tuple[int, ...], all_marts: bool
) -> None:
    """The marts are the judges', also without runs that the earlier version made."""
    earlier = _unpacked(commit, "shop", tmp_path)
    if not all_marts:
        keep_only(earlier.folder, marts=[*story.TILL_MARTS, "loyalty", "day_visits", *_MARKET])
    earlier.shop.drop("sales_f.csv", story.SALES["f"])
    earlier.shop.drop("market1/orders_c.csv", story.MARKETS["market1/orders_c.csv"])
    done = called(earlier.folder, "run", "--as-of", _NEXT_DAY)
    assert done.returncode == 0, done.stderr
    told = [done.stderr.count(words) for words in _OLD_SETTINGS]
    assert told == [int(commit == _SECOND)] * 3
    brought = {
        1: (("a1", "b1"), list(story.MARKETS)[:3]),
        4: (("b2", "d"), ["market2/orders_a.csv"]),
        5: (("repaired", "e"), ["market1/orders_b.csv"]),
        6: (("f",), ["market1/orders_c.csv"]),
    }
    _assert_judged(earlier, tmp_path / "all", brought)
    refused = called(earlier.folder, "undo", "4")
    assert refused.returncode == 1
    assert "retailmart undo 5" in refused.stderr
    for run in runs:
        done = called(earlier.folder, "undo", str(run))
        assert done.returncode == 0, done.stderr
        del brought[run]
        _assert_judged(earlier, tmp_path / f"without_{run}", brought)
    done = called(earlier.folder, "verify", "--database")
    assert done.returncode == 0, done.stdout


def test_an_open_row_of_the_sample_is_repaired(tmp_path: Path, called: Called) -> None:
    """What an earlier version refused is exported, replayed and counted once; all is as judged."""
    earlier = _unpacked(_FIRST, "sample", tmp_path)
    folder, sheet = earlier.folder, tmp_path / "sheet.csv"
    assert called(folder, "quarantine", "export", "--feed", "sales", "--to", str(sheet)).stderr
    rows = list(csv.DictReader(io.StringIO(sheet.read_text("utf-8-sig"), newline="")))
    assert [row["customer_id"] for row in rows] == [""]
    rows[0]["customer_id"] = "1008"
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    sheet.write_text(text.getvalue(), "utf-8")
    assert called(folder, "quarantine", "replay", str(sheet)).returncode == 0
    done = called(folder, "run", "--as-of", "2024-04-02")
    assert done.returncode == 0, done.stderr
    open_rows = called(folder, "quarantine", "list").stdout
    assert "1 row closed" in open_rows
    assert "mandatory" not in open_rows
    repaired = tmp_path / "sales_repaired.csv"
    kept = [name for name in rows[0] if not name.startswith("_")]
    lines = [",".join(row[name] for name in kept) for row in rows]
    repaired.write_text("\n".join([",".join(kept), *lines]) + "\n")
    first, _ = sorted((folder / "archive" / "processed").iterdir())
    as_of, shop_db = _moment("2024-04-02"), folder / "shop.db"
    sales = [*sorted(first.glob("sales*")), repaired]
    _assert_till(earlier.shop, expected_marts(sales, shop_db, as_of))
    others = sorted(path.relative_to(first).as_posix() for path in first.glob("market*/*"))
    judged = webshop_marts(shop_db, as_of) | market_marts(first, others)
    assert differences(earlier.shop, judged) == []


@pytest.mark.parametrize(
    ("commit", "killed"),
    [
        (_FIRST, "commit"),
        (_FIRST, "mark_done"),
        (_SECOND, "prepare"),
        (_SECOND, "mark_published"),
    ],
)
def test_a_batch_that_an_earlier_version_left_unfinished_is_finished(
    tmp_path: Path, called: Called, commit: str, killed: str
) -> None:
    """All tables are what that version would have made of it; then the killed run is undone."""
    earlier = _unpacked(commit, killed, tmp_path)
    done = called(earlier.folder, "run", "--as-of", "2024-03-10")
    assert done.returncode == 0, done.stderr
    assert "recovered" in done.stderr
    assert tables_of(earlier.folder) == earlier.expected
    done = called(earlier.folder, "undo", "2", "--as-of", "2024-03-10")
    assert done.returncode == 0, done.stderr
    files = _written(tmp_path / "counted", {key: story.SALES[key] for key in _BEGUN})
    shop_db = earlier.folder / "shop.db"
    _assert_till(earlier.shop, expected_marts(files, shop_db, _moment("2024-03-10")))


def _assert_judged(
    earlier: Earlier, folder: Path, brought: Mapping[int, tuple[Iterable[str], list[str]]]
) -> None:
    """All marts are what the judges make of the files that these runs brought."""
    shop_db, as_of = earlier.folder / "shop.db", _moment(_NEXT_DAY)
    sales = [key for keys, _ in brought.values() for key in keys]
    if "b2" in sales and "b1" in sales:  # the correction
        sales.remove("b1")
    files = _written(folder, {key: story.SALES[key] for key in sales})
    _assert_till(earlier.shop, expected_marts(files, shop_db, as_of))
    paths = [path for _, paths in brought.values() for path in paths]
    for path in paths:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(story.MARKETS[path])
    judged = webshop_marts(shop_db, as_of) | market_marts(folder, paths)
    there = {path.stem for path in (earlier.folder / "marts").iterdir()}
    judged = {name: rows for name, rows in judged.items() if name in there}
    assert set(judged) >= set(_MARKET)
    assert differences(earlier.shop, judged) == []
    totals: Counter[int] = Counter()
    for customer, *_, cents in earlier.shop.mart(
        "customer_mart", "customer_id, CAST(total_cost * 100 AS BIGINT)"
    ):
        totals[customer] += cents
    points = {customer: cents // 100 for customer, cents in totals.items()}
    assert dict(earlier.shop.published("loyalty_points")) == points
    visitors = [("2024-02-01", 12), ("2024-02-03", 7)] if 1 in brought else []
    assert earlier.shop.published("day_visits") == visitors


def _assert_till(shop: Shop, expected: Marts) -> None:
    """The till's marts, in the lake and published."""
    for mart, columns in COLUMNS.items():
        listed = ", ".join(columns)
        assert Counter(shop.mart(mart, listed)) == expected[mart], mart
        if mart in PUBLISHED:
            shown = in_cents(mart, shop.published(mart, listed))
            assert shown == in_cents(mart, expected[mart].elements()), mart


def _written(folder: Path, files: Mapping[str, str]) -> list[Path]:
    folder.mkdir()
    paths = []
    for key, content in files.items():
        paths.append(folder / f"sales_{key}.csv")
        paths[-1].write_text(content)
    return paths


def _moment(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def test_the_page_on_upgrades_followed_word_for_word(tmp_path: Path, called: Called) -> None:
    """On a project of the first release: its ledger is shown, updated, and all is right."""
    folder = _unpacked(_FIRST, "shop", tmp_path).folder
    lines = commands("docs/upgrades.md")
    assert [line.split()[1] for line in lines] == ["status", "check", "run", "verify"]
    for line in lines:
        done = called(folder, *line.split()[1:])
        assert done.returncode == 0, f"{line}: {done.stderr}"
