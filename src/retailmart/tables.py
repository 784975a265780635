"""The values that engines and the lake exchange: fields, data files, table states."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from retailmart.project.types import ColumnType, parse_type

if TYPE_CHECKING:
    import pyarrow as pa

Statistic = int | str | bool

# What an engine adds to the records of files that it reads: the key of the file, or the record's
# number.
FILE_ID: Final = "_file_id"
ROW: Final = "_row"


@dataclass(frozen=True)
class Field:
    """A column of a table: its name and type."""

    name: str
    type: ColumnType


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table.

    `path` is relative to the table's folder, `size` in bytes; `partition` gives the values of the
    partition columns, which are not in the file; statistics are per column, strings left out.
    """

    path: str
    size: int
    rows: int
    partition: Mapping[str, str | None] = field(default_factory=dict)
    minimum: Mapping[str, Statistic] = field(default_factory=dict)
    maximum: Mapping[str, Statistic] = field(default_factory=dict)
    nulls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TableState:
    """A table at one version: everything needed to read it. `root` is an absolute folder."""

    root: str
    fields: tuple[Field, ...]
    partition_by: tuple[str, ...]
    files: tuple[DataFile, ...]

    def only(self, files: Iterable[DataFile]) -> TableState:
        """The same table seen through some of its files."""
        return TableState(self.root, self.fields, self.partition_by, tuple(files))

    def in_months(self, months: Iterable[str | None]) -> TableState:
        """The part of a table (partitioned by month first) with these `months` ('YYYY-MM')."""
        wanted = set(months)
        return self.only(f for f in self.files if f.partition[self.partition_by[0]] in wanted)

    @property
    def months(self) -> frozenset[str]:
        """The months that hold rows, for a table partitioned by month first."""
        if not self.partition_by:
            return frozenset()
        values = (f.partition[self.partition_by[0]] for f in self.files)
        return frozenset(value for value in values if value is not None)


@dataclass(frozen=True)
class Written:
    """What an engine wrote: the files, and the fields of their rows, partition columns included.

    `left_out` counts rows that have no value in the first partition column; they are in no file.
    """

    fields: tuple[Field, ...]
    files: tuple[DataFile, ...]
    left_out: int = 0

    @property
    def rows(self) -> int:
        """How many rows the files hold."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class TableChange:
    """What a batch does to one table: files in, files out (by path), in one commit."""

    table: str
    fields: tuple[Field, ...]
    partition_by: tuple[str, ...]
    adds: tuple[DataFile, ...] = ()
    removes: tuple[str, ...] = ()

    def applied_to(self, root: str, before: TableState | None) -> TableState:
        """The table's state once this change is committed."""
        gone = set(self.removes)
        kept = tuple(f for f in before.files if f.path not in gone) if before else ()
        return TableState(root, self.fields, self.partition_by, kept + self.adds)

    def to_json(self) -> str:
        """A text that `from_json` reads back."""
        plain = asdict(self)
        plain["fields"] = [[f.name, str(f.type)] for f in self.fields]
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> TableChange:
        """The change that `to_json` wrote."""
        plain: dict[str, Any] = json.loads(text)
        return cls(
            table=plain["table"],
            fields=tuple(Field(name, parse_type(kind)) for name, kind in plain["fields"]),
            partition_by=tuple(plain["partition_by"]),
            adds=tuple(DataFile(**add) for add in plain["adds"]),
            removes=tuple(plain["removes"]),
        )


@dataclass(frozen=True)
class DatabaseAddress:
    """Where a database is, for code that opens its own connections; its password is never shown.

    `kind` is a scheme that the registry of databases knows. `session` are the variables that each
    connection sets, `timeouts` are in seconds, by the driver's names. With `tls` the host's name is
    verified; `authority` is then the certificate to trust as PEM text, unless everybody trusts it.
    """

    kind: str
    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    session: str
    tls: bool = False
    authority: str | None = None
    timeouts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Extract:
    """All rows of a database's table, for code that reads them over its own connections.

    Each of `queries` gives a part of the rows, all values as texts in columns `c0`, `c1`, …;
    `decode` turns such a batch into what `fields` say. `size` is in bytes, estimated by the server.
    """

    address: DatabaseAddress
    name: str
    fields: tuple[Field, ...]
    queries: tuple[str, ...]
    decode: Callable[[pa.RecordBatch], pa.RecordBatch]
    size: int = 0


def quoted(name: str) -> str:
    """An SQL identifier, safe whatever its characters."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(value: str) -> str:
    """An SQL string literal, safe whatever its characters."""
    return "'" + value.replace("'", "''") + "'"
