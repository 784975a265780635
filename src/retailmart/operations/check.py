"""Check what a project defines: mistakes in its files, and tables of marts that are gone.

A run asks some of this, too, before it changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from retailmart.database import database_file, open_database, translate_errors
from retailmart.engines.registry import open_engine
from retailmart.errors import MissingExtra, NewerLedger, RetailmartError, SettingsError
from retailmart.lake import Lake
from retailmart.ledger import Ledger
from retailmart.marts.bind import Binding
from retailmart.marts.ownership import (
    expect_fit_names,
    expect_known_spelling,
    expect_own_columns,
    expect_own_tables,
)
from retailmart.project import Project
from retailmart.project.feed import matched_twice
from retailmart.project.mart import AS_OF
from retailmart.report import LeftTable
from retailmart.session import PRIVATE, open_lake, open_sources, store_at
from retailmart.tables import Field


@dataclass(frozen=True)
class CheckReport:
    """What a project without mistakes defines, and what in it has become useless.

    `retired` says which settings have no effect any more, and what to do about each; `left_tables`
    are published tables of marts that are gone.
    """

    feeds: int
    marts: int
    retired: tuple[str, ...]
    left_tables: tuple[LeftTable, ...]


def check(project: Project) -> CheckReport:
    """Raise SettingsError with every mistake in the project's files; nothing is changed."""
    project.check_secrets()
    _expect_packages(project)
    expect_one_feed(project)
    columns = check_definitions(project)
    return CheckReport(
        len(project.feeds),
        len(project.marts),
        tuple(project.settings.spark.retired),
        check_published_names(project, columns),
    )


def _expect_packages(project: Project) -> None:
    """Raise MissingExtra if a store or source needs packages that are not installed.

    Nothing is asked yet. Runs and the doctor report what else may be wrong with them.
    """
    settings = project.settings
    for place in (settings.landing, settings.lake, settings.archive):
        store_at(project, place)
    for name in settings.sources:
        try:
            open_database(project.source_url(name), project.folder, must_exist=True).dispose()
        except MissingExtra:
            raise
        except RetailmartError:
            continue


def expect_one_feed(project: Project, paths: Iterable[str] | None = None) -> None:
    """Raise SettingsError if two feeds match one of these files in landing; by default, of all."""
    if paths is None:
        try:
            paths = [entry.path for entry in store_at(project, project.settings.landing).entries()]
        except (RetailmartError, OSError):
            return  # the run and the doctor report what is wrong with landing
    if problems := matched_twice(project.feeds.values(), paths):
        raise SettingsError(problems, "Narrow `files` of one of them; nothing was taken in")


def check_definitions(project: Project) -> Mapping[str, tuple[Field, ...]]:
    """Raise SettingsError with every mistake in functions.py, in marts and in rules.

    Returns the columns of each mart whose inputs' columns are known.
    They are bound to the columns of what they read, as far as sources and lake can be asked.
    """
    # They mean the same on each engine, and DuckDB opens at once.
    settings = project.settings.model_copy(update={"engine": "duckdb"})
    with ExitStack() as stack:
        engine = stack.enter_context(closing(open_engine(settings, [], project.folder / PRIVATE)))
        engine.add_functions(project.functions)
        engine.set_variables({**project.variables, AS_OF: datetime.now(UTC)})
        sources = open_sources(project)
        stack.callback(sources.close)
        lake: Lake | None = None
        with suppress(RetailmartError):  # the doctor reports what can't be asked
            lake = open_lake(project)
        found = Binding(engine, project, sources, lake)
        if problems := found.problems(project.marts.keys(), thorough=True):
            raise SettingsError(problems)
        return found.marts


def check_published_names(
    project: Project, columns: Mapping[str, tuple[Field, ...]] | None = None
) -> tuple[LeftTable, ...]:
    """Raise SettingsError if a mart would be published over what this project did not publish.

    Also if the database cannot hold a name. `columns` are those of marts, as far as they are known.
    NewerLedger if the ledger is one that this program does not know.

    Returns the published tables that no longer belong to a mart. Nothing is found if the database
    cannot be asked: one that does not exist yet holds nothing of others.
    """
    url = project.database_url()
    expect_fit_names(project, columns or {})
    file = database_file(url, project.folder)
    if file and not file.is_file():
        return ()
    database = open_database(url, project.folder)
    try:
        with translate_errors():
            ledger = Ledger(database)
            ledger.expect_known()
            expect_known_spelling(project, ledger)
            left = expect_own_tables(project, ledger)
            expect_own_columns(project, ledger, open_lake(project), columns or {})
            return left
    except (SettingsError, NewerLedger):
        raise
    except RetailmartError:
        return ()  # it does not answer: runs and the doctor report this
    finally:
        database.dispose()
