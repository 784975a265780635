"""What the user owns, read and validated into frozen values: settings, feeds and marts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retailmart.errors import NotAProject, SettingsError
from retailmart.project.feed import Feed, read_feed
from retailmart.project.mart import Mart, read_mart
from retailmart.project.settings import SETTINGS_FILE, Settings, read_settings

__all__ = ["Feed", "Mart", "Project", "Settings", "load_project"]


@dataclass(frozen=True)
class Project:
    """A project folder's whole definition. Names in `feeds` and `marts` are unique and ordered."""

    folder: Path
    settings: Settings
    feeds: Mapping[str, Feed]
    marts: Mapping[str, Mart]


def load_project(folder: Path, overrides: Mapping[str, object] | None = None) -> Project:
    """Read every file of the project; `overrides` are flags, nested like the settings file.

    Raises SettingsError with all mistakes of all files at once, NotAProject without a
    retailmart.yml.
    """
    folder = folder.resolve()
    if not (folder / SETTINGS_FILE).is_file():
        raise NotAProject(
            [f"{folder} holds no {SETTINGS_FILE}"],
            "Go to your project's folder, or write one with: retailmart init DIR --sample",
        )
    problems: list[str] = []
    settings = read_settings(folder, overrides or {}, problems)
    feeds = [read_feed(path, folder, problems) for path in sorted(folder.glob("feeds/*.y*ml"))]
    marts = [read_mart(path, folder, problems) for path in sorted(folder.glob("marts/*.sql"))]
    named_feeds = {feed.name: feed for feed in feeds if feed}
    named_marts = {mart.name: mart for mart in marts if mart}
    problems += _clashes(named_feeds, named_marts)
    if problems or settings is None:
        raise SettingsError(problems)
    return Project(folder, settings, named_feeds, named_marts)


def _clashes(feeds: Mapping[str, Feed], marts: Mapping[str, Mart]) -> list[str]:
    both = [
        f"marts/{name}.sql: a feed is called {name!r} too; a name means one table"
        for name in feeds.keys() & marts.keys()
    ]
    unknown = [
        f"marts/{mart.name}.sql: balances against {feed!r}, no feed that has a `balance` column"
        for mart in marts.values()
        for feed in mart.balance
        if feed not in feeds or feeds[feed].balance is None
    ]
    return sorted(both + unknown)
