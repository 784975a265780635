"""Reads and validates what the user owns into frozen values: settings, feeds, tables, marts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from retailmart.errors import NotAProject, SettingsError
from retailmart.project.addresses import complete_url, fill_key, references, veiled
from retailmart.project.by_date import kind_of
from retailmart.project.documents import Location, Source, did_you_mean, validate
from retailmart.project.environment import Environment
from retailmart.project.feed import Feed, overlapping, read_feed
from retailmart.project.functions import FILE as FUNCTIONS_FILE
from retailmart.project.functions import Functions, read_functions
from retailmart.project.mart import Mart, read_mart
from retailmart.project.monitoring import MonitoringSettings, complete_target
from retailmart.project.secrets import SecretStore
from retailmart.project.settings import (
    SETTINGS_FILE,
    Settings,
    Variable,
    is_setting,
    misplaced_marts_file,
    overlaps,
    read_settings,
)
from retailmart.project.table import HISTORY, Table, read_table_file

__all__ = [
    "Feed",
    "Mart",
    "Monitoring",
    "Project",
    "Settings",
    "Table",
    "load_monitoring",
    "load_project",
    "open_secrets",
]


@dataclass(frozen=True)
class Monitoring:
    """Who is told of a project's runs; known even if other files of the project have mistakes."""

    folder: Path
    settings: MonitoringSettings
    _fill: Callable[[str], str] = field(repr=False, compare=False)

    def url(self, target: str) -> str:
        """A target's whole address, only to send. SettingsError if it refers to what is not set."""
        try:
            return self._fill(target)
        except ValueError as error:
            raise SettingsError([str(error)]) from None


@dataclass(frozen=True)
class Project:
    """The whole definition of a project folder. Feeds, tables and marts have unique, sorted names.

    `environment` is the process's, with `.env` as fallback. Neither it nor a password is ever
    shown: settings refer to them, and the methods here insert them at the moment of connecting.
    """

    folder: Path
    settings: Settings
    feeds: Mapping[str, Feed]
    marts: Mapping[str, Mart]
    environment: Environment = field(repr=False, compare=False)
    source: Source = field(repr=False, compare=False)
    passwords: Mapping[Location, str] = field(default_factory=dict, repr=False, compare=False)
    tables: Mapping[str, Table] = field(default_factory=dict)
    functions: Functions = field(default_factory=Functions)
    overrides: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)
    stamp: tuple[object, ...] = field(default=(), repr=False, compare=False)

    def read_again(self) -> Project:
        """The project as its files are now. SettingsError with all mistakes of all files."""
        return load_project(self.folder, self.overrides)

    def stamp_now(self) -> tuple[object, ...]:
        """A value that changes when one of the project's files does; none is read.

        `stamp` is what it was when they were read.
        """
        return _stamp_of(self.folder)

    @property
    def variables(self) -> dict[str, Variable]:
        """The values that marts read: their headers' defaults under the settings' own."""
        defaults: dict[str, Variable] = {}
        for mart in self.marts.values():
            defaults |= mart.variables
        return defaults | self.settings.variables

    def database_url(self) -> str:
        """The database's URL with its password, only to connect. SettingsError if incomplete."""
        return self._url(("database",), self.settings.database)

    def source_url(self, name: str) -> str:
        """A source's URL with its password, only to connect. SettingsError if incomplete."""
        return self._url(("sources", name), self.settings.sources[name])

    def s3_keys(self) -> dict[str, str]:
        """The keys that `s3` refers to, only to connect; none if it names none.

        They are `access_key_id`, `secret_access_key` and perhaps `token`. SettingsError if one is
        missing.
        """
        return {name: read() for name, read in self._s3_keys().items()}

    def _s3_keys(self) -> dict[str, Callable[[], str]]:
        s3 = self.settings.s3
        named = {
            "access_key_id": ("access_key_id", s3.access_key_id),
            "secret_access_key": ("secret_access_key", s3.secret_access_key),
            "token": ("session_token", s3.session_token),
        }
        return {
            key: partial(
                self._located,
                ("s3", setting),
                partial(fill_key, text, self.environment, self._store.get),
            )
            for key, (setting, text) in named.items()
            if text is not None
        }

    def monitoring(self) -> Monitoring:
        """Who is told of the project's runs."""
        sections = {name: getattr(self.settings, name) for name in MonitoringSettings.model_fields}
        settings = MonitoringSettings.model_construct(**sections)
        return Monitoring(self.folder, settings, self._fill_target)

    def _fill_target(self, target: str) -> str:
        return complete_target(target, self.environment, self._store.get)

    def _targets(self) -> Iterator[tuple[Location, str]]:
        """The settings that name a target outside."""
        settings = self.settings
        for number, target in enumerate(settings.alerts.targets):
            yield ("alerts", "targets", number), target
        named = {
            ("lineage", "url"): settings.lineage.url,
            ("lineage", "api_key"): settings.lineage.api_key,
            ("ping", "url"): settings.ping.url,
        }
        yield from ((location, url) for location, url in named.items() if url is not None)

    def secrets(self) -> SecretStore:
        """The project's encrypted store."""
        return self._store

    @cached_property
    def _store(self) -> SecretStore:
        # One for all: deriving its key takes a tenth of a second.
        return SecretStore(self.folder, self.environment)

    def check_secrets(self) -> None:
        """Raise SettingsError with everything that is missing to connect. Connects to nothing."""
        problems: list[str] = []
        hints: list[str] = []
        for look in self._connections():
            try:
                look()
            except SettingsError as error:
                # What a variable lacks is told once, not again for each setting that uses it.
                problems += [
                    message
                    for message in error.problems
                    if not any(message.endswith(f": {before}") for before in problems)
                ]
                hints += [error.hint] if error.hint else []
        if problems:
            raise SettingsError(problems, "\n  ".join(dict.fromkeys(hints)) or None)

    def _connections(self) -> Iterator[Callable[[], object]]:
        """Everything that can lack a secret."""
        for variable in self.environment.referring():
            if not is_setting(variable):  # a setting keeps its references
                yield partial(self.environment.__getitem__, variable)
        yield self.database_url
        for name in self.settings.sources:
            yield partial(self.source_url, name)
        yield from self._s3_keys().values()
        for location, target in self._targets():
            if references(target):
                yield partial(self._located, location, partial(self._fill_target, target))

    def _url(self, location: Location, url: str) -> str:
        password = self.passwords.get(location)
        whole = partial(complete_url, url, self.environment, self._store.get, password)
        return self._located(location, whole)

    def _located(self, location: Location, work: Callable[[], str]) -> str:
        """The result of work on a setting; its errors name the setting's place."""
        place = f"{self.source.at(location)}: {'.'.join(map(str, location))}"
        try:
            return work()
        except ValueError as error:
            raise SettingsError([f"{place}: {error}"]) from None
        except SettingsError as error:
            told = [f"{place}: {problem}" for problem in error.problems]
            raise SettingsError(told, error.hint) from None


def load_project(folder: Path, overrides: Mapping[str, object] | None = None) -> Project:
    """Read every file of the project; `overrides` are flags, nested like the settings file.

    Raises SettingsError with all mistakes of all files at once, NotAProject if there is no
    retailmart.yml.
    """
    folder = _project_folder(folder)
    stamp = _stamp_of(folder)
    problems = _misread_path(folder)
    plain = Environment.of(folder)
    # Its key is a plain variable: a secret can't open the store that it lies in.
    environment = plain.asking(SecretStore(folder, plain).get)
    read = read_settings(folder, overrides or {}, environment, problems)
    source = read.source if read else None
    settings = validate(Settings, source, problems) if source else None
    if source and settings:
        problems += overlaps(settings, source, folder)
        problems += misplaced_marts_file(settings, source)
    feed_files = sorted(folder.glob("feeds/*.y*ml"))
    table_files = sorted(folder.glob("tables/*.y*ml"))
    mart_files = sorted(folder.glob("marts/*.sql"))
    problems += _same_names(folder, [*feed_files, *table_files, *mart_files])
    feeds = [read_feed(path, folder, problems) for path in feed_files]
    tables = [read_table_file(path, folder, problems) for path in table_files]
    marts = [read_mart(path, folder, problems) for path in mart_files]
    named = [*feed_files, *table_files, *mart_files]
    taken = {path.stem.lower(): path.relative_to(folder).as_posix() for path in named}
    functions = read_functions(folder, taken, problems)
    named_feeds = {feed.name: feed for feed in feeds if feed}
    named_tables = {table.name: table for table in tables if table}
    named_marts = {mart.name: mart for mart in marts if mart}
    if settings:
        problems += _table_mistakes(folder, settings, named_tables, {*named_feeds, *named_marts})
    problems += _published_twice(named_marts)
    if all(marts):
        problems += _unknown_agreements(named_marts)
    # If a file has mistakes, do not report its missing declarations a second time.
    if all(feeds):
        problems += overlapping(named_feeds.values())
        problems += _unknown_balances(named_feeds, named_marts)
    if all(marts) and source and settings:
        problems += _unknown_variables(source, settings, named_marts)
        problems += _unlike_defaults(settings, named_marts)
        problems += _unlike_types(source, settings, named_marts)
    if problems or settings is None or read is None:
        raise SettingsError([veiled(problem) for problem in problems])
    return Project(
        folder,
        settings,
        named_feeds,
        named_marts,
        environment,
        read.source,
        read.passwords,
        named_tables,
        functions,
        overrides or {},
        stamp,
    )


def load_monitoring(
    folder: Path, overrides: Mapping[str, object] | None = None
) -> Monitoring | None:
    """Who is told of a project's runs, whatever mistakes its files have.

    A section with mistakes is left out, and so are feeds and marts. None if there is no project, or
    if its settings are no YAML.
    """
    try:
        folder = _project_folder(folder)
        plain = Environment.of(folder)
        store = SecretStore(folder, plain)
        environment = plain.asking(store.get)
        read = read_settings(folder, overrides or {}, environment, [])
    except (SettingsError, OSError):
        return None
    if read is None or not isinstance(read.source.data, Mapping):
        return None
    sections: dict[str, object] = {}
    for name in MonitoringSettings.model_fields.keys() & read.source.data.keys():
        alone = Source(read.source.label, {name: read.source.data[name]})
        if (found := validate(MonitoringSettings, alone, [])) is not None:
            sections[name] = getattr(found, name)
    settings = MonitoringSettings().model_copy(update=sections)
    return Monitoring(
        folder, settings, lambda target: complete_target(target, environment, store.get)
    )


def open_secrets(folder: Path) -> SecretStore:
    """The encrypted store of a project, even if its settings have mistakes.

    Raises NotAProject if there is no retailmart.yml.
    """
    folder = _project_folder(folder)
    return SecretStore(folder, Environment.of(folder))


def _files_of(folder: Path) -> list[Path]:
    """The files that define a project."""
    single = (folder / name for name in (SETTINGS_FILE, ".env", FUNCTIONS_FILE))
    return [
        *single,
        *sorted(folder.glob("feeds/*.y*ml")),
        *sorted(folder.glob("tables/*.y*ml")),
        *sorted(folder.glob("marts/*.sql")),
    ]


def _stamp_of(folder: Path) -> tuple[object, ...]:
    return tuple(map(_stamp, _files_of(folder)))


def _stamp(path: Path) -> tuple[object, ...]:
    try:
        status = path.stat()
    except OSError:  # it is optional, or was removed since the folder was listed
        return (path.name,)
    return path.name, status.st_size, status.st_mtime_ns, status.st_ino


def _project_folder(folder: Path) -> Path:
    folder = folder.resolve()
    if not (folder / SETTINGS_FILE).is_file():
        raise NotAProject(
            [f"{folder} holds no {SETTINGS_FILE}"],
            "Go to your project's folder, or write one with: retailmart init DIR --sample",
        )
    return folder


def _misread_path(folder: Path) -> list[str]:
    """Check a path for `%41`, which the lake's library reads as A, and for a backslash."""
    if not re.search(r"%[0-9A-Fa-f]{2}|\\", str(folder)):
        return []
    return [f"{folder}: what reads the lake takes a % or \\ in a path amiss; rename the folder"]


def _same_names(folder: Path, files: list[Path]) -> list[str]:
    """Mistakes in names: each name means one table, and SQL ignores letter case."""
    first: dict[str, str] = {}
    problems = []
    for path in files:
        label = path.relative_to(folder).as_posix()
        other = first.setdefault(path.stem.lower(), label)
        if other != label:
            problems.append(f"{label}: {other} has this name too; a name means one table")
    return problems


def _table_mistakes(
    folder: Path, settings: Settings, tables: Mapping[str, Table], others: set[str]
) -> list[str]:
    """Sources that do not exist, and versions that would take another table's name."""
    problems = []
    taken = {name.lower() for name in (*tables, *others)}
    for table in tables.values():
        label = f"tables/{table.name}.yml"
        if table.source is not None and table.source not in settings.sources:
            hint = did_you_mean(table.source, settings.sources)
            problems.append(f"{label}: source: there is no source {table.source!r}{hint}")
        if table.history and (table.name + HISTORY).lower() in taken:
            problems.append(f"{label}: its versions are {table.name + HISTORY}, which is taken")
    return problems


def _unknown_balances(feeds: Mapping[str, Feed], marts: Mapping[str, Mart]) -> list[str]:
    balancing = [feed.name for feed in feeds.values() if feed.balance]
    return [
        f"{mart.header.at(('balance', feed))}: balances against {feed!r}, no feed that has a"
        f" `balance` column{did_you_mean(feed, balancing)}"
        for mart in marts.values()
        for feed in mart.balance
        if feed not in balancing
    ]


def _unknown_agreements(marts: Mapping[str, Mart]) -> list[str]:
    problems = []
    for mart in marts.values():
        for other in mart.agrees:
            place = mart.header.at(("agrees", other))
            if other not in marts:
                hint = did_you_mean(other, marts)
                problems.append(f"{place}: agrees: there is no mart {other!r}{hint}")
            elif not marts[other].key:
                problems.append(f"{place}: agrees: {other!r} has no `key` to compare by")
    return problems


def _published_twice(marts: Mapping[str, Mart]) -> list[str]:
    first: dict[str, str] = {}
    return [
        f"{mart.header.at(('publish',))}: publish: {mart.publish_as!r} is published by"
        f" {first[mart.publish_as.lower()]!r} too"
        for mart in marts.values()
        if mart.publish_as and first.setdefault(mart.publish_as.lower(), mart.name) != mart.name
    ]


def _unknown_variables(source: Source, settings: Settings, marts: Mapping[str, Mart]) -> list[str]:
    declared = {name for mart in marts.values() for name in mart.variables}
    return [
        f"{source.at(('variables', name))}: no mart declares the variable"
        f" {name!r}{did_you_mean(name, declared)}"
        for name in settings.variables
        if name not in declared
    ]


def _unlike_defaults(settings: Settings, marts: Mapping[str, Mart]) -> list[str]:
    """Two defaults that differ, if used: a variable has one value for all marts."""
    first: dict[str, tuple[str, object]] = {}
    problems = []
    for mart in marts.values():
        for name, value in mart.variables.items():
            other, known = first.setdefault(name.lower(), (mart.name, value))
            if (type(known), known) != (type(value), value) and name not in settings.variables:
                problems.append(
                    f"{mart.header.at(('variables', name))}: variables: {name} is {value} here and"
                    f" {known} in marts/{other}.sql; a variable has one value for all marts"
                )
    return problems


def _unlike_types(source: Source, settings: Settings, marts: Mapping[str, Mart]) -> list[str]:
    """Values of another type than the default, for which the mart was written."""
    problems = []
    for name, value in settings.variables.items():
        for mart in marts.values():
            default = mart.variables.get(name, value)
            if kind_of(default) != kind_of(value):
                problems.append(
                    f"{source.at(('variables', name))}: variables: {name} is {kind_of(value)} here"
                    f" and {kind_of(default)} in marts/{mart.name}.sql"
                )
    return problems
