"""Secrets: a small cut of the campaign, and proof that each planted secret is found."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from pyarrow import parquet, table
from tests.support.amount import SEED, tries
from tests.support.services.mariadb import DatabaseServer, MariaDB

from chaos import leaks
from chaos.files import Findings
from chaos.leaks import Canary, Finder, ProcessWatch

CANARY = Canary("planted", "qTzPlantedSecretWxvB")
VALUE = CANARY.value


def heard(_words: str) -> None:
    """Nobody listens."""


@pytest.mark.long
def test_secrets_appear_nowhere(tmp_path: Path, mariadb: DatabaseServer) -> None:
    """Commands that go well, fail and are killed tell and leave no secret."""
    if not isinstance(mariadb, MariaDB):
        pytest.skip("accounts whose passwords are canaries need a server of our own")
    result = leaks.run(SEED, tries(4, 30), tmp_path, print, mariadb, good=tries(4, 14))
    assert not any(result.faults.values()), "\n".join(result.notes)
    assert result.tries["known"] > 150
    for kind in ("output", "files", "cells of the ledger's database", "objects", "repr"):
        assert result.tries[f"{kind} searched"]


def packed_as_parquet(value: str, folder: Path) -> bytes:
    parquet.write_table(table({"a": [value] * 100}), folder / "x.parquet", compression="zstd")
    return (folder / "x.parquet").read_bytes()


@pytest.mark.parametrize(
    "form",
    [
        lambda value, _: value.encode(),
        lambda value, _: quote(value, safe="").encode(),
        lambda value, _: quote_plus(value).encode(),
        lambda value, _: repr(value).encode(),
        lambda value, _: json.dumps({"a": value}).encode(),
        lambda value, _: json.dumps(json.dumps(value)).encode(),
        lambda value, _: value.upper().encode(),
        lambda value, _: value.encode("utf-16-le"),
        lambda value, _: value.encode().hex().encode(),
        lambda value, _: b64encode(f"user:{value}".encode()),
        lambda value, _: b64encode(f"me:{value}".encode()),
        lambda value, _: urlsafe_b64encode(value.encode()),
        lambda value, _: zlib.compress(json.dumps([value]).encode(), 1),
        lambda value, _: gzip.compress(gzip.compress(value.encode())),
        packed_as_parquet,
    ],
)
def test_a_secret_is_found_in_every_form(
    form: Callable[[str, Path], bytes], tmp_path: Path
) -> None:
    """Escaped, encoded, packed or as a cell of Parquet: it is found, and nothing else is."""
    finder = Finder([CANARY])
    assert finder.find(b"before " * 9 + form(VALUE, tmp_path) + b" after", "x") == {"planted"} or (
        finder.find(form(VALUE, tmp_path), "x") == {"planted"}
    )
    assert not finder.find(form("p@:/%41#?&='\"$ another", tmp_path), "x")


def test_a_secret_is_found_in_files_and_their_names(tmp_path: Path) -> None:
    """In a file's content, and in a name."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log.gz").write_bytes(gzip.compress(VALUE.encode()))
    (tmp_path / f"x{CANARY.plain}").touch()
    found = Findings()
    Finder([CANARY]).in_folder(tmp_path, found, "here")
    assert found.faults["files"] == 2


def test_a_secret_is_found_in_cells() -> None:
    """In a packed blob of a database's table, among other values."""
    cells = [1, None, "x", zlib.compress(f'{{"url": "mysql://u:{CANARY.plain}@h"}}'.encode())]
    assert Finder([CANARY]).in_values(cells, "cells") == {"planted"}
    assert not Finder([CANARY]).in_values(cells[:3], "cells")


def test_a_secret_is_found_in_the_process_list() -> None:
    """On the command line of another process, as soon as its program runs.

    The kernel shows an empty command line for a moment after `exec`: the child says when it runs.
    """
    waits = "import sys; print(flush=True); sys.stdin.read()"
    with ProcessWatch(Finder([CANARY])) as watch:
        assert not watch.seen
        command = [sys.executable, "-c", waits, f"--password={CANARY.plain}"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            watch.look()
            process.communicate(b"")
        assert watch.seen == {"planted"}
