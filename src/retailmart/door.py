"""The Python door: a project to run, and its tables to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart import pipeline
from retailmart.database import open_database, told
from retailmart.errors import MartNotBuilt, RetailmartError
from retailmart.house import PRIVATE, open_lake
from retailmart.lake import Lake
from retailmart.ledger import Ledger
from retailmart.project import Project, load_project
from retailmart.project.documents import did_you_mean
from retailmart.report import RunReport, Watch
from retailmart.steps.build import mart_table
from retailmart.steps.quarantine import quarantine_table

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
        """Bring everything that has landed into the marts, exactly once. See pipeline.run."""
        return pipeline.run(self.project, as_of, watch)

    def undo(
        self, run_id: int, as_of: datetime | None = None, watch: Watch | None = None
    ) -> RunReport:
        """Take a run back out of raw, marts, database and archive. See pipeline.undo."""
        return pipeline.undo(self.project, run_id, as_of, watch)

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
            with told():
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
        lake = self.lake
        engine = DuckDBEngine(
            [lake.place.workspace], private, settings.memory_limit, settings.threads, lake.fetch
        )
        engine.define(name, state)
        return engine.relation(name)
