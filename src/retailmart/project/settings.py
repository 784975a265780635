"""retailmart.yml and what overrides it: flag > environment > `.env` > file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from retailmart.errors import SettingsError
from retailmart.project.addresses import (
    Variables,
    checked_endpoint,
    checked_place,
    complete_url,
    fill_place,
    is_reference,
    overlap,
    query_password,
    veiled,
    without_password,
)
from retailmart.project.by_date import ByDate, Plain, by_date
from retailmart.project.documents import (
    Document,
    Location,
    Source,
    did_you_mean,
    parse_value,
    parse_yaml,
)
from retailmart.project.environment import Environment
from retailmart.project.monitoring import MonitoringSettings

SETTINGS_FILE = "retailmart.yml"
_PREFIX = "RETAILMART__"
_PLACES = (("landing",), ("lake",), ("archive",), ("s3", "endpoint"))
_WHERE_KEYS_GO = (
    "write ${secret:NAME} and store it with: retailmart secrets set NAME, or give it in the"
    " environment or in .env as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_MEMORY = re.compile(r"\d+(\.\d+)?\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.IGNORECASE)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86_400}
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")

Variable = Plain | ByDate


def _amount(value: str) -> str:
    if not _MEMORY.fullmatch(value):
        raise ValueError(f"{value!r} is no amount of memory; write it as in 2GB or 512MB")
    return value


def _exact(value: object) -> object:
    """Convert a float from Python code to the decimal it is shown as: a rate multiplies money.

    Days with values become values by date.
    """
    if isinstance(value, Mapping):
        return by_date(value)
    return Decimal(str(value)) if isinstance(value, float) else value


_PLAIN_SCHEMA = {"anyOf": [{"type": kind} for kind in ("number", "boolean", "string")]}
_ByDate = Annotated[
    InstanceOf[ByDate],
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"format": "date"},
            "additionalProperties": _PLAIN_SCHEMA,
        }
    ),
]
ExactVariable = Annotated[Plain | _ByDate, BeforeValidator(_exact)]


class S3Settings(Document):
    """How buckets are reached. A key is never written here: it comes from the environment, or a
    setting refers to it.
    """

    endpoint: str | None = Field(
        None, description="Address of an S3-compatible store, as in `http://127.0.0.1:9000`."
    )
    region: str | None = Field(
        None, description="The buckets' region; without it AWS_REGION, or that of the profile."
    )

    access_key_id: str | None = Field(
        None, description="As in ${secret:NAME}; without it, AWS_ACCESS_KEY_ID or a profile's."
    )
    secret_access_key: str | None = Field(
        None, description="As in ${secret:NAME}; without it, AWS_SECRET_ACCESS_KEY or a profile's."
    )
    session_token: str | None = Field(
        None, description="As in ${secret:NAME}, where the two keys are temporary ones."
    )

    @field_validator("access_key_id", "secret_access_key", "session_token", mode="before")
    @classmethod
    def _is_reference(cls, value: object) -> object:
        # Whatever else it is, it may be a key: it is not repeated.
        if value is not None and not (isinstance(value, str) and is_reference(value)):
            raise ValueError(f"holds a key; {_WHERE_KEYS_GO}")
        return value

    @model_validator(mode="after")
    def _are_both(self) -> S3Settings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("give both `access_key_id` and `secret_access_key`, or neither")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("`session_token` belongs to an `access_key_id`; give both")
        return self

    @field_validator("endpoint")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else checked_endpoint(value)

    @field_validator("region")
    @classmethod
    def _is_region(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9-]+", value):
            raise ValueError("a region is written as in eu-central-1")
        return value


_RETIRED = {
    "exchange": "is not used any more: rows travel through the lake; remove it",
    "file_size": "is not used any more: tasks write a file a partition; remove it",
    "jdbc_jar": "is not used any more: tasks reach databases without a JDBC driver; remove it",
    "jdbc_from": "is called parallel_from now",
}


class SparkSettings(Document):
    """How Apache Spark is reached, for `engine: spark`. A session that already exists is used."""

    master: str | None = Field(
        None,
        description="Where the session runs, as in `local[*]` or `spark://HOST:7077`; without it,"
        " what Spark itself is set up for.",
    )
    remote: str | None = Field(
        None, description="A Spark Connect server instead, as in `sc://HOST:15002`."
    )
    conf: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Any of Spark's own settings, by name."
    )
    task_memory: str | None = Field(
        None,
        description="The memory of each task's DuckDB, as in 4GB; without it, its share of what"
        " `spark.executor.pyspark.memory` grants, or of the worker's memory.",
    )
    parallel_from: int = Field(
        1_000_000, ge=1, description="Source tables of this many rows or more are read by tasks."
    )
    exchange: str | None = Field(None, description="Not used any more.")
    file_size: str | None = Field(None, description="Not used any more.")
    jdbc_jar: str | None = Field(None, description="Not used any more.")
    jdbc_from: int | None = Field(None, ge=1, description="The old name of `parallel_from`.")

    driver_reads: str = Field(
        "8MB",
        description="How much a run may read and compute on this machine itself, because a job of"
        " the cluster would take longer; 0MB leaves everything to the cluster.",
    )

    @field_validator("driver_reads", "task_memory")
    @classmethod
    def _is_size(cls, value: str | None) -> str | None:
        return None if value is None else _amount(value)

    @model_validator(mode="after")
    def _is_one_place(self) -> SparkSettings:
        if self.master and self.remote:
            raise ValueError("give `master` or `remote`, not both")
        return self

    @property
    def rows_in_parallel(self) -> int:
        """The row count from which tasks read a source's table."""
        return self.jdbc_from or self.parallel_from

    @property
    def retired(self) -> tuple[str, ...]:
        """Settings that have no effect any more, or another name, described for people."""
        return tuple(
            f"spark: {key} {message}"
            for key, message in _RETIRED.items()
            if getattr(self, key) is not None
        )


class PublishSettings(Document):
    """How the tables of published marts are created."""

    collation: Literal["exact", "database"] = Field(
        "exact",
        description="How new text columns of published tables compare: byte by byte, or by the"
        " database's own collation, as for letter case. Columns of the key are always exact.",
    )


def seconds_of(text: str) -> float:
    """The seconds of a time as settings write it, as in `90s` and `5min`; ValueError otherwise."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not (seconds := float(found[1]) * _SECONDS[found[2]]):
        raise ValueError(f"{text!r} is no time; write it as in 30s, 5min, 2h or 1d")
    return seconds


class WatchSettings(Document):
    """When `retailmart watch` runs, and where it tells how it is."""

    every: str = Field(
        "5min",
        description="The longest time between two runs, as in 30s or 5min: tables and what depends"
        " on the day are looked at then.",
    )
    poll: str = Field(
        "10s",
        description="How often landing is listed where nothing tells of changes: in a bucket, on"
        " a network drive, or without the extra `watch`.",
    )
    settle: str = Field(
        "2s", description="How long landing must have been still before what arrived is taken in."
    )
    listen: str | None = Field(
        None,
        description="Where `/healthz`, `/readyz` and `/metrics` are served, as in"
        " `127.0.0.1:9464`; without it, nowhere.",
    )
    stuck_after: str = Field(
        "1h",
        description="A run that has shown no progress for so long counts as stuck: `/healthz` says"
        " so, and systemd's watchdog starts the service again.",
    )

    @field_validator("every", "poll", "settle", "stuck_after")
    @classmethod
    def _is_time(cls, value: str) -> str:
        seconds_of(value)
        return value

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        found = None if value is None else _LISTEN.fullmatch(value)
        if value is not None and (found is None or int(found[2]) > 65_535):
            raise ValueError(f"{value!r} is no address; write HOST:PORT, as in 127.0.0.1:9464")
        return value

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and port to listen on."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class MaintenanceSettings(Document):
    """What keeps lake and ledger small and quick: see `retailmart maintain`."""

    after_run: bool = Field(
        True,
        description="Whether a run that brought something tidies up after itself, for at most"
        " `budget` seconds.",
    )
    budget: float = Field(
        3.0, ge=0, description="How many seconds maintenance after a run may begin new work."
    )
    retention_days: int = Field(
        7,
        ge=0,
        le=3650,
        description="For how many days files stay that left a table, so that readers of an older"
        " version still find them; 0 removes them at once, which is right where nobody reads the"
        " lake meanwhile.",
    )
    ledger_days: int = Field(
        90,
        ge=1,
        description="For how many days the ledger keeps runs that had nothing to do, and how long"
        " the steps of runs took; files, totals and all other runs stay for ever.",
    )


Days = Annotated[int, Field(ge=1)] | Literal["for ever"]


class KeepSettings(Document):
    """How long what grows with each day is kept. Days are whole numbers, or `for ever`."""

    exports: Days = Field(
        31,
        description="The days of which marts' exports stay in business_insights, counted back from"
        " the newest one; `for ever` keeps all. The newest one of a mart always stays.",
    )
    month_ends: bool = Field(
        True, description="Whether the last export of each month stays for ever."
    )
    archive: Days = Field(
        "for ever",
        description="The days that processed, undone and refused files stay in the archive. Without"
        " its file, an older version can't come back by an undo, nor a run be parsed again.",
    )

    @property
    def is_chosen(self) -> bool:
        """Whether somebody wrote down how long exports are kept."""
        return "exports" in self.model_fields_set


class ReportSettings(Document):
    """Whether a run writes a report; `report: always` is short for `report: {write: always}`."""

    write: Literal["never", "always"] = Field(
        "never",
        description="always: each run that did something writes a report to reports/. It needs the"
        " extra `report`.",
    )
    keep: int = Field(
        30, ge=1, description="So many reports of runs stay in reports/; older ones are removed."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_a_word(cls, value: object) -> object:
        return {"write": value} if isinstance(value, str) else value


class RunSettings(Document):
    """The sections of the settings that say where things are and how marts are computed."""

    landing: str = Field(
        "landing", description="Where files arrive: a folder, or `s3://bucket/folder`."
    )
    lake: str = Field(
        "lake", description="Where the tables of raw, quarantine and marts are: a folder, or S3."
    )
    archive: str = Field(
        "archive", description="Where processed and refused files go: a folder, or S3."
    )
    database: str = Field(
        "sqlite:///retail.db",
        description="The database of the ledger and of published marts, as in"
        " `sqlite:///retail.db`, `mysql://user@host/db` or `postgresql://user@host/db`. What a URL"
        " leaves out comes from the environment, as in MYSQL_HOST or PGHOST.",
    )
    sources: dict[str, str] = Field(
        default_factory=dict,
        description="The databases whose tables marts read, by name; written like `database`.",
    )
    s3: S3Settings = Field(default_factory=S3Settings, description="How buckets are reached.")
    engine: Literal["duckdb", "spark"] = Field("duckdb", description="What parses, joins and sums.")
    spark: SparkSettings = Field(
        default_factory=SparkSettings, description="How Apache Spark is reached."
    )
    watch: WatchSettings = Field(
        default_factory=WatchSettings, description="When `retailmart watch` runs."
    )
    publish: PublishSettings = Field(
        default_factory=PublishSettings, description="How published tables are created."
    )
    maintenance: MaintenanceSettings = Field(
        default_factory=MaintenanceSettings, description="How lake and ledger are kept small."
    )
    keep: KeepSettings = Field(
        default_factory=KeepSettings,
        description="How long exports and archived files are kept.",
    )
    marts_file: str | None = Field(
        None,
        description="A DuckDB file with a view for each mart, as in `marts.duckdb`, which each run"
        " keeps current for other tools; without it, there is none. The lake must be in a folder.",
    )
    report: ReportSettings = Field(
        default_factory=ReportSettings, description="Whether a run writes a report."
    )
    memory_limit: str | None = Field(
        None,
        description="The memory that the engine may use, as in 2GB; without it, most of the"
        " machine's.",
    )
    threads: int | None = Field(
        None, ge=1, description="The cores that the engine may use; without it, all."
    )
    variables: dict[str, ExactVariable] = Field(
        default_factory=dict,
        description="Values that marts read with getvariable('name'); they override a mart's own."
        " One that changes is written by date, as in {2024-01-01: 0.01, 2024-03-01: 0.015}, and"
        " read with variable_on('name', day).",
    )

    @field_validator("landing", "lake", "archive")
    @classmethod
    def _is_place(cls, value: str) -> str:
        return checked_place(value)

    @field_validator("memory_limit")
    @classmethod
    def _is_memory(cls, value: str | None) -> str | None:
        return None if value is None else _amount(value)


class Settings(MonitoringSettings, RunSettings):
    """Where things are, how marts are computed, and who is told of runs.

    Paths are relative to the project folder. No value holds a password: the environment or the
    project's secrets complete the URLs.
    """


def engines_named(names: Iterable[str], place: str) -> list[str]:
    """The engines of these names, each once. SettingsError for unknown names, and for none.

    `place` says where they are named.
    """
    wanted = list(dict.fromkeys(names))
    known = get_args(Settings.model_fields["engine"].annotation)
    problems = [
        f"{place}: there is no engine {name!r}{did_you_mean(name, known)}"
        for name in wanted
        if name not in known
    ]
    if problems or not wanted:
        raise SettingsError(problems or [f"{place}: names no engine"], f"Known: {', '.join(known)}")
    return wanted


@dataclass(frozen=True)
class _Given:
    """A setting from outside the file: its value as given, and its origin."""

    location: tuple[str, ...]
    value: object
    origin: str
    any_case: bool = False

    def origin_of(self, section: Location) -> str:
        """The origin of a section that is there only because something below it is given."""
        for mark in (".", "__"):
            whole, part = mark.join(self.location), mark.join(map(str, section))
            before, name = self.origin[: -len(whole)], self.origin[-len(whole) :]
            if name.lower() == whole.lower():
                return before + name[: len(part)]
        return self.origin


@dataclass(frozen=True)
class ReadSettings:
    """Settings combined from all origins, not validated yet.

    `passwords` are those that were in URLs of the environment or of flags. The settings show `***`
    instead.
    """

    source: Source
    passwords: Mapping[Location, str] = field(repr=False)


def read_settings(
    folder: Path, overrides: Mapping[str, object], environment: Environment, problems: list[str]
) -> ReadSettings | None:
    """Combine retailmart.yml with `.env`, the environment and flags; later ones override."""
    source = parse_yaml(_text(folder / SETTINGS_FILE), SETTINGS_FILE, problems)
    if source is None:
        return None
    if not isinstance(source.data, Mapping):
        problems.append(f"{source.at(())}: expected `key: value` lines")
        return None
    data: dict[str, Any] = dict(source.data)
    origins: dict[Location, str] = {}
    given = [
        value
        for layer in reversed(environment.layers)
        for value in _from_environment(layer.variables, layer.label, problems)
    ]
    for value in (*given, *_leaves(overrides, ())):
        _lay(data, value, origins, problems)
    if "database" not in data:
        _lay_usual_database(data, environment, origins, problems)
    laid = Source(source.label, data, source.lines, origins)
    passwords = _take_passwords(laid, data, problems)
    _try_urls(laid, data, environment, passwords, problems)
    _fill_places(laid, data, environment, problems)
    return ReadSettings(laid, passwords)


def overlaps(settings: Settings, source: Source, folder: Path) -> Iterator[str]:
    """Locations of which one contains the other: files archived into landing would land again."""
    for one, other in combinations(("landing", "lake", "archive"), 2):
        if overlap(getattr(settings, one), getattr(settings, other), folder):
            yield (
                f"{source.at((other,))}: {other}: is {one}, lies in it or holds it; keep them apart"
            )


def misplaced_marts_file(settings: Settings, source: Source) -> Iterator[str]:
    """What is wrong with `marts_file`: its views name files, and those of a bucket are none."""
    if settings.marts_file is not None and settings.lake.startswith("s3://"):
        yield (
            f"{source.at(('marts_file',))}: marts_file: the lake is in a bucket, whose files the"
            " views can't name; leave it out, and see docs/bi.md for how to read a bucket"
        )


def read_pairs(pairs: Iterable[str]) -> dict[str, object]:
    """Parse `section.key=value` flags to nested settings; the value is read as YAML.

    Raises SettingsError with all that cannot be read, and for a password in a database's URL.
    """
    nested: dict[str, Any] = {}
    origins: dict[Location, str] = {}
    problems: list[str] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        location = tuple(key.split("."))
        shown = f"--set {key}=…" if equals and _may_hold_password(location) else f"--set {pair}"
        if not equals or not all(location):
            problems.append(f"{veiled(shown)}: write it as KEY=VALUE")
            continue
        try:
            given = _Given(location, _value(location, text), shown)
        except ValueError as error:
            problems.append(veiled(f"{shown}: {error}"))
            continue
        looks = _may_hold_password(location) or "://" in text
        if looks and any(map(_has_password, _texts(given.value))):
            problems.append(
                f"--set {key}=…: holds a password, and the list of processes shows it to everybody"
                f" on this machine; {_where_to(next(filter(_has_password, _texts(given.value))))}"
            )
            continue
        _lay(nested, given, origins, problems)
    if problems:
        raise SettingsError(problems)
    return nested


def _where_to(url: str) -> str:
    """Where the password of a URL belongs, in the words of its kind of database."""
    names = _of_server(url)
    return (
        f"write {names.scheme}://USER@HOST/DB and give the password in the environment or in .env"
        f" as {names.of('PASSWORD')}, or write ${{secret:NAME}} in its place and store it with:"
        " retailmart secrets set NAME"
    )


def _of_server(url: str) -> Variables:
    """The variables of a URL's kind of database; of the first kind, if the URL does not show it."""
    from retailmart.database.registry import kind_of, kinds

    named = None
    with suppress(KeyError):
        named = kind_of(url.partition(":")[0].strip()).variables
    return named or next(kind.variables for kind in kinds() if kind.variables)


def _has_password(text: str) -> bool:
    return without_password(text)[1] is not None or query_password(text)


def _texts(value: object) -> Iterator[str]:
    """All texts in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield str(key)
            yield from _texts(below)
    elif isinstance(value, list):
        for below in value:
            yield from _texts(below)


def _may_hold_password(location: tuple[str, ...]) -> bool:
    first, second = location[0].lower(), location[1].lower() if len(location) > 1 else ""
    return first in ("database", "sources") or (
        first == "s3" and second not in ("endpoint", "region")
    )


def _is_text(location: tuple[str, ...]) -> bool:
    """Whether a setting that may hold a password is a text, and no section of several."""
    return len(location) == (1 if location[0].lower() == "database" else 2)


def _value(location: tuple[str, ...], text: str) -> object:
    """A value from outside the file, read as YAML; ValueError describes an error.

    A database's URL or a key is not parsed: YAML would cut it at ` #` or stop at `: `.
    """
    if not _may_hold_password(location):
        return parse_value(text)
    if _is_text(location) and text and text[0] not in "'\"":
        return text
    try:
        return parse_value(text)
    except ValueError as error:
        message = str(error).rpartition(" is no YAML value: ")[2]
        raise ValueError(f"is no YAML value: {message}") from None


def _lay_usual_database(
    data: dict[str, Any],
    environment: Environment,
    origins: dict[Location, str],
    problems: list[str],
) -> None:
    """If no setting names the database, use a server's usual variables."""
    from retailmart.database.registry import kinds

    for names in (kind.variables for kind in kinds()):
        for name in (names.of("HOST"), names.of("DATABASE")) if names else ():
            if names and name in environment:
                _lay(data, _Given(("database",), f"{names.scheme}://", name), origins, problems)
                return


def _urls(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The URLs of databases, with their locations."""
    if isinstance(data.get("database"), str):
        yield ("database",), data["database"]
    sources = data.get("sources")
    if isinstance(sources, Mapping):
        for name, url in sources.items():
            if isinstance(url, str):
                yield ("sources", str(name)), url


def _take_passwords(
    source: Source, data: dict[str, Any], problems: list[str]
) -> dict[Location, str]:
    """Take the passwords out of URLs; a password in the file is a mistake."""
    passwords: dict[Location, str] = {}
    for location, url in list(_urls(data)):
        shown, password = without_password(url)
        in_query = query_password(url)
        if password is None and not in_query:
            continue
        place, name = source.at(location), ".".join(location)
        if not _is_from_outside(source, location):
            problems.append(f"{place}: {name}: holds a password; {_where_to(url)}")
        elif in_query:
            problems.append(
                f"{place}: {name}: a password goes before the @, as in"
                f" {_of_server(url).scheme}://USER:PASSWORD@HOST/DB, or into"
                f" {_of_server(url).of('PASSWORD')}"
            )
        if in_query:
            shown = shown.partition("?")[0]
        if password is not None:
            passwords[location] = password
        _put(data, location, shown)
    return passwords


def _is_from_outside(source: Source, location: Location) -> bool:
    return any(location[:length] in source.origins for length in range(1, len(location) + 1))


def _put(data: dict[str, Any], location: tuple[str, ...], value: str) -> None:
    place = data
    for part in location[:-1]:
        place[part] = dict(place[part])
        place = place[part]
    place[location[-1]] = value


def _try_urls(
    source: Source,
    data: Mapping[str, Any],
    environment: Environment,
    passwords: Mapping[Location, str],
    problems: list[str],
) -> None:
    """Report references in URLs to unset variables. No secret is read."""
    for location, url in _urls(data):
        try:
            complete_url(url, environment, None, passwords.get(location))
        except ValueError as error:
            problems.append(f"{source.at(location)}: {'.'.join(location)}: {error}")
        except SettingsError as error:
            problems += [f"{source.at(location)}: {problem}" for problem in error.problems]


def _fill_places(
    source: Source, data: dict[str, Any], environment: Environment, problems: list[str]
) -> None:
    for location in _PLACES:
        above = data if len(location) == 1 else data.get(location[0])
        text = above.get(location[-1]) if isinstance(above, Mapping) else None
        if not isinstance(text, str):
            continue
        try:
            _put(data, location, fill_place(text, environment))
        except ValueError as error:
            problems.append(f"{source.at(location)}: {'.'.join(location)}: {error}")
        except SettingsError as error:
            problems += [f"{source.at(location)}: {problem}" for problem in error.problems]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def is_setting(name: str) -> bool:
    """Whether an environment variable overrides a setting."""
    return name.upper().startswith(_PREFIX)


def _from_environment(
    variables: Mapping[str, str], label: str, problems: list[str]
) -> Iterator[_Given]:
    """`RETAILMART__SECTION__KEY=value`, in any letter case; the value is read as YAML."""
    for name, text in sorted(variables.items()):
        if not is_setting(name):
            continue
        location = tuple(name[len(_PREFIX) :].lower().split("__"))
        try:
            yield _Given(location, _value(location, text), f"{label}{name}", any_case=True)
        except ValueError as error:
            problems.append(f"{label}{name}: {error}")


def _leaves(values: Mapping[str, object], above: tuple[str, ...]) -> Iterator[_Given]:
    for key, value in values.items():
        location = (*above, key)
        if isinstance(value, Mapping) and value and _is_section(location):
            yield from _leaves(value, location)
        else:
            yield _Given(location, value, f"setting {'.'.join(location)}")


def _lay(
    data: dict[str, Any], given: _Given, origins: dict[Location, str], problems: list[str]
) -> None:
    """Insert a given value at its location; a mapping is merged with an existing one."""
    place = data
    done: tuple[str, ...] = ()
    for part in given.location[:-1]:
        done = (*done, _same_key(place, part, given))
        below = place.get(done[-1])
        if below is not None and not isinstance(below, Mapping):
            problems.append(f"{given.origin}: {'.'.join(done)!r} is a value, no section")
            return
        if below is None:
            origins.setdefault(done, given.origin_of(done))
        place[done[-1]] = dict(below or {})
        place = place[done[-1]]
    last = _same_key(place, given.location[-1], given)
    old, value = place.get(last), given.value
    both = isinstance(old, Mapping) and isinstance(value, Mapping) and _is_section((*done, last))
    place[last] = {**old, **value} if both else value  # type: ignore[dict-item]
    origins[(*done, last)] = given.origin


def _is_section(location: Location) -> bool:
    """Whether a mapping there is merged key by key.

    The days of a variable are one value: the days of another layer replace all of them.
    """
    return location[:1] != ("variables",) or len(location) == 1


def _same_key(place: Mapping[str, object], part: str, given: _Given) -> str:
    """The file's spelling of a key: names in the environment have no reliable letter case."""
    if not given.any_case or part in place:
        return part
    return next((key for key in place if key.lower() == part), part)
