"""Compare whole published tables with the versions of the lake that they show."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from retailmart.database import translate_errors
from retailmart.database.dialect import dialect_of
from retailmart.database.target import Target
from retailmart.engines import Engine
from retailmart.engines.registry import open_engine
from retailmart.errors import MartNotBuilt, ProjectBusy, RetailmartError
from retailmart.lake import Lake, place_of
from retailmart.lake.layout import mart_table
from retailmart.ledger import READS, Ledger
from retailmart.ledger.values import BatchState, MartRecord
from retailmart.marts.definitions import held_marts
from retailmart.marts.plan import plan_marts
from retailmart.operations.verify.compare import Side, digest
from retailmart.operations.verify.rebuild import scratch_lake
from retailmart.project import Mart, Project
from retailmart.project.documents import did_you_mean
from retailmart.report import DatabaseReport, Progress, Silent, TableComparison
from retailmart.session import Session, store_at
from retailmart.tables import DataFile, TableState, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Seconds between checks of a table that a run is publishing.
_PAUSES = (0.2, 0.5, 1.0, 3.0, 8.0, 15.0)
# How many of the rows that only one side has are shown.
_SHOWN = 5


def verify_database(
    project: Project, marts: Sequence[str] = (), progress: Progress | None = None
) -> DatabaseReport:
    """Compare published tables with their marts, row by row and value by value.

    `marts` are all that are published, unless some are named. Nothing is changed, and runs
    continue meanwhile. Raises MartNotBuilt before the first run, ProjectBusy while one publishes.
    """
    wanted = published_marts(project, marts)
    with Session.open(project, progress or Silent()) as session, ExitStack() as stack:
        expect_ledger(session.ledger, session.lake)
        folder = stack.enter_context(scratch_lake(session.private))
        store = store_at(project, project.settings.lake)
        lake = Lake(place_of(store, folder / "lake"))
        stack.enter_context(translate_errors())
        session.ledger.migrate()
        with session.step("open"):
            lake.place.workspace.mkdir(parents=True, exist_ok=True)
            settings = project.settings.model_copy(update={"engine": "duckdb"})
            engine = stack.enter_context(closing(open_engine(settings, [lake.place], folder)))
            known = session.ledger.marts.all()
            unpublished = any(
                known.get(mart.name, MartRecord(mart.name)).published_as is None for mart in wanted
            )
            tables = PublishedTables(
                session.ledger,
                lake,
                engine,
                folder,
                held_marts(known),
                unavailable_marts(session) if unpublished else {},
            )
        compared = []
        with session.step("database") as tell:
            for mart in wanted:
                tell(mart.name)
                compared.append(tables.compare(mart))
        seconds = {name: round(took, 3) for name, took in session.seconds.items()}
    return DatabaseReport(tuple(compared), seconds)


def published_marts(project: Project, names: Sequence[str]) -> list[Mart]:
    """The marts of these names, or all published ones. RetailmartError for any other name."""
    for name in names:
        if name not in project.marts:
            hint = did_you_mean(name, project.marts)
            raise RetailmartError(f"there is no mart {name!r}{hint}")
        if project.marts[name].publish_as is None:
            raise RetailmartError(
                f"mart {name} is not published", "Publish it: `publish: true` in its header"
            )
    wanted = dict.fromkeys(names) or project.marts
    return [project.marts[name] for name in wanted if project.marts[name].publish_as]


def unavailable_marts(session: Session) -> Mapping[str, str]:
    """The marts that lack some input, and what; all of them if the sources do not answer."""
    ledger = session.ledger
    delivered = ledger.files.feeds_delivered()
    try:
        plan = plan_marts(session.project, session.sources, ledger.sources.all(), delivered)
    except RetailmartError as error:
        return dict.fromkeys(session.project.marts, error.one_line)
    return plan.without(ledger.held.tables()).unavailable


def expect_ledger(ledger: Ledger, lake: Lake) -> None:
    """Raise MartNotBuilt before the first run: opening the ledger would create one."""
    if not lake.place.tables() or not ledger.is_there():
        raise MartNotBuilt("no mart is published yet", "Publish them with: retailmart run")


@dataclass(frozen=True)
class PublishedTables:
    """What the comparison works with. Rows that are read back are kept in `folder` meanwhile.

    `held` are the marts that are held back, `unavailable` those that lack some input, and what.
    """

    ledger: Ledger
    lake: Lake
    engine: Engine
    folder: Path
    held: Collection[str]
    unavailable: Mapping[str, str]

    def compare(self, mart: Mart) -> TableComparison:
        """Compare one mart's table, at a time when no run publishes it.

        Raises ProjectBusy if one publishes all the time, or was interrupted while it did.
        """
        for pause in (*_PAUSES, None):
            before = self._published(mart)
            if before is not None:
                found = self._compare(mart, before)
                if self._published(mart) == before:
                    return found
            if pause is not None:
                time.sleep(pause)
        raise ProjectBusy(
            "a batch is being published, or was cut off while it was",
            "Finish it with: retailmart run; then verify",
        )

    def _published(self, mart: Mart) -> MartRecord | None:
        """What the table shows, says the ledger; None while that may change at any moment."""
        batch = self.ledger.batches.unfinished()
        if batch is not None and batch.state is BatchState.COMMITTED:
            return None
        return self.ledger.marts.all().get(mart.name, MartRecord(mart.name))

    def _compare(self, mart: Mart, record: MartRecord) -> TableComparison:
        held = mart.name in self.held
        table = record.published_as
        if table is None:
            return TableComparison(mart.name, None, left_out=self._why_not(mart), held=held)
        state = self.lake.state(mart_table(mart.name), record.published_version)
        if state is None or not self.lake.has_files(mart_table(mart.name), state):
            message = f"version {record.published_version} of the mart was vacuumed out of the lake"
            return TableComparison(mart.name, table, left_out=message, held=held)
        names = [field.name for field in state.fields]
        # By today's key, as far as the published version has its columns.
        key = tuple(name for name in mart.key if name in names) or tuple(names)
        target = Target(table, state.fields, key, None)
        with TemporaryDirectory(dir=self.folder) as folder:
            reads = self.ledger.engine.execution_options(**{READS: True})
            with reads.connect() as connection:
                if problem := _unlike(table, names, list(target.columns(connection))):
                    return TableComparison(mart.name, table, key, problem=problem, held=held)
                shown, strange = _read_back(target, connection, Path(folder))
            columns, _ = target.as_read(dialect_of(self.ledger.engine))
            expected = f"SELECT {columns} FROM {self.engine.define(state)}"
            one = Side("table", self.engine.define(shown))
            other = Side("mart", self.engine.query(expected))
            digests = [digest(self.engine, side, None) for side in (one, other)]
            table_only = mart_only = _Rest()
            if digests[0] != digests[1]:
                table_only, mart_only = self._rest(one, other, key), self._rest(other, one, key)
        odd = (dict(zip(names, map(_text, row), strict=True)) for row in strange)
        return TableComparison(
            mart=mart.name,
            table=table,
            key=key,
            rows=digests[0].rows + len(strange),
            mart_rows=digests[1].rows,
            table_only=table_only.count + len(strange),
            mart_only=mart_only.count,
            table_first=(*odd, *table_only.first)[:_SHOWN],
            mart_first=mart_only.first,
            held=held,
        )

    def _why_not(self, mart: Mart) -> str:
        """Why a mart is not published yet, and what it waits for."""
        if mart.name in self.held:
            reasons = self.ledger.held.marts()
            why = reasons[mart.name].message if mart.name in reasons else "see retailmart status"
            return f"it is held back and was never published: {why}"
        if mart.name in self.unavailable:
            return f"it is not published yet: {self.unavailable[mart.name]}"
        return "it is not published yet; the next run publishes it"

    def _rest(self, one: Side, other: Side, key: Sequence[str]) -> _Rest:
        """The rows that one side has more often than the other."""
        columns = ", ".join(quoted(field.name) for field in one.fields)
        texts = ", ".join(f"CAST({quoted(field.name)} AS VARCHAR)" for field in one.fields)
        order = ", ".join(map(quoted, key))
        rows = self.engine.rows(
            f"SELECT count(*) OVER (), {texts} FROM (SELECT {columns} FROM {one.relation}"
            f" EXCEPT ALL SELECT {columns} FROM {other.relation}) ORDER BY {order} LIMIT {_SHOWN}"
        )
        names = [field.name for field in one.fields]
        first = tuple(dict(zip(names, texts, strict=True)) for _, *texts in rows)
        return _Rest(rows[0][0] if rows else 0, first)


@dataclass(frozen=True)
class _Rest:
    """The rows that only one side has: how many there are, and the first few as texts."""

    count: int = 0
    first: tuple[Mapping[str, str | None], ...] = ()


def _unlike(table: str, wanted: Sequence[str], has: Sequence[str]) -> str | None:
    """Why a table's rows can't be those of a mart; columns that people added are ignored."""
    if not has:
        return f"the database has no table {table}"
    lacking = [name for name in wanted if name not in has]
    return f"the table has no column {', '.join(lacking)}" if lacking else None


def _read_back(
    target: Target, connection: Connection, folder: Path
) -> tuple[TableState, list[tuple[Any, ...]]]:
    """A table's rows as data files, and the rows with values that the mart's columns can't hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _, fields = target.as_read(dialect_of(connection))
    strange: list[tuple[Any, ...]] = []
    files: list[DataFile] = []
    for batch, odd in target.read_back(connection):
        strange += odd
        path = folder / f"{len(files)}.parquet"
        pq.write_table(pa.Table.from_batches([batch]), path)
        files.append(DataFile(path.name, path.stat().st_size, batch.num_rows))
    return TableState(str(folder), fields, (), tuple(files)), strange


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
