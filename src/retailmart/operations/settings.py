"""The settings of a project, where each comes from, and what changed since when."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retailmart.ledger.settings import SettingChange
from retailmart.project import Project
from retailmart.project.given import GivenSetting, digests, given_settings
from retailmart.session import view_ledger


@dataclass(frozen=True)
class GivenSettings:
    """All settings, in the order of the reference."""

    settings: tuple[GivenSetting, ...]

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SettingsHistory:
    """What changed in settings and definitions, run by run, oldest first.

    `since_last_run` is what differs now from what the last run was given; its `run_id` is 0.
    """

    changes: tuple[SettingChange, ...]
    since_last_run: tuple[SettingChange, ...]

    def to_dict(self) -> dict[str, Any]:
        """The history as plain values."""
        return asdict(self)


def settings(project: Project) -> GivenSettings:
    """Each setting, its value and where it comes from. Secrets are neither read nor shown."""
    return GivenSettings(given_settings(project))


def settings_history(project: Project) -> SettingsHistory:
    """What the ledger knows of changes in settings and definitions. Nothing is written."""
    changes = view_ledger(project, lambda view: tuple(view.ledger.settings.changes()))
    known = {change.name: change.after for change in changes}
    values = recorded(project)
    differ = [
        SettingChange(0, "", name, known.get(name), values.get(name))
        for name in {**known, **values}
        if changes and known.get(name) != values.get(name)
    ]
    return SettingsHistory(changes, tuple(differ))


def recorded(project: Project) -> dict[str, str | None]:
    """What a run records: the settings' values, and digests of the files that define the rest."""
    values = {one.name: one.value for one in given_settings(project)}
    return {**values, **digests(project)}
