"""Ask the lake: a SELECT over marts, raw rows, refused rows and source tables; nothing is written.

A query finds what marts find, by the same names: a feed's rows, a source table, a mart. Refused
rows are `quarantine.FEED`. All tables are of one moment, also while runs go on.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from retailmart.errors import MartNotBuilt, RetailmartError
from retailmart.lake import Lake
from retailmart.lake.layout import mart_table, quarantine_table, raw_table
from retailmart.ledger.values import SourceRecord
from retailmart.operations.verify.pin import Pinned, pin
from retailmart.project import Mart, Project
from retailmart.project.documents import did_you_mean
from retailmart.project.table import HISTORY, undeclared
from retailmart.report import plain
from retailmart.session import PRIVATE, open_lake, view_ledger
from retailmart.sources.loaded import LoadedTable
from retailmart.tables import TableState, quoted, text_literal

if TYPE_CHECKING:
    import duckdb

    from retailmart.engines.duckdb.asking import AskingEngine
    from retailmart.engines.relations import Relation

QUARANTINE = "quarantine"
# DuckDB would list its own names for what source tables are made of, too.
_SHOW_TABLES = re.compile(r"\s*show\s+(all\s+)?tables\s*;?\s*", re.IGNORECASE)
_ALL_TABLES = (
    "SELECT CASE WHEN schema_name = 'main' THEN view_name ELSE schema_name || '.' || view_name END"
    " AS name, column_count AS columns FROM duckdb_views()"
    " WHERE NOT internal AND NOT contains(view_name, ' ') ORDER BY 1"
)
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_NO_TABLE = re.compile(r'Table with name "?([^\s"]+)"? does not exist')
# A query with one of these words may be about any table.
_OF_ALL = re.compile(r"\b(show|information_schema|duckdb_\w+|pg_\w+)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column of an answer; `type` is DuckDB's name of its type."""

    name: str
    type: str


@dataclass(frozen=True)
class Answer:
    """What a query found. Its rows are computed as they are read; close it at the end of a `with`.

    `relation` is DuckDB's own: `.df()`, `.pl()` and `.to_arrow_table()` give pandas, Polars, Arrow.
    """

    query: str
    relation: duckdb.DuckDBPyRelation
    _engine: AskingEngine

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns, in their order."""
        pairs = zip(self.relation.columns, self.relation.types, strict=True)
        return tuple(Column(name, str(kind)) for name, kind in pairs)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows, in the query's order."""
        return self._engine.answered(self.query)

    def to_dict(self) -> dict[str, Any]:
        """Columns and rows as plain values: decimals as exact texts, dates and times as ISO."""
        return self._as_plain

    @cached_property
    def _as_plain(self) -> dict[str, Any]:
        names = [column.name for column in self.columns]
        rows = [dict(zip(names, map(plain, row), strict=True)) for row in self.rows()]
        return {"columns": [asdict(column) for column in self.columns], "rows": rows}

    def write(self, target: BinaryIO, form: str) -> None:
        """Write the rows as `csv` or `parquet`, by DuckDB itself."""
        with self._engine.written(self.query, form) as file, file.open("rb") as content:
            shutil.copyfileobj(content, target)

    def close(self) -> None:
        """Free what the query holds in memory and on disk."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def ask(project: Project, query: str) -> Answer:
    """The rows of one SELECT. RetailmartError if it is none, or names what is not there.

    Raises MartNotBuilt before the first run, ProjectBusy while a run commits for long.
    """
    query = _ALL_TABLES if _SHOW_TABLES.fullmatch(query) else query
    engine, pinned = asking_engine(project, query)
    try:
        return Answer(query, engine.ask(query), engine)
    except BaseException as error:
        engine.close()
        if isinstance(error, RetailmartError) and (lacking := _NO_TABLE.search(error.message)):
            raise _no_table(project, pinned, lacking[1]) from error
        raise


def asking_engine(project: Project, query: str) -> tuple[AskingEngine, Pinned]:
    """An engine that finds what the words of a query name, all of one moment. Close it.

    Raises MartNotBuilt before the first run, ProjectBusy while a run commits for long.
    """
    from retailmart.engines.duckdb.asking import AskingEngine

    lake = open_lake(project)
    pinned = view_ledger(project, lambda view: pin(lake, view.ledger, project, 0))
    settings = project.settings
    scratch = project.folder / PRIVATE
    engine = AskingEngine([lake.place], scratch, settings.memory_limit, settings.threads)
    try:
        engine.set_variables({**project.variables, "as_of": pinned.last_moment})
        if project.functions.used_in(query):
            engine.add_functions(project.functions)
        _name_tables(engine, lake, project, pinned, _asked(query))
    except BaseException:
        engine.close()
        raise
    return engine, pinned


def _no_table(project: Project, pinned: Pinned, name: str) -> RetailmartError:
    known = {*project.feeds, *project.marts, *project.tables}
    if name in project.marts:
        return MartNotBuilt(f"{name} is not built yet", "Build it with: retailmart run")
    schema, _, feed = name.rpartition(".")
    if schema == QUARANTINE and feed in project.feeds:
        return RetailmartError(f"no row of feed {feed} was ever refused")
    refused = [f"{QUARANTINE}.{feed}" for feed in project.feeds]
    return RetailmartError(
        f"there is no table {name!r}{did_you_mean(name, [*known, *refused])}",
        f"retailmart marts lists the marts; what was refused of a feed is {QUARANTINE}.FEED",
    )


def show(
    project: Project,
    name: str,
    *,
    where: str | None = None,
    month: str | None = None,
    columns: Sequence[str] = (),
    limit: int | None = None,
) -> Answer:
    """A mart's rows in the order of its key, those of a `month` or for which `where` is true.

    RetailmartError for an unknown mart or column, or a mart without months.
    """
    mart = _mart(project, name)
    conditions = [f"(\n{where}\n)"] if where else []
    if month is not None:
        conditions.append(f"{quoted(_month_of(mart, month))} = {text_literal(month)}")
    chosen = ", ".join(map(quoted, columns)) or "*"
    query = f"SELECT {chosen} FROM {quoted(name)}"
    if conditions:
        query += f" WHERE {' AND '.join(conditions)}"
    if mart.key:
        query += f" ORDER BY {', '.join(map(quoted, mart.key))}"
    if limit is not None:
        query += f" LIMIT {limit:d}"
    return ask(project, query)


def _mart(project: Project, name: str) -> Mart:
    if (mart := project.marts.get(name)) is not None:
        return mart
    if name in project.feeds or name in project.tables:
        hint = f"It is no mart: retailmart sql 'SELECT * FROM {name} LIMIT 20'"
    else:
        hint = "List them with: retailmart marts"
    raise RetailmartError(f"there is no mart {name!r}{did_you_mean(name, project.marts)}", hint)


def _month_of(mart: Mart, month: str) -> str:
    if not _MONTH.fullmatch(month):
        raise RetailmartError(f"{month!r} is no month", "Write it as 2024-03")
    if mart.month is None:
        raise RetailmartError(
            f"{mart.name} is not kept by month",
            f'Choose rows by a condition: retailmart show {mart.name} --where "…"',
        )
    return mart.month


def _asked(query: str) -> frozenset[str] | None:
    """The words of a query in lower case, or None if it may be about any table."""
    if _OF_ALL.search(query):
        return None
    return frozenset(re.findall(r"\w+", query.lower()))


def _name_tables(
    engine: AskingEngine,
    lake: Lake,
    project: Project,
    pinned: Pinned,
    asked: frozenset[str] | None,
) -> None:
    """Let the query find the tables whose names it has; of a bucket only these are fetched."""

    def wanted(name: str) -> bool:
        return asked is None or asked >= set(re.findall(r"\w+", name.lower()))

    names: dict[str, Relation | TableState] = {}
    refused: dict[str, TableState] = {}
    for name, feed in project.feeds.items():
        if wanted(name):
            names[name] = pinned.raw(feed, lake)
            if state := pinned.tables.get(quarantine_table(name)):
                refused[name] = state
    for name in project.marts:
        if wanted(name) and (state := pinned.tables.get(mart_table(name))):
            names[name] = state
    for path, state in pinned.tables.items():
        name = path.removeprefix(raw_table(""))
        if path != raw_table(name) or name in project.feeds:
            continue
        table = project.tables.get(name) or undeclared(name)
        if any(wanted(one) for one in (name, name + HISTORY)):
            record = pinned.sources.get(name, SourceRecord(name, ""))
            names |= LoadedTable(table, record, state, state).relations(engine)
    engine.name(names)
    engine.name(refused, QUARANTINE)
