"""The Python API: a project to run, and its tables to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.database import open_database, translate_errors
from retailmart.engines.registry import open_engine
from retailmart.errors import MartNotBuilt, RetailmartError
from retailmart.feeds.quarantine import quarantine_table
from retailmart.lake import Lake, place_of
from retailmart.ledger import Ledger
from retailmart.marts.build import mart_table
from retailmart.marts.definitions import held_marts
from retailmart.marts.ownership import drop_table
from retailmart.operations import abandon as abandoning
from retailmart.operations import run as running
from retailmart.operations import undo as undoing
from retailmart.project import Project, load_project
from retailmart.project.documents import did_you_mean
from retailmart.report import DatabaseReport, RunReport, Silent, Watch
from retailmart.session import PRIVATE, Session, open_lake, store_at

if TYPE_CHECKING:
    import duckdb


def open_project(path: str | Path, settings: Mapping[str, object] | None = None) -> OpenProject:
    """Open a project folder; `settings` override its retailmart.yml.

    Raises SettingsError with every mistake in the project's files.
    """
    return OpenProject(load_project(Path(path), settings))


@dataclass(frozen=True)
class OpenProject:
    """A project folder whose files were read and found good."""

    project: Project

    def run(self, as_of: datetime | None = None, watch: Watch | None = None) -> RunReport:
        """Bring everything that has landed into the marts, exactly once. See operations.run."""
        return running.run(self.project, as_of, watch)

    def undo(
        self, run_id: int, as_of: datetime | None = None, watch: Watch | None = None
    ) -> RunReport:
        """Undo a run in raw, marts, database and archive. See operations.undo."""
        return undoing.undo(self.project, run_id, as_of, watch)

    def abandon(self, watch: Watch | None = None) -> str:
        """Abandon an open batch that is not prepared yet. See operations.abandon."""
        return abandoning.abandon(self.project, watch)

    def verify_database(
        self, marts: Sequence[str] = (), watch: Watch | None = None
    ) -> DatabaseReport:
        """Compare published tables with their marts, row by row and value by value.

        `marts` are all that are published, unless some are named. Nothing is changed, and runs
        continue meanwhile. Raises MartNotBuilt before the first run, ProjectBusy while one
        publishes.
        """
        # Imported here: each run would wait for what only this needs.
        from retailmart.operations.verify.published import (
            PublishedTables,
            expect_ledger,
            published_marts,
        )
        from retailmart.operations.verify.rebuild import scratch_lake

        wanted = published_marts(self.project, marts)
        with Session.open(self.project, watch or Silent()) as session, ExitStack() as stack:
            expect_ledger(session.ledger, session.lake)
            folder = stack.enter_context(scratch_lake(session.private))
            store = store_at(self.project, self.project.settings.lake)
            lake = Lake(place_of(store, folder / "lake"))
            stack.enter_context(translate_errors())
            session.ledger.migrate()
            with session.step("open"):
                lake.place.workspace.mkdir(parents=True, exist_ok=True)
                settings = self.project.settings.model_copy(update={"engine": "duckdb"})
                engine = stack.enter_context(closing(open_engine(settings, [lake.place], folder)))
                tables = PublishedTables(
                    session.ledger, lake, engine, folder, held_marts(session.ledger.marts.all())
                )
            compared = []
            with session.step("database") as tell:
                for mart in wanted:
                    tell(mart.name)
                    compared.append(tables.compare(mart))
            seconds = {name: round(took, 3) for name, took in session.seconds.items()}
        return DatabaseReport(tuple(compared), seconds)

    def drop_table(self, name: str, watch: Watch | None = None) -> bool:
        """Drop a published table of a mart that is gone. Returns whether it still existed.

        A table is dropped only if this project has published it and nobody has built on it. The
        lake is not changed: a mart that comes back is published again. Raises RetailmartError,
        which says why a table is not dropped, or ProjectBusy while a run is at work.
        """
        with Session.open(self.project, watch or Silent()) as session, translate_errors():
            session.ledger.migrate()
            session.acquire_lease()
            return drop_table(self.project, session.ledger, session.lake, name)

    def mart(self, name: str) -> duckdb.DuckDBPyRelation:
        """A mart as a DuckDB relation; `.to_arrow_table()` and `.df()` give Arrow and pandas.

        Raises MartNotBuilt before the first run, RetailmartError for an unknown name.
        """
        if name not in self.project.marts:
            hint = did_you_mean(name, self.project.marts)
            raise RetailmartError(f"there is no mart {name!r}{hint}")
        return self._relation(name, mart_table(name))

    def quarantine(self, feed: str) -> duckdb.DuckDBPyRelation | None:
        """A feed's refused rows, or None while there are none."""
        table = quarantine_table(feed)
        if self.lake.state(table) is None:
            return None
        return self._relation(feed, table)

    @property
    def lake(self) -> Lake:
        """The project's lake."""
        return open_lake(self.project)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The project's ledger, for reading."""
        database = open_database(self.project.database_url(), self.project.folder)
        try:
            ledger = Ledger(database)
            with translate_errors():
                ledger.migrate()
            yield ledger
        finally:
            database.dispose()

    def _relation(self, name: str, table: str) -> duckdb.DuckDBPyRelation:
        state = self.lake.state(table)
        if state is None:
            raise MartNotBuilt(f"{name} is not built yet", "Build it with: retailmart run")
        from retailmart.engines.duckdb import DuckDBEngine

        settings = self.project.settings
        private = self.project.folder / PRIVATE
        engine = DuckDBEngine([self.lake.place], private, settings.memory_limit, settings.threads)
        return engine.relation(engine.define(state)).set_alias(name)
