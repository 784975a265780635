"""Check what a project defines: mistakes in its files, and tables of marts that are gone.

A run asks some of this, too, before it changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
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
from retailmart.project.table import Table
from retailmart.report import LeftTable
from retailmart.session import PRIVATE, open_lake, open_sources, store_at
from retailmart.sources.databases import Sources
from retailmart.tables import Field


@dataclass(frozen=True)
class CheckReport:
    """What a project without mistakes defines, and what in it has become useless.

    `retired` says which settings have no effect any more, and what to do about each; `left_tables`
    are published tables of marts that are gone. `unasked` maps what did not answer → why: mistakes
    that only it could show are not found.
    """

    feeds: int
    marts: int
    retired: tuple[str, ...]
    left_tables: tuple[LeftTable, ...]
    unasked: Mapping[str, str]


@dataclass
class Unasked:
    """What was to be asked but does not answer, such as `source shop`, and why."""

    reasons: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def instead_of_failing(self, what: str) -> Iterator[None]:
        """Remember that something does not answer; what it says is wrong is raised all the same."""
        try:
            yield
        except (SettingsError, NewerLedger):
            raise
        except RetailmartError as error:
            self.reasons[what] = " ".join(error.one_line.split())
        except OSError as error:
            self.reasons[what] = f"{error.filename or what}: {error.strerror or error}"


@dataclass
class _AskedOnce(Sources):
    """Sources of which one that does not answer is not asked, and waited for, again and again."""

    unasked: Unasked = field(default_factory=Unasked)
    _failed: dict[str, RetailmartError] = field(default_factory=dict)

    def offered(self, source: str) -> frozenset[str]:
        if source in self._failed:
            raise self._failed[source]
        try:
            with self.unasked.instead_of_failing(f"source {source}"):
                return super().offered(source)
        except RetailmartError as error:  # its URL lacks something, which `check_secrets` says
            self._failed[source] = error
            raise
        self._failed[source] = RetailmartError(self.unasked.reasons[f"source {source}"])
        raise self._failed[source]

    def fields(self, source: str, table: Table) -> tuple[Field, ...]:
        what = f"table {table.table} of source {source}"
        with self.unasked.instead_of_failing(what):
            return super().fields(source, table)
        raise RetailmartError(self.unasked.reasons[what])


@dataclass
class _Mistakes:
    """The mistakes of all groups that are checked, to be told at once."""

    errors: list[SettingsError] = field(default_factory=list)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Go on after a group with mistakes."""
        try:
            yield
        except SettingsError as error:
            self.errors.append(error)

    def expect_none(self) -> None:
        """Raise what was found; a mistake that several groups have met is told once."""
        if len(self.errors) < 2:
            for error in self.errors:
                raise error
            return
        problems: list[str] = []
        for one in (problem for error in self.errors for problem in error.problems):
            if not any(one in told or told in one for told in problems):
                problems.append(one)
        hints = dict.fromkeys(error.hint for error in self.errors if error.hint)
        raise SettingsError(problems, "\n  ".join(hints) or None)


def check(project: Project) -> CheckReport:
    """Raise SettingsError with every mistake in the project's files; nothing is changed."""
    unasked = Unasked()
    columns: Mapping[str, tuple[Field, ...]] = {}
    left: tuple[LeftTable, ...] = ()
    found = _Mistakes()
    # What is asked below needs neither: mistakes there are found all the same.
    with found.collected():
        project.check_secrets()
    with found.collected():
        _expect_packages(project)
    with found.collected():
        expect_one_feed(project, unasked=unasked)
    with found.collected():
        columns = check_definitions(project, unasked)
    with found.collected():
        left = check_published_names(project, columns, unasked)
    found.expect_none()
    return CheckReport(
        len(project.feeds),
        len(project.marts),
        tuple(project.settings.spark.retired),
        left,
        unasked.reasons,
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


def expect_one_feed(
    project: Project, paths: Iterable[str] | None = None, unasked: Unasked | None = None
) -> None:
    """Raise SettingsError if two feeds match one of these files in landing; by default, of all."""
    if paths is None:
        paths = []
        with (unasked or Unasked()).instead_of_failing("landing"):
            landing = store_at(project, project.settings.landing)
            paths = [entry.path for entry in landing.entries()]
    if problems := matched_twice(project.feeds.values(), paths):
        raise SettingsError(problems, "Narrow `files` of one of them; nothing was taken in")


def check_definitions(
    project: Project, unasked: Unasked | None = None
) -> Mapping[str, tuple[Field, ...]]:
    """Raise SettingsError with every mistake in functions.py, in marts and in rules.

    Returns the columns of each mart whose inputs' columns are known.
    They are bound to the columns of what they read, as far as sources and lake can be asked.
    """
    unasked = unasked or Unasked()
    # They mean the same on each engine, and DuckDB opens at once.
    settings = project.settings.model_copy(update={"engine": "duckdb"})
    with ExitStack() as stack:
        engine = stack.enter_context(closing(open_engine(settings, [], project.folder / PRIVATE)))
        engine.add_functions(project.functions)
        engine.set_variables({**project.variables, AS_OF: datetime.now(UTC)})
        known = open_sources(project)
        sources = _AskedOnce(known.names, known.open, known.large, unasked=unasked)
        stack.callback(sources.close)
        lake: Lake | None = None
        with unasked.instead_of_failing("lake"):
            found_lake = open_lake(project)
            found_lake.place.tables()
            lake = found_lake
        found = Binding(engine, project, sources, lake)
        if problems := found.problems(project.marts.keys(), thorough=True):
            raise SettingsError(problems)
        return found.marts


def check_published_names(
    project: Project,
    columns: Mapping[str, tuple[Field, ...]] | None = None,
    unasked: Unasked | None = None,
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
        with (unasked or Unasked()).instead_of_failing("database"), translate_errors():
            ledger = Ledger(database)
            ledger.expect_known()
            expect_known_spelling(project, ledger)
            left = expect_own_tables(project, ledger)
            expect_own_columns(project, ledger, open_lake(project), columns or {})
            return left
        return ()
    finally:
        database.dispose()
