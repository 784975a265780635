"""Read a large table in parts, each over a connection of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.database.source import extract_of, read_part
from retailmart.engines import Engine, Relation
from retailmart.errors import Unavailable
from retailmart.project.table import ReadRules
from retailmart.tables import DataFile, Extract, TableState, Written

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine as Database

_ROWS_A_FILE = 500_000


@dataclass(frozen=True)
class Deferred:
    """A deferred scan: the engine reads the rows later, by `extract`."""

    database: Database
    extract: Extract
    rules: ReadRules

    def as_it_is_now(self) -> Deferred:
        """The same for the table as it is now, which may have other columns."""
        extract = extract_of(self.database, self.extract.name, 0, self.rules)
        return self if extract is None else replace(self, extract=extract)


@dataclass(frozen=True)
class ReadPart:
    """Reads a part of a database's table and writes its rows as files below `root`.

    It opens a connection for that on the machine where it runs. A part is a query and its number.
    """

    extract: Extract
    root: Path

    def __call__(self, engine: Engine, part: tuple[int, str]) -> Written:
        number, query = part
        files: list[DataFile] = []
        for chunk, rows in enumerate(_tables(read_part(self.extract, query), _ROWS_A_FILE)):
            values, prefix = engine.values(rows), f"{number:04d}-{chunk:04d}-"
            files += engine.write(f"SELECT * FROM {values}", self.root, prefix, ()).files
            engine.forget(values)
        return Written(self.extract.fields, tuple(files))


def _tables(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Batches combined until there are about `size` rows."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= size:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def fetch_parts(engine: Engine, extract: Extract) -> Relation:
    """Read a database's table in parts, in parallel if the engine has several machines."""
    parts = list(enumerate(extract.queries))
    root = engine.exchange()
    work = ReadPart(replace(extract, queries=()), root)
    try:
        written = engine.spread(work, parts, [extract.size // len(parts)] * len(parts))
    except Unavailable as error:
        raise Unavailable(
            error.message,
            "Run again; if it stays so, see that the database is up and that all machines of the"
            " engine reach it",
        ) from error
    files = tuple(file for one in written for file in one.files)
    return engine.define(TableState(str(root), extract.fields, (), files))
