"""Staged copies on the machine that needs them: copied there, checked there, and cut."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from retailmart.engines import Engine
from retailmart.engines.dividing import divided
from retailmart.errors import DeliveryReplaced
from retailmart.files.check import check, check_content
from retailmart.files.checked import CheckedFile, LandedCopy, Layout, Refusal, Span
from retailmart.files.discover import (
    StagedCopy,
    copy_path,
    is_whole,
    scan_again,
    stage_copies,
)
from retailmart.files.scan import Scan
from retailmart.project.feed import Feed
from retailmart.storage import Entry, Store

_CHUNK = 1 << 20
Checked = CheckedFile | Refusal
_NOT_NEEDED = Scan()


@dataclass(frozen=True)
class StageFiles:
    """Copies landed files, and checks each that some feed matches.

    `scratch` is the run's own folder: copies go there if this machine has it, too.
    `type_mismatch` says why a good file is refused for one of its values, if it is.
    """

    store: Store
    feeds: tuple[Feed, ...]
    scratch: Path
    type_mismatch: Callable[[Engine, CheckedFile], Refusal | None]

    def __call__(
        self, engine: Engine, entries: Sequence[Entry]
    ) -> list[tuple[StagedCopy, Checked]]:
        """Each file's copy and its check result; files that were removed meanwhile are missing."""
        folder = folder_for(self.scratch, engine)
        copies = stage_copies(self.store, tuple(entries), folder)
        # One by one, without what only the check needs: there may be very many files.
        layouts: dict[Layout, Layout] = {}
        return [
            (replace(copy, scan=_NOT_NEEDED), _lean(self._checked(engine, copy), layouts))
            for copy in copies
        ]

    def _checked(self, engine: Engine, copy: StagedCopy) -> Checked:
        found = check(copy, self.feeds)
        if isinstance(found, Refusal):
            return found
        found = replace(found, landed=LandedCopy(self.store, copy.entry, copy.sha256))
        return self.type_mismatch(engine, found) or found


def _lean(found: Checked, layouts: dict[Layout, Layout]) -> Checked:
    """A check result that shares its layout with other files."""
    if isinstance(found, Refusal):
        return found
    return replace(found, layout=layouts.setdefault(found.layout, found.layout))


@dataclass(frozen=True)
class CheckCopy:
    """Checks a staged file again, for a batch of an earlier run."""

    feed: Feed
    path: str
    scratch: Path

    def __call__(self, engine: Engine, landed: LandedCopy) -> Checked | None:
        """The check result; None if the content has changed."""
        folder = folder_for(self.scratch, engine)
        folder.mkdir(parents=True, exist_ok=True)
        content = copy_path(folder, landed.sha256)
        if not is_whole(content, landed.sha256):  # a power cut may have left a part of it
            content.unlink(missing_ok=True)
            if not _is_fetched(landed, folder):
                return None
        found = check_content(content, scan_again(content), self.feed, self.path)
        return found if isinstance(found, Refusal) else replace(found, landed=landed)


def stage_files(
    engine: Engine, work: StageFiles, entries: Sequence[Entry]
) -> list[tuple[StagedCopy, Checked]]:
    """Copy and check files in the order given, on several machines where the engine has them."""
    groups = divided(entries, lambda entry: entry.size, engine.parts)
    sizes = [sum(entry.size for entry in group) for group in groups]
    found = engine.spread(work, groups, sizes)
    by_path = {copy.entry.path: (copy, checked) for part in found for copy, checked in part}
    return [by_path[entry.path] for entry in entries if entry.path in by_path]


@dataclass(frozen=True)
class _CopyOne:
    """Copies one file. Returns whether it has the content that it should have."""

    scratch: Path

    def __call__(self, engine: Engine, landed: LandedCopy) -> bool:
        return _is_fetched(landed, folder_for(self.scratch, engine))


def is_as_it_was(engine: Engine, landed: LandedCopy, scratch: Path) -> bool:
    """Whether a copy has the content that it had; reads its bytes to find out."""
    return engine.spread(_CopyOne(scratch), [landed], [landed.entry.size])[0]


def folder_for(scratch: Path, engine: Engine) -> Path:
    """Where copies are: in the run's folder if this machine has it, else in the engine's own."""
    return scratch if scratch.is_dir() else engine.scratch / "staged"


def here(checked: CheckedFile, scratch: Path, engine: Engine) -> CheckedFile:
    """A checked file with its copy on this machine.

    Raises DeliveryReplaced if it is not here and landing has another one.
    """
    landed = checked.landed
    if landed is None or _is_here(checked):
        return checked if checked.span is None else _cut(checked, engine.scratch / "staged")
    folder = folder_for(scratch, engine)
    folder.mkdir(parents=True, exist_ok=True)
    content = copy_path(folder, landed.sha256)
    if checked.span is not None:
        if content.exists():
            return _cut(replace(checked, delivered=content), folder)
        return _fetched_span(checked, landed, folder, checked.span)
    if not content.exists() and not _is_fetched(landed, folder):
        raise DeliveryReplaced(f"{landed.entry.path} was delivered again while it was read")
    return again(checked, content)


def again(checked: CheckedFile, content: Path) -> CheckedFile:
    """A file as it was checked elsewhere, with the copy that this machine has."""
    if not checked.cleaned:
        return replace(checked, delivered=content, readable=content)
    path = checked.landed.entry.path if checked.landed else ""
    found = check_content(content, scan_again(content), checked.feed, path)
    if isinstance(found, Refusal) or found.records != checked.records:
        raise DeliveryReplaced(f"{path} is not what it was when it was checked")
    return replace(found, layout=checked.layout, landed=checked.landed)


def _is_here(checked: CheckedFile) -> bool:
    parts = (checked.delivered, checked.readable, checked.malformed.path)
    return all(path.exists() for path in parts if path is not None)


def _is_fetched(landed: LandedCopy, folder: Path) -> bool:
    """Copy a file. Returns whether it has the content that it should have."""
    copies = stage_copies(landed.store, (landed.entry,), folder)
    return [copy.sha256 for copy in copies] == [landed.sha256]


def _cut(checked: CheckedFile, folder: Path) -> CheckedFile:
    """The part of a file that a span means, from the copy on this machine."""
    span = checked.span
    assert span is not None  # noqa: S101 - the caller has looked
    with checked.delivered.open("rb") as whole:
        whole.seek(span.start)
        return _part(checked, folder, span, iter(lambda: whole.read(_CHUNK), b""))


def _fetched_span(
    checked: CheckedFile, landed: LandedCopy, folder: Path, span: Span
) -> CheckedFile:
    """The part of a landed file that a span means; nothing else of it is fetched."""
    try:
        with landed.store.open(landed.entry, span.start, span.end) as content:
            return _part(checked, folder, span, iter(lambda: content.read(_CHUNK), b""))
    except FileNotFoundError as error:
        message = f"{landed.entry.path} was delivered again while it was read"
        raise DeliveryReplaced(message) from error


def _part(checked: CheckedFile, folder: Path, span: Span, chunks: Iterator[bytes]) -> CheckedFile:
    """A separate file for a part: as many lines as are skipped, then the part's lines."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4().hex}.part.csv"
    left = span.end - span.start
    with path.open("wb") as part:
        if span.start and checked.json is None:
            part.write(_header(checked))
        for chunk in chunks:
            part.write(chunk[:left])
            left -= len(chunk[:left])
            if not left:
                break
    if left:
        raise DeliveryReplaced("a landed file is shorter than it was when it was checked")
    return replace(checked, delivered=path, readable=path)


def _header(checked: CheckedFile) -> bytes:
    """The lines that are skipped; the engine refuses a file whose lines end differently."""
    names = (f"c{n}" for n, _ in enumerate(checked.layout.columns))
    end = "\r\n" if checked.crlf else "\n"
    return f"{checked.feed.delimiter.join(names)}{end}".encode() * checked.skip


def drop_part(checked: CheckedFile) -> None:
    """Remove the file that was made for a part."""
    if checked.span is not None:
        checked.delivered.unlink(missing_ok=True)


def spans(checked: CheckedFile, wanted: Callable[[int], int]) -> Iterable[Span | None]:
    """The parts in which a large regular file is processed; None is all of it."""
    size, cuts = checked.size, checked.cuts
    landed = checked.landed
    packed = landed is not None and landed.entry.path.lower().endswith(".gz")
    if packed and not checked.delivered.exists():  # a part of it can't be fetched
        return (None,)
    parts = min(wanted(size), len(cuts) + 1)
    if parts < 2:
        return (None,)
    places = [cuts[len(cuts) * number // parts] for number in range(1, parts)]
    starts = [(0, 0), *dict.fromkeys(places)]
    ends = [*starts[1:], (size, checked.lines)]
    return tuple(
        Span(start, end, lines, until - lines)
        for (start, lines), (end, until) in zip(starts, ends, strict=True)
    )
