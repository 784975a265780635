"""What a project's settings are and where each comes from, in a form that can be shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retailmart.project.addresses import veiled
from retailmart.project.documents import Location, Source
from retailmart.project.functions import FILE
from retailmart.project.monitoring import shown_target

if TYPE_CHECKING:
    from retailmart.project import Project

_SECRET = re.compile(r"\$\{secret:([^}]*)\}")
_DOTENV = ".env: "
_FLAG = "setting "
_TARGETS = (("alerts", "targets"), ("ping", "url"), ("lineage", "url"))
_DEFINITIONS = ("feeds/*.y*ml", "tables/*.y*ml", "marts/*.sql", FILE)


@dataclass(frozen=True)
class GivenSetting:
    """A setting, its value, and where it comes from.

    `value` is None for a setting that nothing gives and that has no default. `source` is `default`,
    `file`, `.env`, `environment` or `flag`; `place` is the line or variable, None for a default.
    `secrets` are the names of the secrets that the value refers to; they are never read.
    """

    name: str
    value: str | None
    source: str
    place: str | None = None
    secrets: tuple[str, ...] = ()


def given_settings(project: Project) -> tuple[GivenSetting, ...]:
    """All settings, in the order of the reference. No password and no secret is among them."""
    plain = project.settings.model_dump(mode="python")
    return tuple(
        _given(project.source, at, value, project.passwords.get(at, ""))
        for at, value in _leaves(plain, ())
    )


def digests(project: Project) -> dict[str, str]:
    """A digest of each file that defines feeds, tables, marts and functions, by its path."""
    return {
        path.relative_to(project.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in _DEFINITIONS
        for path in sorted(project.folder.glob(pattern))
    }


def _leaves(values: Mapping[str, Any], above: Location) -> Iterator[tuple[Location, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _given(source: Source, at: Location, value: Any, password: str) -> GivenSetting:
    if at in _TARGETS and value is not None:  # an address on the web may be a secret as a whole
        value = shown_target(value) if isinstance(value, str) else tuple(map(shown_target, value))
    text = None if value is None else veiled(_text(value))
    # What stands for a password is not shown, but for the name of the secret that it is.
    secrets = tuple(dict.fromkeys(_SECRET.findall(f"{value} {password}")))
    kind, place = _origin(source, at)
    return GivenSetting(".".join(map(str, at)), text, kind, place, secrets)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)


def _origin(source: Source, at: Location) -> tuple[str, str | None]:
    """Which layer gives a setting, and where; the last one that has it decides."""
    for length in range(len(at), 0, -1):
        part = at[:length]
        if origin := source.origins.get(part):
            if origin.startswith(_FLAG):
                return "flag", None
            if origin.startswith(_DOTENV):
                return ".env", origin.removeprefix(_DOTENV)
            return "environment", origin
        # A section's own line does not give the settings that it lacks.
        if length == len(at) and (line := source.lines.get(part)):
            return "file", f"{source.label}:{line}"
    return "default", None
