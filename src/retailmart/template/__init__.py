"""Writes the files of `retailmart init`: the retail project, which its user owns from then on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from retailmart.errors import SettingsError

_FILES = Path(__file__).parent / "project"
_HIDDEN = {"gitignore": ".gitignore", "env": ".env"}


def write_project(folder: Path, *, sample: bool) -> list[Path]:
    """Write a new project into `folder`; with `sample`, an invented retailer's first three months.

    Returns the written files. Raises SettingsError instead of changing an existing file.
    """
    wanted = {
        folder / _HIDDEN.get(name, name): path.read_bytes()
        for path in sorted(_FILES.rglob("*"))
        if path.is_file()
        for name in [path.relative_to(_FILES).as_posix()]
    }
    wanted |= {folder / ".schema" / name: text.encode() for name, text in _schemas().items()}
    parents = {parent for path in wanted for parent in path.parents} | {folder / "landing"}
    taken = [*wanted, *_sample_places(folder)] if sample else list(wanted)
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

        write_sample(folder)
    return list(wanted)


def _sample_places(folder: Path) -> list[Path]:
    """Files that a sample would overwrite: the shop's database, and everything in landing."""
    landing = folder / "landing"
    landed = sorted(landing.iterdir()) if landing.is_dir() else []
    return [folder / "shop.db", *landed]


def _is_no_folder(path: Path) -> bool:
    return os.path.lexists(path) and not path.is_dir()


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
