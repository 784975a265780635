"""retailmart.yml and what overrides it: flag > environment > `.env` > file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator

from retailmart.project.documents import Document, Source, parse_yaml, validate

SETTINGS_FILE = "retailmart.yml"
_PREFIX = "RETAILMART__"
_MEMORY = re.compile(r"\d+(\.\d+)?\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.IGNORECASE)

Variable = Decimal | int | bool | str


def _exact(value: object) -> object:
    """YAML reads 0.01 as a float; a rate multiplies money, so it becomes the decimal as written."""
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


def read_settings(
    folder: Path, overrides: Mapping[str, object], problems: list[str]
) -> Settings | None:
    """Read retailmart.yml and lay `.env`, the environment and flags over it, in that order."""
    source = parse_yaml(_text(folder / SETTINGS_FILE), SETTINGS_FILE, problems)
    if source is None or not isinstance(source.data, Mapping):
        problems.append(f"{SETTINGS_FILE}: expected `key: value` lines")
        return None
    dotenv = folder / ".env"
    data: dict[str, Any] = dict(source.data)
    for layer in (
        _from_environment(_read_dotenv(dotenv) if dotenv.is_file() else {}),
        _from_environment(os.environ),
        overrides,
    ):
        data = _merge(data, layer)
    return validate(Settings, Source(source.label, data, source.lines), problems)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _read_dotenv(path: Path) -> dict[str, str]:
    from dotenv import dotenv_values  # not imported where there is no .env: start-up shows it

    return {key: value for key, value in dotenv_values(path).items() if value is not None}


def _from_environment(variables: Mapping[str, str]) -> dict[str, object]:
    """`RETAILMART__SECTION__KEY=value` as nested settings; the value is read as YAML."""
    nested: dict[str, Any] = {}
    for name, value in variables.items():
        if not name.startswith(_PREFIX):
            continue
        *sections, key = name.removeprefix(_PREFIX).lower().split("__")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = yaml.safe_load(value) if value else None
    return nested


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged
