"""Make the projects of an earlier version again: python -m tests.upgrade.make CHECKOUT NAME KILLED…

CHECKOUT is a folder with that version's sources, as `git worktree add` makes it; NAME.tar.xz is
written beside this file. Only that version's command line touches the projects. For each KILLED, a
method of the ledger or the lake, there is a project whose second run was killed at its call.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.upgrade import story
from tests.upgrade.reading import tables_of

_HERE = Path(__file__).parent
# Whole seconds, so that an archive keeps them as they are.
_LANDED_AT = 1_700_000_000
_KEPT_OF_SAMPLE = (
    *("sales_2024-01-01.csv", "sales_2024-01-29.csv.gz", "sales_2024-02-12.csv"),
    *("sales_2024-02-12 (1).csv", "sales_2024-03-11.csv", "sales_2024-03-31_till_9.csv"),
    *("stocklist.xlsx", "notes.csv", "orders_2024-01.csv", "deliveries_2024-01.csv"),
    *("users.json", "users.jsonl"),
)
_LINES = slice(36, 46)  # of each file of the sample, below its header: line 42 may be malformed


@dataclass(frozen=True)
class Earlier:
    """An earlier version's command line."""

    checkout: Path

    def __call__(self, project: Path, *words: str) -> str:
        """What it prints. CalledProcessError if it fails."""
        return self._python("-m", "retailmart", *words, "--project", str(project))

    def init(self, project: Path, *words: str) -> None:
        """Write a new project."""
        self._python("-m", "retailmart", "init", str(project), *words)

    def killed(self, project: Path, where: str, *words: str) -> None:
        """The same, and the process ends at once when it calls the method `where` of its ledger.

        A method of the lake is cut off at its second call.
        """
        code = (
            "import os, sys\n"
            "from retailmart.ledger import Ledger\n"
            "from retailmart.lake import Lake\n"
            "from retailmart.cli import main\n"
            f"owner = Lake if {where!r} == 'commit' else Ledger\n"
            f"calls, method = [], getattr(owner, {where!r})\n"
            "def killed(*args, **more):\n"
            "    calls.append(args)\n"
            "    if owner is Ledger or len(calls) == 2:\n"
            "        os._exit(9)\n"
            "    return method(*args, **more)\n"
            f"setattr(owner, {where!r}, killed)\n"
            "main()\n"
        )
        try:
            self._python("-c", code, *words, "--project", str(project))
        except subprocess.CalledProcessError as error:
            if error.returncode == 9:
                return
            raise
        raise AssertionError(f"nothing called {where}")

    def _python(self, *words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.checkout / "src")}
        done = subprocess.run(
            [sys.executable, *words],
            env=environment,
            cwd=self.checkout,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return done.stdout


def main() -> None:
    """Make all projects, and the archive."""
    checkout, name = Path(sys.argv[1]).resolve(), sys.argv[2]
    earlier = Earlier(checkout)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        expected = {}
        for project, make in {"shop": _shop, "sample": _sample}.items():
            make(earlier, root / project)
            expected[project] = tables_of(root / project)
        _till(earlier, root / "till")
        for where in sys.argv[3:]:
            shutil.copytree(root / "till", root / where)
            expected[where] = _cut_off(earlier, root / where, where)
        shutil.rmtree(root / "till")
        (root / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=0))
        _pack(root, _HERE / f"{name}.tar.xz")


def _shop(earlier: Earlier, project: Path) -> None:
    """Five runs: files and tables of all kinds, a correction, an undo, repaired rows."""
    earlier.init(project)
    for path, content in story.OWN.items():
        (project / path).write_text(content)
    if "jdbc_jar" in (earlier.checkout / "src/retailmart/project/settings.py").read_text():
        with (project / "retailmart.yml").open("a") as settings:
            settings.write(story.SPARK)
    _execute(project, story.TABLES)
    for run, day in story.DAYS.items():
        if run == 4:
            earlier(project, "undo", "2")
            _execute(project, story.CHANGES)
        if run == 5:
            _execute(project, story.LATE)
            _replay(earlier, project)
        _drop(project, story.RUNS[run])
        earlier(project, "run", "--as-of", day)


def _replay(earlier: Earlier, project: Path) -> None:
    """The row with the 32nd of March is repaired, the other stays open."""
    sheet = project.parent / "sheet.csv"
    earlier(project, "quarantine", "export", "--feed", "sales", "--to", str(sheet))
    rows = list(csv.reader(io.StringIO(sheet.read_text(encoding="utf-8-sig"), newline="")))
    day = rows[0].index("sales_date")
    for row in rows:
        row[day] = row[day].replace("2024-03-32", "2024-03-02")
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    sheet.write_text(text.getvalue(), encoding="utf-8-sig")
    earlier(project, "quarantine", "replay", str(sheet))
    sheet.unlink()
    for path in (project / "landing").glob("*.csv"):
        os.utime(path, (_LANDED_AT, _LANDED_AT))


def _sample(earlier: Earlier, project: Path) -> None:
    """The sample shop, cut to some weeks and the first lines of each file; one run."""
    earlier.init(project, "--sample")
    for path in sorted((project / "landing").rglob("*")):
        if path.is_file() and path.name not in _KEPT_OF_SAMPLE:
            path.unlink()
        elif path.suffix in (".csv", ".jsonl", ".gz"):
            content = path.read_bytes()
            packed = path.suffix == ".gz"
            lines = (gzip.decompress(content) if packed else content).splitlines(keepends=True)
            content = b"".join([*lines[:1], *lines[_LINES]])
            path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
        elif path.suffix == ".json":
            path.write_text(json.dumps(json.loads(path.read_text())[_LINES]))
        if path.is_file():
            os.utime(path, (_LANDED_AT, _LANDED_AT))
    _execute(
        project,
        "DELETE FROM customer WHERE customer_id % 16 <> 0;"
        "DELETE FROM customers WHERE customer_id % 20 <> 0;"
        "DELETE FROM orders WHERE order_id % 60 <> 0;"
        "DELETE FROM order_items WHERE order_id % 60 <> 0;"
        "DELETE FROM products WHERE product_id > 12;"
        "DELETE FROM product_inventory WHERE product_id > 12;",
    )
    with closing(sqlite3.connect(project / "shop.db")) as connection:
        connection.execute("VACUUM")
    earlier(project, "run", "--as-of", "2024-04-01")


def _till(earlier: Earlier, project: Path) -> None:
    """A project of till sales alone, with one run."""
    earlier.init(project)
    for path in (project / "marts").iterdir():
        if path.stem not in story.TILL_MARTS:
            path.unlink()
    for path in (project / "tables").iterdir():
        if path.stem not in story.TILL_TABLES:
            path.unlink()
    for path in (project / "feeds").iterdir():
        if path.stem != "sales":
            path.unlink()
    _execute(project, story.TABLES)
    _drop(project, {"sales_a.csv": story.SALES["a1"], "sales_b.csv": story.SALES["b1"]})
    earlier(project, "run", "--as-of", story.DAYS[1])


def _cut_off(earlier: Earlier, project: Path, where: str) -> dict[str, list[str]]:
    """Kill the project's second run; gives what the same version makes of it by one run more."""
    _drop(project, {"sales_b.csv": story.SALES["b2"], "sales_d.csv": story.SALES["d"]})
    earlier.killed(project, where, "run", "--as-of", story.DAYS[4])
    # The original goes on: only there is the lease of the killed process known to be void.
    copy = project.with_name("copy")
    shutil.copytree(project, copy)
    earlier(project, "run", "--as-of", story.DAYS[4])
    expected = tables_of(project)
    shutil.rmtree(project)
    copy.rename(project)
    with closing(sqlite3.connect(project / "retail.db")) as connection, connection:
        connection.execute(
            "UPDATE retailmart_lease SET holder = 'till:/srv/shop/.retailmart/lock'"
            " WHERE holder IS NOT NULL"
        )
    return expected


def _execute(project: Path, statements: str) -> None:
    with closing(sqlite3.connect(project / "shop.db")) as connection:
        connection.executescript(statements)


def _drop(project: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = project / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (_LANDED_AT, _LANDED_AT))


def _pack(root: Path, archive: Path) -> None:
    """All files in the order of their names, owned by nobody; closed databases need no log."""
    with tarfile.open(archive, "w:xz", format=tarfile.PAX_FORMAT, preset=9) as packed:
        for path in _walked(root):
            packed.add(path, path.relative_to(root).as_posix(), recursive=False, filter=_anonymous)
    print(f"{archive.name}: {archive.stat().st_size:,} bytes")


def _walked(root: Path) -> Iterator[Path]:
    """What belongs to the projects; editors' schemas are written by `init` and read by nobody."""
    for path in sorted(root.rglob("*")):
        if ".schema" not in path.parts and not path.name.endswith(("-wal", "-shm")):
            yield path


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = int(entry.mtime)
    return entry


if __name__ == "__main__":
    main()
