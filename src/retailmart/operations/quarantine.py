"""Refused rows for people: listed, shown, exported to be repaired, and replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retailmart.errors import RetailmartError
from retailmart.feeds.quarantine import Item, Quarantine
from retailmart.feeds.replay import Dropped, drop_repaired, export, origins_in
from retailmart.lake.layout import ORIGIN
from retailmart.ledger import Ledger
from retailmart.ledger.values import FileState, LedgerFile
from retailmart.operations.read import refused_rows
from retailmart.project import Project
from retailmart.project.feed import Feed
from retailmart.session import open_ledger, store_at
from retailmart.sheets import read_sheet


@dataclass(frozen=True)
class RefusedRows:
    """How many rows of a file break a rule.

    `state` and `by`, what became of them, are None unless closed rows are asked for.
    """

    file: str
    rule: str
    rows: int
    state: str | None = None
    by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The line as plain values."""
        fate = {} if self.state is None else {"state": self.state, "by": self.by}
        return {"file": self.file, "rule": self.rule, **fate, "rows": self.rows}


@dataclass(frozen=True)
class RefusedFile:
    """A file that was refused as a whole, and why."""

    file: str
    message: str | None


@dataclass(frozen=True)
class QuarantineList:
    """What is in quarantine. `closed` counts the rows that need no work any more."""

    rows: tuple[RefusedRows, ...]
    files: tuple[RefusedFile, ...]
    closed: int

    def to_dict(self) -> dict[str, Any]:
        """The list as plain values."""
        return {
            "rows": [line.to_dict() for line in self.rows],
            "files": [asdict(file) for file in self.files],
            "closed": self.closed,
        }


@dataclass(frozen=True)
class QuarantinedFile:
    """A file's refused rows. `message` says why the file itself was refused, if it was.

    `closed` counts the rows that need no work any more, whether or not they are among `rows`.
    """

    file: str
    message: str | None
    rows: tuple[Item, ...]
    closed: int

    def to_dict(self) -> dict[str, Any]:
        """The file as plain values."""
        rows = [_plain(item) for item in self.rows]
        return {"file": self.file, "message": self.message, "rows": rows, "closed": self.closed}


def list_refused(project: Project, *, include_closed: bool = False) -> QuarantineList:
    """Files with open refused rows, and refused files under whose name nothing better has come."""
    with _opened(project) as quarantine:
        counts: Counter[tuple[str, ...]] = Counter()
        closed = 0
        for feed in project.feeds:
            for item in quarantine.of(feed).items(texts=False):
                closed += not item.needs_work
                fate = (item.state.value, item.by or "") if include_closed else ()
                if item.needs_work or include_closed:
                    counts[item.file, item.row.rule, *fate] += 1
        refused = [RefusedFile(file.path, file.message) for file in quarantine.refused_files()]
    rows = (
        RefusedRows(file, rule, count, *fate)
        for (file, rule, *fate), count in sorted(counts.items())
    )
    return QuarantineList(tuple(rows), tuple(refused), closed)


def show_refused(project: Project, file: str, *, include_closed: bool = False) -> QuarantinedFile:
    """The open refused rows of a file, by its path below landing or its name.

    Raises RetailmartError if no such file was ever delivered.
    """
    with _opened(project) as quarantine:
        found, counted = quarantine.delivered(file)
        items = list(quarantine.of(str(counted.feed)).items(counted.file_id)) if counted else []
    shown = tuple(item for item in items if item.needs_work or include_closed)
    closed = sum(not item.needs_work for item in items)
    return QuarantinedFile(found.path, found.message, shown, closed)


def export_refused(
    project: Project, to: Path, file: str | None = None, feed: str | None = None
) -> int:
    """Write the open refused rows of a file, or of a feed, as a new sheet to repair.

    Returns how many there are; without any, nothing is written. Raises RetailmartError if it is not
    clear which rows are meant, or if they can't be brought back.
    """
    with _opened(project) as quarantine:
        counted = quarantine.delivered(file)[1] if file else None
        if file and counted is None:
            raise RetailmartError(
                f"no delivery of {file} is counted, so none of its rows can be brought back",
                f"See why: retailmart quarantine show {file}",
            )
        chosen = quarantine.feed(counted.feed if counted else feed)
        refused = quarantine.of(chosen.name)
        file_id = counted.file_id if counted else None
        return export(to, chosen, lambda: refused.items(file_id))


def replay_repaired(project: Project, sheet: Path) -> Dropped:
    """Put the repaired rows of a sheet into landing, all or none; the next run counts each once.

    Raises RetailmartError, which names every row that can't come back.
    """
    with _opened(project) as quarantine:
        feeds = list(project.feeds.values())
        found = read_sheet(sheet, ORIGIN, [feed.encoding for feed in feeds])
        feed = quarantine.feed_of(origins_in(found))
        landing = store_at(project, project.settings.landing)
        items = quarantine.of(feed.name).items(texts=False)
        return drop_repaired(landing, feeds, feed, found, items)


@dataclass(frozen=True)
class _Quarantine:
    """All of a project's refused rows and files, with its ledger."""

    project: Project
    ledger: Ledger

    def of(self, feed: str) -> Quarantine:
        return Quarantine(refused_rows(self.project, feed), self.ledger)

    def delivered(self, name: str) -> tuple[LedgerFile, LedgerFile | None]:
        """The newest delivery under a name, and the file that counts for it now."""
        newest = self.ledger.files.find(name)
        if newest is None:
            raise RetailmartError(
                f"no file {name!r} was ever delivered", "List them with: retailmart quarantine list"
            )
        standing = self.ledger.files.current(newest.path)
        return newest, self.ledger.files.counted_by_content(standing.sha256) if standing else None

    def refused_files(self) -> Iterator[LedgerFile]:
        """Refused files under whose name nothing that could be read has come since."""
        for file in self.ledger.files.in_state(FileState.REFUSED):
            standing = self.ledger.files.current(file.path)
            if standing is None or standing.file_id < file.file_id:
                yield file

    def feed(self, name: str | None) -> Feed:
        """The feed of this name; without one, the only one that has refused rows."""
        feeds = self.project.feeds
        if name is not None and name in feeds:
            return feeds[name]
        known = ", ".join(feeds)
        if name is not None:
            raise RetailmartError(f"there is no feed {name!r}", f"Feeds are: {known}")
        refusing = [feed for feed in feeds if refused_rows(self.project, feed) is not None]
        if len(refusing) > 1:
            told = ", ".join(refusing)
            raise RetailmartError("a sheet holds the rows of one feed", f"Add --feed: {told}")
        return feeds[refusing[0]] if refusing else next(iter(feeds.values()))

    def feed_of(self, file_ids: set[int]) -> Feed:
        """The one feed of all these files."""
        names = {str(file.feed) for file in self.ledger.files.among(file_ids)}
        if len(names) > 1:
            raise RetailmartError(
                f"the sheet holds rows of several feeds: {', '.join(sorted(names))}",
                "Replay the rows of one feed at a time",
            )
        if not names:
            raise RetailmartError(
                "no row of the sheet has an _origin as it was exported",
                "Export anew: retailmart quarantine export",
            )
        return self.feed(names.pop())


@contextmanager
def _opened(project: Project) -> Iterator[_Quarantine]:
    with open_ledger(project) as ledger:
        yield _Quarantine(project, ledger)


def _plain(item: Item) -> dict[str, Any]:
    row = item.row
    return {
        "line": row.line,
        "column": row.column,
        "rule": row.rule,
        "message": row.message,
        "raw": row.raw,
        "origin": f"{item.origin[0]}#{item.origin[1]}" if item.origin else None,
        "state": item.state.value,
        "by": item.by,
    }
