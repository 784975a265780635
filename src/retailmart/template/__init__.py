"""Writes the files of `retailmart init`: the retail project, which its user owns from then on."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from retailmart.errors import SettingsError
from retailmart.template.stories import STORIES, Story, stories_named

__all__ = ["STORIES", "Story", "stories_named", "write_project"]

_FILES = Path(__file__).parent / "project"
# It shows the marts of the tills.
_NOTEBOOK = Path(__file__).parent / "sample" / "explore.ipynb"
_HIDDEN = {"gitignore": ".gitignore", "env": ".env"}
_SETTINGS = "retailmart.yml"


def write_project(
    folder: Path, *, sample: bool, stories: Iterable[str] = tuple(STORIES)
) -> list[Path]:
    """Write a new project into `folder`; with `sample`, an invented retailer's first three months.

    `stories` are the parts of a retailer that it has: `tills`, `webshop`, `markets`. Returns the
    written files. Raises SettingsError for an unknown story, and instead of changing an existing
    file.
    """
    told = stories_named(stories)
    wanted = {
        folder / _HIDDEN.get(name, name): _content(path, told)
        for path in sorted(_FILES.rglob("*"))
        if path.is_file()
        for name in [path.relative_to(_FILES).as_posix()]
        if _belongs(name, told)
    }
    if sample:
        # What people look at a sample with costs the runs of no other project.
        wanted[folder / _SETTINGS] += b"marts_file: marts.duckdb\n"
        if "tills" in {story.name for story in told}:
            wanted[folder / "notebooks" / _NOTEBOOK.name] = _NOTEBOOK.read_bytes()
    wanted |= {folder / ".schema" / name: text.encode() for name, text in _schemas().items()}
    parents = {parent for path in wanted for parent in path.parents} | {folder / "landing"}
    taken = [*wanted, *_sample_places(folder, told)] if sample else list(wanted)
    there = [f"{path} is there already" for path in taken if os.path.lexists(path)]
    there += [f"{path} is no folder" for path in sorted(parents) if _is_no_folder(path)]
    if there:
        raise SettingsError(there, "Choose a new folder; nothing was written")
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "landing").mkdir(exist_ok=True)
    if sample:
        from retailmart.template.sample import write_sample

        write_sample(folder, [story.name for story in told])
    return list(wanted)


def _belongs(name: str, told: Collection[Story]) -> bool:
    """Whether a file is part of one of these stories, or of none and so of every project."""
    return any(name in story.files for story in told) or not any(
        name in story.files for story in STORIES.values()
    )


def _content(path: Path, told: Iterable[Story]) -> bytes:
    content = path.read_bytes()
    if path.name == _SETTINGS and not any(story.tables for story in told):
        # Without tables there is no source to name.
        lines = content.splitlines(keepends=True)
        return b"".join(line for line in lines if not line.startswith(b"sources:"))
    return content


def _sample_places(folder: Path, told: Iterable[Story]) -> list[Path]:
    """Files that a sample would overwrite: the shop's database, and everything in landing."""
    landing = folder / "landing"
    landed = sorted(landing.iterdir()) if landing.is_dir() else []
    return [*([folder / "shop.db"] if any(story.tables for story in told) else []), *landed]


def _is_no_folder(path: Path) -> bool:
    return os.path.lexists(path) and not path.is_dir()


@cache
def _schemas() -> dict[str, str]:
    """JSON Schemas of the YAML files, which editors use to complete and check them."""
    from retailmart.project.documents import Document
    from retailmart.project.feed import FeedDocument
    from retailmart.project.settings import Settings
    from retailmart.project.table import TableDocument

    models: dict[str, type[Document]] = {
        "retailmart": Settings,
        "feed": FeedDocument,
        "table": TableDocument,
    }
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2) + "\n"
        for name, model in models.items()
    }
