"""What a project looks like: all that must be the same whether or not its runs were disturbed.

Keys of files and batches are told by their rank: a database gives no key of a lost transaction
again. Times, and the numbers of runs, are left out: a killed run is a run too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from retailmart.lake.places import Place
    from retailmart.project import Project

ProjectState = dict[str, Any]
Content = Callable[[], bytes]
TABLES = ("raw", "quarantine", "marts", "published")
FAULTS = ("lost", "doubled", "unreadable", "differs")

_STAMP = re.compile(r"\d{8}_\d{6}")
_ORIGIN = re.compile(r"^(\d+)#(\d+)$")


@dataclass(frozen=True)
class Differs:
    """How a project that was disturbed differs from one that was not."""

    faults: Counter[str]
    words: str


def state_of(folder: Path) -> ProjectState:
    """Everything of a project, in values that JSON holds."""
    import retailmart
    from retailmart.engines.duckdb import DuckDBEngine

    opened = retailmart.open_project(folder)
    project = opened.project
    lake = opened.lake
    engine = DuckDBEngine([lake.place], folder / ".retailmart", None, 2)
    with opened.ledger() as ledger, ledger.engine.connect() as connection:

        def told(query: str) -> list[list[Any]]:
            return [[_plain(value) for value in row] for row in connection.exec_driver_sql(query)]

        names = _Names(
            told("SELECT file_id, path, sha256 FROM retailmart_files ORDER BY file_id"),
            told("SELECT batch_id FROM retailmart_batches ORDER BY batch_id"),
        )

        def rows(table: str) -> list[str]:
            state = lake.state(table)
            if state is None:
                return ["no such table"]
            columns = [field.name for field in state.fields]
            return names.named(columns, engine.rows(f"SELECT * FROM {engine.define(state)}"))

        feeds, marts = sorted(project.feeds), sorted(project.marts.values(), key=lambda m: m.name)
        there = set(_tables(connection))  # marts without a source are not available
        shown = {mart.publish_as for mart in marts if mart.publish_as in there}
        found = {
            "raw": {name: rows(f"raw/{name}") for name in feeds},
            "quarantine": {name: rows(f"quarantine/{name}") for name in feeds},
            "marts": {mart.name: rows(f"marts/{mart.name}") for mart in marts},
            "published": {
                name: sorted(map(repr, told(f"SELECT * FROM {name}"))) for name in sorted(shown)
            },
            "ledger": _ledger(told, names),
            "tables of the database": _tables(connection),
        }
    engine.close()
    settings = project.settings
    return found | {
        "landing": _digests(_files(project, settings.landing)),
        "archive": _digests(_files(project, settings.archive)),
        "orphans": sorted(_orphans(_files(project, settings.lake))),
        "snapshots": sorted(_snapshots(_files(project, settings.lake))),
        "left lying": sorted(_left_lying(folder / ".retailmart", lake.place)),
    }


class _Names:
    """Names for keys that hold whatever keys were skipped."""

    def __init__(self, files: list[list[Any]], batches: list[list[Any]]) -> None:
        self.files: dict[int | None, str | None] = {None: None}
        for file_id, path, digest in files:
            self.files[file_id] = f"{path} {digest[:8]}"
        self.batches: dict[int | None, int | None] = {None: None}
        self.batches |= {row[0]: rank for rank, row in enumerate(batches, 1)}

    def named(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
        """Rows as texts, their keys replaced by names; sorted."""
        how = [
            self._of_file
            if name in ("_file_id", "file_id", "supersedes", "origin_file_id")
            else self._of_batch
            if name == "batch_id"
            else self._of_origin
            if name in ("_origin", "origin")
            else None
            for name in columns
        ]
        named = (
            [tell(value) if tell else value for tell, value in zip(how, row, strict=True)]
            for row in rows
        )
        return sorted(map(repr, named))

    def _of_file(self, key: Any) -> Any:
        return self.files.get(key, f"no file {key}")

    def _of_batch(self, key: Any) -> Any:
        return self.batches.get(key, f"no batch {key}")

    def _of_origin(self, text: Any) -> Any:
        found = _ORIGIN.match(text or "")
        return f"{self._of_file(int(found[1]))}#{found[2]}" if found else text


def _ledger(told: Any, names: _Names) -> dict[str, list[str]]:
    """The ledger without times, and what must be nowhere in it."""
    tables = {
        "files": "file_id, batch_id, path, sha256, state, feed, folder, message, supersedes,"
        " records, loaded, quarantined",
        "file_months": "file_id, month, row_count, amount",
        "table_months": "table_name, month, row_count, amount",
        "batches": "batch_id, as_of, state, undoes",
        "replays": "file_id, origin_file_id, origin_line",
        "marts": "name, fingerprint, published_as, published_version, published_fingerprint",
        "sources": "name, digest",
        "commits": "batch_id, table_name",
    }
    found = {}
    for table, columns in tables.items():
        rows = told(f"SELECT {columns} FROM retailmart_{table}")
        found[table] = names.named(columns.split(", "), rows)
    held = "SELECT holder FROM retailmart_lease WHERE holder IS NOT NULL"
    found["lease held by"] = sorted(map(repr, told(held)))
    running = "SELECT state FROM retailmart_runs WHERE state = 'running'"
    found["runs that still run"] = sorted(map(repr, told(running)))
    return found


def _tables(connection: Any) -> list[str]:
    from sqlalchemy import inspect

    return sorted(inspect(connection).get_table_names())


def _digests(files: Mapping[str, Content]) -> list[str]:
    told = (f"{_STAMP.sub('STAMP', n)} {sha256(get()).hexdigest()[:8]}" for n, get in files.items())
    return sorted(told)


def _orphans(files: Mapping[str, Content]) -> Iterator[str]:
    """Data files that no entry of their table's log has ever named."""
    logged: dict[str, set[str]] = {}
    for name, get in files.items():
        table, log, entry = name.partition("/_delta_log/")
        if log and entry.endswith(".json"):
            for line in get().decode().splitlines():
                if add := json.loads(line).get("add"):
                    logged.setdefault(table, set()).update((add["path"], unquote(add["path"])))
        if log and entry.endswith(".checkpoint.parquet"):
            for path in _in_checkpoint(get()):
                logged.setdefault(table, set()).update((path, unquote(path)))
    for name in files:
        table, path = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
        if is_snapshot(name):
            continue
        if not path.startswith("_delta_log/") and path not in logged.get(table, ()):
            yield name


def _in_checkpoint(content: bytes) -> Iterator[str]:
    """The files that a checkpoint names: what the log before it said, which may be gone."""
    import pyarrow.parquet as pq

    for action in ("add", "remove"):
        for row in pq.read_table(BytesIO(content), columns=[action]).column(action).to_pylist():
            if row is not None and row["path"] is not None:
                yield row["path"]


def is_snapshot(key: str) -> bool:
    """Whether a file of the lake is one of a dated snapshot that is whole: no log names it."""
    return key.startswith("business_insights/") and "/.half/" not in key


def _snapshots(files: Mapping[str, Content]) -> Iterator[str]:
    """The folders of dated snapshots and the rows in each, whatever files they are divided into."""
    rows: dict[str, list[str]] = {}
    for name, content in files.items():
        if is_snapshot(name) and name.endswith(".parquet"):
            rows.setdefault(name.rpartition("/")[0], []).extend(_rows_in(content()))
        elif is_snapshot(name):
            yield name
    for folder, found in rows.items():
        text = "\n".join(sorted(found)).encode("utf-8", "surrogateescape")
        yield f"{folder} {len(found)} rows {sha256(text).hexdigest()[:8]}"


def _rows_in(parquet: bytes) -> list[str]:
    """The rows without the numbers of their files: a shop that died early has given fewer."""
    import pyarrow.parquet as pq

    table = pq.read_table(BytesIO(parquet))
    plain = [name for name in table.column_names if not name.startswith("_")]
    return [repr(row) for row in table.select(plain).to_pylist()]


def _files(project: Project, place: str) -> dict[str, Content]:
    """What lies in a place, seen past the product's own reading of it."""
    if place.startswith("s3://"):
        return _in_bucket(project, place)
    root = project.folder / place
    return {
        path.relative_to(root).as_posix(): path.read_bytes
        for path in root.rglob("*")
        if not path.is_dir()
    }


def _in_bucket(project: Project, place: str) -> dict[str, Content]:
    import obstore

    from retailmart.session import store_at
    from retailmart.storage.s3 import S3Folder

    folder = store_at(project, place)
    assert isinstance(folder, S3Folder)
    store = folder._store  # the credentials and the endpoint are all that is taken from it

    def content(key: str) -> Content:
        return lambda: bytes(obstore.get(store, key).bytes())

    keys = (meta["path"] for part in obstore.list(store, folder.prefix) for meta in part)
    return {key.removeprefix(f"{folder.prefix}/"): content(key) for key in keys}


def _left_lying(private: Path, place: Place) -> Iterator[str]:
    """What a run leaves in its own folder: nothing but the lock, and copies of remote files."""
    cache = private / "lake"
    for path in private.rglob("*"):
        is_copy = path.is_relative_to(cache) and path.suffix == ".parquet"
        if not path.is_dir() and path.name != "lock" and not (is_copy and place.options()):
            yield path.relative_to(private).as_posix()


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bytes | None) else str(value)


# how two states differ


def compare(
    end: ProjectState, found: ProjectState, *, only: Sequence[str] | None = None
) -> Differs | None:
    """What is lost, doubled or otherwise not as in `end`; None where all is as it should be."""
    faults = Counter[str]()
    words = []
    for part in only or end:
        if part in TABLES:
            for table, expected in end[part].items():
                lost = Counter(expected) - Counter(found[part].get(table, ()))
                doubled = Counter(found[part].get(table, ())) - Counter(expected)
                faults += Counter({"lost": bool(lost), "doubled": bool(doubled)})
                if lost or doubled:
                    words.append(f"{part} {table}: lost {_few(lost)}, too many {_few(doubled)}")
        elif end[part] != found[part]:
            faults["differs"] += 1
            words.append(f"{part}: {_apart(end[part], found[part])}")
    return Differs(faults, "; ".join(words)) if words else None


def _apart(one: Any, other: Any) -> str:
    if isinstance(one, dict):
        parts = (f"{key}: {_apart(one[key], other[key])}" for key in one if one[key] != other[key])
        return ", ".join(parts)
    missing = Counter(map(repr, one)) - Counter(map(repr, other))
    more = Counter(map(repr, other)) - Counter(map(repr, one))
    return f"missing {_few(missing)}, more {_few(more)}"


def _few(rows: Counter[str], count: int = 3) -> str:
    shown = ", ".join(list(rows)[:count])
    return f"{sum(rows.values())} ({shown})" if rows else "none"
