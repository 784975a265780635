"""The files of one run: copied and checked when they land, found again for an unfinished batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from retailmart.engines import Engine
from retailmart.errors import DeliveryReplaced, RetailmartError
from retailmart.feeds.classify import Classified
from retailmart.feeds.evolve import effective
from retailmart.feeds.load_part import FileToLoad, first_mismatch
from retailmart.feeds.rows import raw_fields, raw_partitions
from retailmart.files.archive import archived_copies
from retailmart.files.check import check_content
from retailmart.files.checked import CheckedFile, LandedCopy, Refusal
from retailmart.files.discover import StagedCopy, copy_path, is_whole, scan_again
from retailmart.files.staged import CheckCopy, StageFiles, here, stage_files
from retailmart.lake import Lake
from retailmart.lake.layout import raw_table
from retailmart.ledger import Ledger
from retailmart.ledger.values import LedgerFile
from retailmart.project import Feed
from retailmart.storage import Entry, Store
from retailmart.tables import TableState


def feeds_as_held(feeds: Iterable[Feed], lake: Lake, ledger: Ledger) -> dict[str, Feed]:
    """The feeds with all columns that their raw tables hold.

    Raises SettingsError if a definition would remove any of them.
    """
    found = {}
    for feed in feeds:
        state = lake.state(raw_table(feed.name))
        known = ledger.schemas.current(raw_table(feed.name)) if state else None
        fields = state.fields if state else None
        found[feed.name] = effective(feed, fields, known.columns if known else ())
    return found


def raw_state(lake: Lake, feed: Feed) -> TableState:
    """A feed's raw table as it is, empty if nothing was loaded yet."""
    state = lake.state(raw_table(feed.name))
    if state is not None:
        return state
    partitions = raw_partitions(feed)
    root = str(lake.folder(raw_table(feed.name)))
    return TableState(root, raw_fields(feed), partitions, ())


@dataclass(frozen=True)
class _CheckArchived:
    """Checks an archived file as one that lands is checked."""

    check: CheckCopy

    def __call__(self, engine: Engine, archived: LandedCopy) -> CheckedFile | Refusal | None:
        found = self.check(engine, archived)
        if not isinstance(found, CheckedFile):
            return found
        return first_mismatch(engine, found) or found


@dataclass
class Deliveries:
    """The files of one run. `scratch` is where the open batch's staged copies are.

    What was found when a file was checked is kept until it is loaded. `listed` are the files that
    were staged last, as they were in landing.
    """

    landing: Store
    archive: Store
    scratch: Path
    ledger: Ledger
    listed: Mapping[str, Entry] = field(default_factory=dict)
    _checked: dict[tuple[str, str], CheckedFile] = field(default_factory=dict)

    def stage(
        self, engine: Engine, feeds: Mapping[str, Feed], entries: Sequence[Entry]
    ) -> list[tuple[StagedCopy, CheckedFile | Refusal]]:
        """Copy and check what has landed."""
        self.listed = {entry.path: entry for entry in entries}
        work = StageFiles(self.landing, tuple(feeds.values()), self.scratch, first_mismatch)
        return stage_files(engine, work, entries)

    def keep_checked(self, files: Iterable[Classified]) -> None:
        """Keep how staged files are read, for `to_load`."""
        self._checked = {(f.file.path, f.file.sha256): f.checked for f in files if f.checked}

    def keep_read_again(self, files: Mapping[LedgerFile, CheckedFile]) -> None:
        """Keep how counted files are read again, for `to_load`."""
        self._checked = {(file.path, file.sha256): checked for file, checked in files.items()}

    def to_load(self, file: LedgerFile, feed: Feed, engine: Engine) -> FileToLoad:
        """A staged file and how it is read, found again for a batch of an earlier run."""
        checked = self._checked.get((file.path, file.sha256))
        checked = checked or self._check_again(file, feed, engine)
        if checked.layout.is_replay:  # how its rows are read depends on the ledger
            checked = replace(here(checked, self.scratch, engine), landed=None)
        return FileToLoad(file, checked)

    def expect_archivable(self, files: Iterable[LedgerFile]) -> None:
        """Raise DeliveryReplaced if a file that only landing has was replaced there."""
        for file in files:
            checked = self._checked.get((file.path, file.sha256))
            landed = checked.landed if checked else None
            if landed is None or copy_path(self.scratch, file.sha256).exists():
                continue
            now = landed.store.entry(landed.entry.key)
            if now is None or now.version != landed.entry.version:
                raise DeliveryReplaced(f"{file.shown} was delivered again while it was loaded")

    def forget_checked(self) -> None:
        """Forget how files are read, once they are loaded: there may be very many."""
        self._checked = {}

    def forget_landed(self) -> None:
        """Make the next request for landing list it again."""
        self.__dict__.pop("_landed", None)
        self.listed = {}

    def check_archived(
        self, file: LedgerFile, feed: Feed, engine: Engine
    ) -> CheckedFile | Refusal | None:
        """How a feed reads an archived file; None if the archive has it no more, as it was."""
        work = _CheckArchived(CheckCopy(feed, file.path, self.scratch))
        for copy in archived_copies(self.ledger, self.archive, file.sha256):
            found = engine.spread(work, [copy], [copy.entry.size])[0]
            if found is not None:
                return found
        return None

    def _check_again(self, file: LedgerFile, feed: Feed, engine: Engine) -> CheckedFile:
        checked = self._checked_copy(file, feed, engine)
        if checked is None and file.path in self._landed:
            raise DeliveryReplaced(
                f"{file.shown} of the unfinished batch {file.batch_id} was delivered again"
            )
        if checked is None:
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} is gone: neither landing nor"
                " the run's own copy has what was staged",
                f"Put the file back into {self.landing} as it was, and run again",
            )
        if isinstance(checked, Refusal):
            raise RetailmartError(
                f"{file.shown} of the unfinished batch {file.batch_id} {checked.message}",
                f"It was good when it was staged: undo the change to feeds/{feed.name}.yml",
            )
        return checked

    def _checked_copy(
        self, file: LedgerFile, feed: Feed, engine: Engine
    ) -> CheckedFile | Refusal | None:
        """A staged file from the run's own copy, landing, or the archive; None if all lack it.

        The archive has what an undo brings back.
        """
        content = copy_path(self.scratch, file.sha256)
        if is_whole(content, file.sha256):
            return check_content(content, scan_again(content), feed, file.path)
        content.unlink(missing_ok=True)  # a power cut may have left a part of it
        work = CheckCopy(feed, file.path, self.scratch)
        for copy in self._copies(file):
            found = engine.spread(work, [copy], [copy.entry.size])[0]
            if found is not None:
                return found
        return None

    def _copies(self, file: LedgerFile) -> Iterator[LandedCopy]:
        if (landed := self._landed.get(file.path)) is not None:
            yield LandedCopy(self.landing, landed, file.sha256)
        yield from archived_copies(self.ledger, self.archive, file.sha256)

    @cached_property
    def _landed(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.landing.entries()}
