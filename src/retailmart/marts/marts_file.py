"""`marts.duckdb`: a view a mart over the lake's current files, for tools that know DuckDB.

It is written beside its place and swapped in by one rename. Who has it open reads on in the file
before it: all of its views are of one moment, and their data files stay for a while after they left
their tables. What the file shows is recorded beside the run's other private files, so that to see
whether it is current nothing is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from retailmart.errors import RetailmartError
from retailmart.lake import Lake
from retailmart.lake.layout import mart_table
from retailmart.ledger import Ledger
from retailmart.ledger.values import MartRecord
from retailmart.storage import sync_file, sync_folder

# In the record: another number has the next run write the file again.
_FORM: Final = 1


@dataclass(frozen=True)
class MartsFile:
    """The file at `path`; `record` is where it is noted what was written last, and where."""

    path: Path
    record: Path

    def is_current(
        self, lake: Lake, marts: Collection[str], known: Mapping[str, MartRecord]
    ) -> bool:
        """Whether the file shows these marts as the lake has them now. Neither is opened."""
        noted = self._noted()
        if noted.get("path") != str(self.path) or noted.get("file") != _identity(self.path):
            return False
        if noted.get("form") != _FORM or noted.get("lake") != str(lake.place):
            return False
        built = {name for name in marts if lake.place.has(mart_table(name))}
        shown: dict[str, Any] = noted["marts"]
        return built == shown.keys() and all(
            _mark(lake, name, mark[0], known) == mark for name, mark in shown.items()
        )

    def write(
        self, ledger: Ledger, lake: Lake, marts: Collection[str], known: Mapping[str, MartRecord]
    ) -> int:
        """Write the file and swap it in; returns how many marts it shows, 0 if none is built yet.

        The lease is proven as it is swapped. Raises RetailmartError if somebody else's file has its
        name, or it can't be written.
        """
        from retailmart.engines.duckdb.views_file import Viewed, write_views

        views, marks = {}, {}
        for name in marts:
            table = mart_table(name)
            version = lake.version(table)
            state = None if version is None else lake.state(table, version)
            if version is None or state is None:
                continue
            record = known.get(name)
            state = replace(state, root=lake.place.address(table))
            views[name] = Viewed(state, version, record.built_as_of if record else None)
            marks[name] = _mark(lake, name, version, known)
        if not views:
            self.remove()
            return 0
        before = self._noted()
        self._expect_ours(before)
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        try:
            write_views(new, views, datetime.now(UTC))
            # Who opens it to write would keep others from reading, and lose what he wrote.
            new.chmod(new.stat().st_mode & ~0o222)
            sync_file(new)
            with ledger.transaction():  # no run that wakes late puts an older one in its place
                os.replace(new, self.path)
        finally:
            new.unlink(missing_ok=True)
        sync_folder(self.path.parent)
        self._note({"form": _FORM, "lake": str(lake.place), "marts": marks})
        if before.get("path") not in {None, str(self.path)}:
            _remove(before)
        return len(views)

    def remove(self) -> None:
        """Remove the file that was written last: nobody would keep it current any more."""
        _remove(self._noted())
        self.record.unlink(missing_ok=True)

    def _expect_ours(self, noted: Mapping[str, Any]) -> None:
        """Raise RetailmartError if the file that is there was not written by a run."""
        from retailmart.engines.duckdb.views_file import is_of_views

        there = _identity(self.path)
        is_noted = noted.get("path") == str(self.path) and noted.get("file") == there
        if there is not None and not is_noted and not is_of_views(self.path):
            raise RetailmartError(
                f"{self.path} is there, and no run has written it; it stays as it is",
                "Give the views another name: `marts_file` in retailmart.yml",
            )

    def _noted(self) -> dict[str, Any]:
        try:
            noted = json.loads(self.record.read_bytes())
        except (FileNotFoundError, ValueError):  # also one that a power cut has torn
            return {}
        return noted if isinstance(noted, dict) else {}

    def _note(self, what: Mapping[str, Any]) -> None:
        noted = {"path": str(self.path), "file": _identity(self.path), **what}
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.record.write_text(json.dumps(noted), encoding="utf-8")


def _mark(
    lake: Lake, name: str, version: int, known: Mapping[str, MartRecord]
) -> list[int | str | None]:
    """What a mart's view shows, if `version` is the newest one of its table."""
    record = known.get(name)
    as_of = record.built_as_of if record else None
    entry = lake.place.newest_entry(mart_table(name), version)
    return [version, entry, as_of.isoformat() if as_of else None]


def _identity(path: Path) -> list[int] | None:
    """What tells a file from every later one of its name; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _remove(noted: Mapping[str, Any]) -> None:
    """Remove a file as it was noted; if it was replaced since, it stays."""
    path = noted.get("path")
    if path is not None and _identity(Path(path)) == noted.get("file"):
        with suppress(FileNotFoundError):
            Path(path).unlink()
