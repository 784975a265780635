"""Refused rows for people: listed, shown, exported to be repaired, and replayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retailmart.errors import RetailmartError, SettingsError
from retailmart.feeds.quarantine import Item, ItemState, Quarantine
from retailmart.feeds.replay import Dropped, drop_repaired, export, origins_in
from retailmart.lake.layout import ORIGIN
from retailmart.ledger import Ledger
from retailmart.ledger.refusals import WHOLE_FILE
from retailmart.ledger.values import LedgerFile
from retailmart.operations.read import refused_rows
from retailmart.project import Project
from retailmart.project.feed import Feed
from retailmart.session import open_ledger, store_at, who
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
class DismissedItem:
    """A refused row, or a file refused as a whole (`line` is None), that nobody will repair.

    `why` says why it was refused, `reason` why it was dismissed; `at` is an ISO time in UTC.
    """

    file: str
    line: int | None
    why: str | None
    reason: str
    by: str
    at: str


@dataclass(frozen=True)
class Dismissed:
    """How many rows and files were dismissed, or are open again if it was taken back."""

    rows: int
    files: int
    taken_back: bool
    by: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class QuarantineList:
    """What is in quarantine. `closed` counts the rows that need no work any more.

    `dismissed` counts rows and files that nobody will repair; `dismissals` are these, None unless
    they are asked for.
    """

    rows: tuple[RefusedRows, ...]
    files: tuple[RefusedFile, ...]
    closed: int
    dismissed: int = 0
    dismissals: tuple[DismissedItem, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The list as plain values."""
        told = {} if self.dismissals is None else {"dismissals": list(map(asdict, self.dismissals))}
        return {
            "rows": [line.to_dict() for line in self.rows],
            "files": [asdict(file) for file in self.files],
            "closed": self.closed,
            "dismissed": self.dismissed,
            **told,
        }


@dataclass(frozen=True)
class QuarantinedFile:
    """A file's refused rows. `message` says why the file itself was refused, if it was.

    `closed` counts the rows that need no work any more, whether or not they are among `rows`, and
    `dismissed` those that nobody will repair.
    """

    file: str
    message: str | None
    rows: tuple[Item, ...]
    closed: int
    dismissed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The file as plain values."""
        rows = [_plain(item) for item in self.rows]
        return {
            "file": self.file,
            "message": self.message,
            "rows": rows,
            "closed": self.closed,
            "dismissed": self.dismissed,
        }


def list_refused(
    project: Project, *, include_closed: bool = False, dismissed: bool = False
) -> QuarantineList:
    """Files with open refused rows, and refused files under whose name nothing better has come.

    `dismissed` adds what nobody will repair, and who said so, when and why.
    """
    with _opened(project) as quarantine:
        counts: Counter[tuple[str, ...]] = Counter()
        closed = 0
        gone = list(quarantine.dismissed_files())
        for feed in project.feeds:
            for item in quarantine.of(feed).items(texts=False):
                if item.state is ItemState.DISMISSED:
                    gone.append(_dismissed_item(item))
                closed += not item.needs_work and item.state is not ItemState.DISMISSED
                fate = (item.state.value, item.by or "") if include_closed else ()
                if item.needs_work or include_closed:
                    counts[item.file, item.row.rule, *fate] += 1
        refused = [RefusedFile(file.path, file.message) for file in quarantine.refused_files()]
    rows = (
        RefusedRows(file, rule, count, *fate)
        for (file, rule, *fate), count in sorted(counts.items())
    )
    items = tuple(gone) if dismissed else None
    return QuarantineList(tuple(rows), tuple(refused), closed, len(gone), items)


def dismiss(
    project: Project,
    file: str | None = None,
    *,
    rule: str | None = None,
    lines: Collection[int] = (),
    reason: str | None = None,
    undo: bool = False,
) -> Dismissed:
    """Say that nobody will repair refused rows or files, so that they are not open any more.

    `file` is a file's path below landing or its name; `rule` and `lines` choose among its rows, and
    `rule` without a file among all. The ledger keeps the reason, who gave it and when. With `undo`,
    what was dismissed is open again. Raises RetailmartError if nothing is chosen by that, and
    SettingsError if it is not said what or why.
    """
    if file is None and (lines or rule is None):
        raise SettingsError(["name a file, and perhaps lines of it, or a rule"])
    if not undo and not (reason and reason.strip()):
        raise SettingsError(["say why nobody will repair it, as in --reason 'a test of the till'"])
    by = who()
    with _opened(project) as quarantine:
        rows = _chosen_rows(quarantine, file, rule, lines, undo=undo)
        files: list[tuple[int, int]] = []
        if file is not None and rule is None and not lines:
            refused = quarantine.ledger.refusals.files(dismissed=undo)
            name = quarantine.delivered(file)[0].path
            files = [(one.file_id, WHOLE_FILE) for one in refused if one.path == name]
        if not rows and not files:
            what = "dismissed" if undo else "refused"
            raise RetailmartError(
                f"no {what} row or file is chosen by this",
                "List them with: retailmart quarantine list" + (" --dismissed" if undo else ""),
            )
        refusals = quarantine.ledger.refusals
        if undo:
            refusals.take_back([*rows, *files])
        else:
            refusals.dismiss([*rows, *files], str(reason).strip(), by)
    return Dismissed(len(rows), len(files), undo, by)


def _chosen_rows(
    quarantine: _Quarantine,
    file: str | None,
    rule: str | None,
    lines: Collection[int],
    *,
    undo: bool,
) -> list[tuple[int, int]]:
    """The keys of the rows that are meant, each once. RetailmartError for a line without one."""
    if file is None:
        items = [
            item
            for feed in quarantine.project.feeds
            for item in quarantine.of(feed).items(texts=False)
        ]
    else:
        counted = quarantine.delivered(file)[1]
        feed = quarantine.of(str(counted.feed)) if counted else None
        items = list(feed.items(counted.file_id, texts=False)) if feed and counted else []
    found = {
        item.key: item
        for item in items
        if (item.state is ItemState.DISMISSED if undo else item.needs_work)
        and rule in (None, item.row.rule)
        and (not lines or item.line in lines)
    }
    if missing := sorted(set(lines) - {item.line for item in found.values()}):
        what = "dismissed" if undo else "open refused"
        raise RetailmartError(
            f"{file} has no {what} row in line {', '.join(map(str, missing))}",
            f"See them with: retailmart quarantine show {file}",
        )
    return sorted(found)


def show_refused(project: Project, file: str, *, include_closed: bool = False) -> QuarantinedFile:
    """The open refused rows of a file, by its path below landing or its name.

    Raises RetailmartError if no such file was ever delivered.
    """
    with _opened(project) as quarantine:
        found, counted = quarantine.delivered(file)
        items = list(quarantine.of(str(counted.feed)).items(counted.file_id)) if counted else []
    shown = tuple(item for item in items if item.needs_work or include_closed)
    dismissed = sum(item.state is ItemState.DISMISSED for item in items)
    closed = sum(not item.needs_work for item in items) - dismissed
    return QuarantinedFile(found.path, found.message, shown, closed, dismissed)


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

    def refused_files(self) -> list[LedgerFile]:
        """Refused files under whose name nothing that could be read has come since."""
        return self.ledger.refusals.files()

    def dismissed_files(self) -> Iterator[DismissedItem]:
        """Such files that nobody will deliver again."""
        known = self.ledger.refusals.dismissed()
        for file in self.ledger.refusals.files(dismissed=True):
            said = known[file.file_id, WHOLE_FILE]
            yield DismissedItem(file.path, None, file.message, said.reason, said.by, said.at)

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


def _dismissed_item(item: Item) -> DismissedItem:
    said = item.dismissal
    assert said is not None  # noqa: S101 - by its state
    return DismissedItem(item.file, item.line, item.row.message, said.reason, said.by, said.at)


def _plain(item: Item) -> dict[str, Any]:
    row = item.row
    return {
        "line": item.line,
        "column": row.column,
        "rule": row.rule,
        "message": row.message,
        "raw": row.raw,
        "origin": f"{item.origin[0]}#{item.origin[1]}" if item.origin else None,
        "state": item.state.value,
        "by": item.by,
        "again": item.again,
    }
