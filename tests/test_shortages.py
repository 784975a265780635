"""What the machine lacks is one sentence with a cure, and the next run goes on."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from retailmart.errors import Shortage
from retailmart.session import Session
from retailmart.shortages import shortage_in, shortage_of, shortages_told
from tests.support.amount import SEED, tries
from tests.support.disks import fill, mounted
from tests.support.shop import Called, Shop, sale
from tests.support.stopped import STEPS

_STEPS = tuple(step for step in STEPS if step != "export")
_ERRORS: dict[str, Callable[[], Exception]] = {
    "the disk is full: /no/such/file": lambda: OSError(errno.ENOSPC, "x", "/no/such/file"),
    "the account's quota": lambda: OSError(errno.EDQUOT, "x"),
    "too many files are open": lambda: OSError(errno.EMFILE, "x"),
    "the memory is not enough": MemoryError,
    "the memory is not enough ": lambda: ImportError("libx.so: failed to map segment from shared"),
    "the memory is not enough  ": lambda: RuntimeError("can't start new thread"),
    "mounted read-only: /no": lambda: OSError(errno.EROFS, "x", "/no"),
    "this account may not read or write: /no": lambda: OSError(errno.EACCES, "x", "/no"),
    "the disk is full: /lake/a b.parquet": lambda: duckdb.IOException(
        'IO Error: Could not write file "/lake/a b.parquet": No space left on device'
    ),
}


@pytest.fixture
def marts() -> Collection[str]:
    """Two marts, and one that is not published."""
    return ("customer_mart", "customer_monthly_purchase", "sales_mart")


def run(at: Path, limit: tuple[int, int] | None = None) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, within a limit of the system."""

    def limited() -> None:
        if limit:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    return subprocess.run(
        [sys.executable, "-m", "retailmart", "run", "--as-of", "2024-04-01"],
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
    )


def assert_told(done: subprocess.CompletedProcess[str]) -> None:
    """One sentence, a cure in the next line; no SELECT is blamed and no traceback shown."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    first, cure = re.findall(r"^retailmart: (.*)\n  (.*)$", done.stderr, re.MULTILINE)[-1]
    assert ".sql:" not in first
    words = r"full|used up|no more files|memory|open|read-only|may not|larger|unable|I/O"
    assert re.search(words, first), first
    assert re.search(r"[Rr]un again|retailmart run|Let this account", cure), cure


@pytest.mark.parametrize("said", _ERRORS)
def test_each_way_to_lack_something_is_known(said: str) -> None:
    """By its number, its class or its library's words; the cure comes with it."""
    found = shortage_of(_ERRORS[said]())
    assert isinstance(found, Shortage)
    assert said.strip() in found.message
    assert "retailmart run" in str(found.hint)


def test_what_a_library_in_rust_gives_up_for_is_told() -> None:
    """Its panic is no Exception in Python, and would pass every place that translates errors."""
    kind = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    with pytest.raises(Shortage, match="too many files are open"), shortages_told():
        raise kind("Failed to create a tokio runtime: Too many open files (os error 24)")
    with pytest.raises(KeyboardInterrupt), shortages_told():
        raise KeyboardInterrupt


def test_other_errors_are_not_taken_for_a_shortage() -> None:
    """A missing file is one, and a value of a row may say the same words as the system."""
    assert shortage_of(FileNotFoundError(errno.ENOENT, "x", "/no")) is None
    assert shortage_of(ValueError("no number: 'No space left on device'")) is not None
    assert shortage_of(KeyError("x")) is None
    assert shortage_in("Conversion Error: 'abc'") is None


def test_a_value_that_says_what_the_system_says_blames_the_value(shop: Shop) -> None:
    """The mart is held back, as its SELECT can't be computed: no disk is full."""
    (shop.folder / "marts" / "sales_mart.sql").write_text(
        "-- refresh: full\n-- key: [n]\n"
        "SELECT CAST('No space left on device' || customer_id AS INT) AS n FROM sales\n"
    )
    shop.sales("sales_1.csv", [sale()])
    (held,) = shop.run().held
    assert held.mart == "sales_mart"


def test_each_step_tells_what_it_lacks(
    shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step meets whichever shortage: exit code 1, the step, and then the run goes on."""
    chance = random.Random(SEED)
    original = Session.step

    for number in range(tries(6, 60)):
        step, said = chance.choice(_STEPS), chance.choice(list(_ERRORS))

        @contextmanager
        def failing(self: Session, name: str, step: str = step, said: str = said) -> Iterator[Any]:
            with original(self, name) as progress:
                if name == step:
                    raise _ERRORS[said]()
                yield progress

        shop.sales(
            f"sales_{number}.csv", [sale(number % 9 + 1, day=f"2024-01-{number % 28 + 1:02d}")]
        )
        with monkeypatch.context() as patched:
            patched.setattr(Session, "step", failing)
            done = called(shop.folder, "run", "--as-of", "2024-04-01")
        assert_told(done)
        assert said.strip() in done.stderr
        assert step == "lease" or f"failed in step {step}" in done.stderr
        if step != "lease":
            assert f"failed in {step}  " in called(shop.folder, "status").stdout
    assert called(shop.folder, "run", "--as-of", "2024-04-01").returncode == 0
    assert len(shop.mart("sales_mart", "store_id")) == number + 1


_PLACES = ("lake", "archive", "private", "ledger", "project")


def placed(shop: Shop, disk: Path, place: str) -> Path:
    """A copy of the shop of which something is on a small disk. Returns its folder."""
    home = disk / "shop" if place == "project" else disk.parent / f"shop on {place} ü"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(shop.folder, home)
    settings = home / "retailmart.yml"
    text = settings.read_text()
    if place in ("lake", "archive"):
        text = re.sub(rf"(?m)^{place}:.*", f"{place}: {disk}/{place} ü", text)
    if place == "ledger":
        text = re.sub(r"(?m)^database:.*", f"database: sqlite:///{disk}/retail.db", text)
    if place == "private":
        (home / ".retailmart").symlink_to(disk)
    settings.write_text(text)
    return home


@pytest.mark.long
def test_a_full_disk_is_told_wherever_it_is(shop: Shop, tmp_path: Path) -> None:
    """Lake, archive, ledger, the folder for temporary files, or all of it, at any fill."""
    chance = random.Random(SEED)
    shop.sales("sales_1.csv", [sale(n % 9 + 1, day=f"2024-0{n % 3 + 1}-11") for n in range(3000)])
    shop.sales("sales_2.csv", [sale(3, day="2024-02-31"), sale(4)])
    disk = tmp_path / "disk"
    places = chance.sample(_PLACES, len(_PLACES))
    for number in range(tries(5, 40)):
        place = places[number % len(places)]
        with mounted(disk, "size=24M"):
            home = placed(shop, disk, place)
            filler = fill(disk, chance.choice((0, 4096, chance.randrange(1 << 18))))
            done = run(home)
            if done.returncode:
                assert_told(done)
            filler.unlink()
            done = run(home)
            assert done.returncode == 0, f"{place}: {done.stderr}"
            assert "%" not in done.stderr  # paths are told as people write them
            opened = Shop(home)
            assert len(opened.mart("sales_mart", "store_id")) == 3001


@pytest.mark.parametrize(
    ("limit", "least", "most"),
    [
        (resource.RLIMIT_NOFILE, 8, 24),
        (resource.RLIMIT_FSIZE, 1 << 12, 1 << 16),
        (resource.RLIMIT_AS, 700 << 20, 1300 << 20),
    ],
    ids=["open files", "size of a file", "memory"],
)
def test_limits_of_the_process_are_told(shop: Shop, limit: int, least: int, most: int) -> None:
    """Few open files, small files, little memory: told, and without the limit all is well."""
    chance = random.Random(SEED)
    shop.sales("sales_1.csv", [sale(n % 9 + 1, day=f"2024-0{n % 3 + 1}-11") for n in range(900)])
    for _ in range(tries(1, 20)):
        done = run(shop.folder, (limit, chance.randrange(least, most)))
        # A library that is written in C may end the process itself; nothing can say more then.
        if done.returncode > 0:
            assert_told(done)
    assert run(shop.folder).returncode == 0
    assert len(shop.mart("sales_mart", "store_id")) == 900


def test_three_gigabytes_of_addresses_are_enough(shop: Shop) -> None:
    """`ulimit -v 3000000` is what shared machines give."""
    shop.sales("sales_1.csv", [sale()])
    done = run(shop.folder, (resource.RLIMIT_AS, 3_000_000 << 10))
    assert done.returncode == 0, done.stderr
    assert os.listdir(shop.folder / "landing") == []
