"""Read marts and refused rows as DuckDB relations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retailmart.errors import MartNotBuilt, RetailmartError
from retailmart.lake.layout import mart_table, quarantine_table
from retailmart.project import Project
from retailmart.project.documents import did_you_mean
from retailmart.session import PRIVATE, open_lake

if TYPE_CHECKING:
    import duckdb


def mart_rows(project: Project, name: str) -> duckdb.DuckDBPyRelation:
    """A mart's rows. Raises MartNotBuilt before the first run, RetailmartError for no mart."""
    if name not in project.marts:
        raise RetailmartError(f"there is no mart {name!r}{did_you_mean(name, project.marts)}")
    relation = rows_of(project, mart_table(name), name)
    if relation is None:
        raise MartNotBuilt(f"{name} is not built yet", "Build it with: retailmart run")
    return relation


def refused_rows(project: Project, feed: str) -> duckdb.DuckDBPyRelation | None:
    """A feed's refused rows, open and closed; None while there are none."""
    return rows_of(project, quarantine_table(feed), feed)


def rows_of(project: Project, table: str, alias: str) -> duckdb.DuckDBPyRelation | None:
    """The rows of any table of the lake, None if the lake has no such table."""
    lake = open_lake(project)
    state = lake.state(table)
    if state is None:
        return None
    # Imported here: asking whether there is a table needs no engine.
    from retailmart.engines.duckdb import DuckDBEngine

    settings = project.settings
    engine = DuckDBEngine(
        [lake.place], project.folder / PRIVATE, settings.memory_limit, settings.threads
    )
    return engine.relation(engine.define(state)).set_alias(alias)
