"""What counts: a name's current version is its newest content; a content counts once in its feed.

Nothing here reads a file or the ledger: a history of deliveries goes in, decisions come out. So the
same rules decide about what arrives and about what an undone run leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from retailmart.ledger.values import LedgerFile
from retailmart.project.feed import Feed


@dataclass(frozen=True, slots=True)
class Content:
    """What is counted once: the same bytes in two feeds are two deliveries.

    If folders give a column of the feed, each folder has separate contents.
    """

    feed: str
    sha256: str
    from_path: tuple[tuple[str, str], ...] = ()


def content_of(feeds: Mapping[str, Feed], file: LedgerFile) -> Content:
    """The content of a file that the ledger knows; the project may no longer have its feed."""
    feed = feeds.get(str(file.feed))
    return Content(str(file.feed), file.sha256, feed.from_path(file.path) if feed else ())


@dataclass(frozen=True)
class Decision:
    """What becomes of a delivery.

    `twin` is the path through which its content is counted already, if it is a duplicate;
    `supersedes` is the file whose rows leave because of it.
    """

    twin: str | None = None
    supersedes: LedgerFile | None = None


@dataclass
class Standings:
    """The current version of each name, and the file through which each content is counted."""

    names: dict[str, Content] = field(default_factory=dict)
    counted: dict[Content, LedgerFile] = field(default_factory=dict)

    def leaving(self, arrived: Mapping[str, Content]) -> dict[str, LedgerFile]:
        """The counted files that no name stands for once `arrived` (path → content) is here.

        Each by the path whose new content makes the last of its names change.
        """
        stays = {content for path, content in self.names.items() if path not in arrived}
        stays |= set(arrived.values())
        leaving: dict[str, LedgerFile] = {}
        for path in arrived:
            before = self.names.get(path)
            if before is not None and before not in stays and before in self.counted:
                leaving[path] = self.counted[before]
                stays.add(before)
        return leaving

    def decide(self, arrived: Mapping[str, Content]) -> dict[str, Decision]:
        """What becomes of the deliveries of one batch, by path."""
        leaving = self.leaving(arrived)
        through = {content: file.path for content, file in self.counted.items()}
        decided = {}
        for path, content in arrived.items():
            decided[path] = Decision(through.get(content), leaving.get(path))
            through.setdefault(content, path)
        return decided


def live_through(
    feeds: Mapping[str, Feed], files: Iterable[LedgerFile]
) -> tuple[dict[int, Decision], frozenset[int]]:
    """Decide about a whole history again, batch by batch.

    Returns the decision about each file, and the keys of the files that are counted in the end.
    `files` are all readable deliveries of some names and contents, in the order they came.
    """
    standings = Standings()
    decisions: dict[int, Decision] = {}
    for _, batch in groupby(files, lambda file: file.batch_id):
        arrived = {file.path: file for file in batch}
        contents = {path: content_of(feeds, file) for path, file in arrived.items()}
        for path, decision in standings.decide(contents).items():
            decisions[arrived[path].file_id] = decision
            if decision.supersedes is not None:
                del standings.counted[content_of(feeds, decision.supersedes)]
            if decision.twin is None:
                standings.counted[contents[path]] = arrived[path]
        standings.names |= contents
    return decisions, frozenset(file.file_id for file in standings.counted.values())
