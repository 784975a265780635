"""Large source tables read in parts: each row once, of one moment, as it would be read whole."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine as Source

from retailmart.database import open_database
from retailmart.database.source import extract_of, read_table
from retailmart.errors import RetailmartError, Unavailable
from retailmart.lake import Lake, place_of
from retailmart.ledger.values import SourceRecord
from retailmart.project.table import Reading, Table
from retailmart.sources import parts as parallel_read
from retailmart.sources.databases import Sources
from retailmart.sources.detect import probe
from retailmart.sources.load import load_table
from retailmart.sources.loaded import LoadedTable
from retailmart.sources.parts import ReadPart, fetch_parts
from retailmart.storage.local import LocalFolder
from retailmart.tables import Extract, TableState
from tests.database.test_source_on_mysql import TYPES, insert
from tests.support.services.mariadb import Database, DatabaseServer, MariaDB, make_certificates
from tests.support.side_by_side import SideBySide


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SideBySide]:
    """An engine that works on several parts at a time."""
    with closing(SideBySide([], tmp_path / "private")) as engine:
        yield engine


@pytest.fixture
def source(database: Database, tmp_path: Path) -> Iterator[Source]:
    """A database that is only read."""
    opened = open_database(database.url, tmp_path, must_exist=True)
    yield opened
    opened.dispose()


def extracted(source: Source, name: str, least: int = 0) -> Extract:
    """How a table is read in parts."""
    extract = extract_of(source, name, least)
    assert extract is not None
    return extract


def fetched(engine: SideBySide, source: Source, name: str) -> pa.Table:
    """A table read in parts, in the schema of one that is read whole."""
    extract = extracted(source, name)
    relation = fetch_parts(engine, extract)
    assert relation.fields == extract.fields
    batches = list(engine.batches(f"SELECT * FROM {relation}", 50_000))
    wanted = read_table(source, name).rows.schema
    return pa.Table.from_batches(batches, wanted) if batches else wanted.empty_table()


def sorted_by_all(rows: pa.Table) -> pa.Table:
    """Rows in an order that depends on nothing else."""
    return rows.sort_by([(name, "ascending") for name in rows.column_names])


# parts


def test_every_type_is_what_is_read_whole(
    engine: SideBySide, database: Database, source: Source
) -> None:
    """Each value of each type is the same, and so are NULL and the columns' types."""
    columns = ", ".join(f"`v {n}'` {kind}" for n, (kind, _, _) in enumerate(TYPES))
    database.execute(f"CREATE TABLE t (id INT PRIMARY KEY, {columns})")
    longest = max(len(values) for _, _, values in TYPES)
    for row in range(longest + 1):
        given = (values[row][0] if row < len(values) else "NULL" for _, _, values in TYPES)
        database.execute(
            "SET SESSION sql_mode = ''", f"INSERT INTO t VALUES ({row}, {', '.join(given)})"
        )
    found = fetched(engine, source, "t").sort_by("id")
    wanted = read_table(source, "t").rows
    assert found.num_rows == longest + 1
    for name in wanted.column_names:
        assert found.column(name).to_pylist() == wanted.column(name).to_pylist(), name


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("PRIMARY KEY (id)", 2),
        ("PRIMARY KEY (id, s)", 2),
        ("PRIMARY KEY (s, id)", 1),
        ("KEY (m)", 1),
    ],
)
def test_parts_of_a_table_meet_without_a_gap(
    engine: SideBySide,
    database: Database,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    parts: int,
) -> None:
    """Whatever the key, each row comes once: with gaps, below zero and twice the same."""
    monkeypatch.setattr(parallel_read, "_ROWS_A_FILE", 20_000)
    database.execute(f"CREATE TABLE t (id BIGINT, m DECIMAL(12,2), s VARCHAR(20), {key})")
    rows: list[tuple[Any, ...]] = [
        (n * 7 - 300_000, n / 100, f"s{n} 😀\\'") for n in range(110_000)
    ]
    rows += [(9_000_000_000, 0, "")] if "PRIMARY" in key else [(1, None, None), (1, None, None)]
    insert(database, "INSERT INTO t VALUES (%s, %s, %s)", rows)
    database.execute("ANALYZE TABLE t")
    extract = extracted(source, "t", 1)
    assert len(extract.queries) == parts
    assert extract.size > 1_000_000
    found = fetched(engine, source, "t")
    assert sorted_by_all(found).equals(sorted_by_all(read_table(source, "t").rows))


def test_a_part_is_written_in_files_of_about_a_size(
    engine: SideBySide,
    database: Database,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Files grow no larger than a machine can hold."""
    monkeypatch.setattr(parallel_read, "_ROWS_A_FILE", 50_000)
    database.execute("CREATE TABLE t (id INT, KEY (id))")
    insert(database, "INSERT INTO t VALUES (%s)", [(n,) for n in range(120_000)])
    extract = extracted(source, "t")
    root = tmp_path / "private" / "parts"
    written = ReadPart(extract, root)(engine, (3, extract.queries[0]))
    assert [file.rows for file in written.files] == [50_000, 50_000, 20_000]
    table = engine.define(TableState(str(root), written.fields, (), written.files))
    assert engine.rows(f"SELECT count(DISTINCT id), sum(id) FROM {table}") == [
        (120_000, 120_000 * 119_999 // 2)
    ]


def test_a_table_without_rows_keeps_its_types(
    engine: SideBySide, database: Database, source: Source
) -> None:
    """An empty table is a table."""
    database.execute("CREATE TABLE t (id INT PRIMARY KEY, m DECIMAL(12,2), b BLOB, d DATE)")
    assert fetched(engine, source, "t").num_rows == 0


@pytest.mark.parametrize(
    ("kind", "value"),
    [("DATE", "'0000-00-00'"), ("DATETIME", "'2024-00-00 00:00:00'")],
)
def test_a_value_that_fits_no_type_is_told_in_the_same_words(
    engine: SideBySide, database: Database, source: Source, kind: str, value: str
) -> None:
    """Table, column and fix, whoever has read the value."""
    database.execute(
        "SET SESSION sql_mode = ''",
        f"CREATE TABLE t (id INT PRIMARY KEY, v {kind})",
        f"INSERT INTO t VALUES (1, {value})",
    )
    with pytest.raises(RetailmartError) as caught:
        fetch_parts(engine, extracted(source, "t"))
    with pytest.raises(RetailmartError) as wanted:
        read_table(source, "t")
    assert caught.value.message.split(": a value")[0] == wanted.value.message.split(": a value")[0]
    assert caught.value.hint == wanted.value.hint


def test_small_tables_and_views_are_read_whole(database: Database, source: Source) -> None:
    """What has fewer rows than the limit, by the server's estimate, and what has none."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1), (2)",
        "CREATE VIEW v AS SELECT * FROM t",
        "ANALYZE TABLE t",
    )
    assert extract_of(source, "t", 2) is not None
    assert extract_of(source, "t", 3) is None
    assert extract_of(source, "v", 1) is None


# the way there


@pytest.mark.parametrize("trusted", [True, False])
def test_the_way_is_as_safe_as_the_runs_own(
    engine: SideBySide, mariadb: DatabaseServer, tmp_path: Path, trusted: bool
) -> None:
    """By TLS where the URL names an authority, and only to a server which that has signed for."""
    mariadb.require_ours("needs the server's authority")
    assert isinstance(mariadb, MariaDB)
    database = mariadb.database(require_tls=True)
    there = database.at(host="localhost")
    with there.connect(ssl={"ca": str(mariadb.ca)}, autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO t VALUES (1)")
    source = open_database(f"{there.url}?ssl_ca={mariadb.ca}", tmp_path, must_exist=True)
    extract = extracted(source, "t")
    source.dispose()
    if trusted:
        rows = fetch_parts(engine, extract)
        assert engine.rows(f"SELECT * FROM {rows}") == [(1,)]
    else:
        other = make_certificates(tmp_path / "other").ca.read_text()
        address = replace(extract.address, authority=other)
        with pytest.raises(RetailmartError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch_parts(engine, replace(extract, address=address))
    database.drop()


@pytest.mark.parametrize("wrong", [{"password": "hunter2-wrong"}, {"port": 9}])
def test_an_error_shows_no_password(
    engine: SideBySide, source: Source, database: Database, wrong: dict[str, Any]
) -> None:
    """Whatever goes wrong on the way, no part of the message holds it; where nobody answers, it
    says which machines must reach the database."""
    database.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    extract = extracted(source, "t")
    extract = replace(extract, address=replace(extract.address, **wrong))
    with pytest.raises(RetailmartError, match="source table 't' cannot be read: ") as caught:
        fetch_parts(engine, extract)
    assert isinstance(caught.value, Unavailable) == ("port" in wrong)
    if "port" in wrong:
        assert "all machines of the engine reach it" in str(caught.value.hint)
    assert extract.address.user not in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + repr(extract) + repr(engine.works)
    assert extract.address.password not in shown


# source tables in the lake


@dataclass
class Room:
    """A source's table `t`, and the lake it is brought to."""

    source: Source
    engine: SideBySide
    lake: Lake
    table: Table
    record: SourceRecord | None = None
    batches: list[int] = field(default_factory=list)
    loaded: LoadedTable | None = None

    def load(self) -> LoadedTable:
        """One batch."""
        sources = Sources(("shop",), lambda _: self.source, large=1)
        found = probe(sources, "shop", self.table, self.record)
        self.batches.append(len(self.batches) + 1)
        whole = partial(probe, sources, "shop", self.table, None)
        day, batch = date(2024, 1, 1), self.batches[-1]
        loaded = load_table(self.engine, self.lake, found, whole, day, batch)
        if loaded.change:
            self.lake.commit(loaded.change, batch)
        self.record, self.loaded = loaded.record, loaded
        return loaded

    def seen(self, columns: str = "id, v") -> list[tuple[Any, ...]]:
        """What marts see."""
        assert self.loaded is not None
        table = self.loaded.relations(self.engine)["t"]
        return self.engine.rows(f"SELECT {columns} FROM {table} ORDER BY id")

    def meanwhile(self, *work: Callable[[], None]) -> list[object]:
        """Let something happen each time that a part was read; what was spread so far."""
        waiting = list(work)

        def busy(read: Callable[[Any], Any], part: Any) -> Any:
            written = read(part)
            if waiting:
                waiting.pop(0)()
            return written

        self.engine.around = busy
        return self.engine.works


@pytest.fixture
def room(engine: SideBySide, database: Database, source: Source, tmp_path: Path) -> Room:
    """A table of three rows, nothing of it in the lake yet."""
    database.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(9), changed DATETIME(6))",
        "INSERT INTO t VALUES (1, 'a', '2024-01-01'), (2, 'b', '2024-01-01'),"
        " (3, 'c', '2024-01-02')",
        "ANALYZE TABLE t",
    )
    # In the engine's sandbox.
    lake = Lake(place_of(LocalFolder(tmp_path / "private" / "lake"), tmp_path / "workspace"))
    return Room(source, engine, lake, Table("t", "t", key=("id",)))


def test_an_unchanged_table_is_not_read_again(room: Room, database: Database) -> None:
    """The server tells by itself that nothing has changed, and what has changed is seen."""
    spread = room.meanwhile()
    assert room.load().change is not None
    assert room.load().change is None
    assert len(spread) == 1
    database.execute("UPDATE t SET v = CASE id WHEN 1 THEN 'b' ELSE 'a' END WHERE id < 3")
    loaded = room.load()
    assert len(spread) == 2
    assert room.seen() == [(1, "b"), (2, "a"), (3, "c")]
    assert loaded.affected is not None
    assert len(room.engine.rows(f"SELECT * FROM {loaded.affected}")) == 4


def test_a_table_that_changes_while_it_is_read_is_read_again(
    room: Room, database: Database
) -> None:
    """Rows, and a column, that come meanwhile are there; the next look finds no change."""
    spread = room.meanwhile(
        lambda: database.execute("ALTER TABLE t ADD COLUMN w INT DEFAULT 7"),
        lambda: database.execute("UPDATE t SET v = 'z' WHERE id = 2"),
    )
    room.load()
    assert len(spread) == 3
    assert room.seen("id, v, w") == [(1, "a", 7), (2, "z", 7), (3, "c", 7)]
    assert room.load().change is None
    assert len(spread) == 3


def test_a_table_that_never_rests_is_told(room: Room, database: Database) -> None:
    """After three tries the run says so, with what to do."""

    def change() -> None:
        database.execute("UPDATE t SET v = CONCAT(v, 'x') WHERE id = 2")

    room.meanwhile(change, change, change)
    with pytest.raises(RetailmartError, match="'t' was changed 3 times while it was read") as told:
        room.load()
    assert "cursor" in str(told.value.hint)


def test_by_cursor_only_the_first_read_is_in_parts(room: Room, database: Database) -> None:
    """What comes and changes meanwhile is not missed, now or by the next run."""
    room.table = Table("t", "t", key=("id",), reading=Reading.INCREMENTAL, cursor="changed")

    def change() -> None:
        database.execute(
            "INSERT INTO t VALUES (4, 'd', '2024-01-02')",
            "UPDATE t SET v = 'z', changed = '2024-01-03' WHERE id = 1",
        )

    spread = room.meanwhile(change)
    room.load()
    assert room.seen() == [(1, "z"), (2, "b"), (3, "c"), (4, "d")]
    database.execute("UPDATE t SET v = 'y' WHERE id = 4", "INSERT INTO t VALUES (5, 'e', NULL)")
    room.load()
    assert room.seen() == [(1, "z"), (2, "b"), (3, "c"), (4, "y"), (5, "e")]
    assert room.load().change is None
    assert len(spread) == 1
