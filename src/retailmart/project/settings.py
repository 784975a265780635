"""retailmart.yml and what overrides it: flag > environment > `.env` > file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from retailmart.errors import SettingsError
from retailmart.project.documents import Document, Location, Source, parse_value, parse_yaml

SETTINGS_FILE = "retailmart.yml"
_PREFIX = "RETAILMART__"
_MEMORY = re.compile(r"\d+(\.\d+)?\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.IGNORECASE)

Variable = Decimal | int | bool | str


def _exact(value: object) -> object:
    """A rate multiplies money: a float from Python code becomes the decimal it is shown as."""
    return Decimal(str(value)) if isinstance(value, float) else value


ExactVariable = Annotated[Variable, BeforeValidator(_exact)]


class Settings(Document):
    """Where things lie and how marts are computed. Paths are relative to the project folder."""

    landing: str = Field("landing", description="Folder where files arrive.")
    lake: str = Field("lake", description="Folder of raw, quarantine and mart tables.")
    archive: str = Field("archive", description="Folder of processed and refused files.")
    database: str = Field(
        "sqlite:///retail.db", description="Database of the ledger and of published marts."
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="Databases that dimensions are read from, by name."
    )
    engine: Literal["duckdb"] = Field("duckdb", description="What parses, joins and sums.")
    memory_limit: str | None = Field(None, description="What the engine may use, as in 2GB.")
    threads: int | None = Field(None, ge=1, description="Cores the engine may use.")
    variables: dict[str, ExactVariable] = Field(
        default_factory=dict, description="Values that marts read with getvariable('name')."
    )

    @field_validator("memory_limit")
    @classmethod
    def _is_memory(cls, value: str | None) -> str | None:
        if value is not None and not _MEMORY.fullmatch(value):
            raise ValueError(f"{value!r} is no amount of memory; write it as in 2GB or 512MB")
        return value


@dataclass(frozen=True)
class _Given:
    """A setting from outside the file, its value as given and the place that names it."""

    location: tuple[str, ...]
    value: object
    origin: str
    any_case: bool = False


def read_settings(
    folder: Path, overrides: Mapping[str, object], problems: list[str]
) -> Source | None:
    """retailmart.yml with `.env`, the environment and flags laid over it, in that order."""
    source = parse_yaml(_text(folder / SETTINGS_FILE), SETTINGS_FILE, problems)
    if source is None:
        return None
    if not isinstance(source.data, Mapping):
        problems.append(f"{source.at(())}: expected `key: value` lines")
        return None
    data: dict[str, Any] = dict(source.data)
    origins: dict[Location, str] = {}
    for given in (
        *_from_environment(_read_dotenv(folder / ".env"), ".env: ", problems),
        *_from_environment(os.environ, "", problems),
        *_leaves(overrides, ()),
    ):
        _lay(data, given, origins, problems)
    return Source(source.label, data, source.lines, origins)


def read_pairs(pairs: Iterable[str]) -> dict[str, object]:
    """`section.key=value` flags as nested settings; the value is read as YAML.

    Raises SettingsError with all that cannot be read.
    """
    nested: dict[str, Any] = {}
    origins: dict[Location, str] = {}
    problems: list[str] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        location = tuple(key.split("."))
        if not equals or not all(location):
            problems.append(f"--set {pair}: write it as KEY=VALUE")
            continue
        try:
            given = _Given(location, parse_value(text), f"--set {pair}")
        except ValueError as error:
            problems.append(f"--set {pair}: {error}")
        else:
            _lay(nested, given, origins, problems)
    if problems:
        raise SettingsError(problems)
    return nested


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from io import StringIO

    from dotenv import dotenv_values  # not imported where there is no .env: start-up shows it

    values = dotenv_values(stream=StringIO(_text(path)))
    return {key: value for key, value in values.items() if value is not None}


def _from_environment(
    variables: Mapping[str, str], label: str, problems: list[str]
) -> Iterator[_Given]:
    """`RETAILMART__SECTION__KEY=value`, in any letter case; the value is read as YAML."""
    for name, text in sorted(variables.items()):
        if not name.upper().startswith(_PREFIX):
            continue
        location = tuple(name[len(_PREFIX) :].lower().split("__"))
        try:
            yield _Given(location, parse_value(text), f"{label}{name}", any_case=True)
        except ValueError as error:
            problems.append(f"{label}{name}: {error}")


def _leaves(values: Mapping[str, object], above: tuple[str, ...]) -> Iterator[_Given]:
    for key, value in values.items():
        location = (*above, key)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, location)
        else:
            yield _Given(location, value, f"setting {'.'.join(location)}")


def _lay(
    data: dict[str, Any], given: _Given, origins: dict[Location, str], problems: list[str]
) -> None:
    """Put a given value in its place; a mapping joins the one that is there."""
    place = data
    done: tuple[str, ...] = ()
    for part in given.location[:-1]:
        done = (*done, _same_key(place, part, given))
        below = place.get(done[-1])
        if below is not None and not isinstance(below, Mapping):
            problems.append(f"{given.origin}: {'.'.join(done)!r} is a value, no section")
            return
        place[done[-1]] = dict(below or {})
        place = place[done[-1]]
    last = _same_key(place, given.location[-1], given)
    old, value = place.get(last), given.value
    both = isinstance(old, Mapping) and isinstance(value, Mapping)
    place[last] = {**old, **value} if both else value  # type: ignore[dict-item]
    origins[(*done, last)] = given.origin


def _same_key(place: Mapping[str, object], part: str, given: _Given) -> str:
    """Names in the environment have no letter case of their own: they take the file's."""
    if not given.any_case or part in place:
        return part
    return next((key for key in place if key.lower() == part), part)
