"""Refused rows on their way to users and back: exported, repaired, replayed, counted once."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os.path
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from retailmart.engines import Engine
from retailmart.errors import RetailmartError
from retailmart.feeds.load_part import FileToLoad
from retailmart.feeds.quarantine import (
    UNKNOWN_ORIGIN,
    Item,
    ItemState,
    Origin,
    counted_among,
    delivered,
    is_blank,
    origin_text,
    read_origin,
    refused_columns,
)
from retailmart.files.checked import CheckedFile, Layout, own_path
from retailmart.files.header import NO_DATA, folded, known_names
from retailmart.files.malformed import MalformedRecord, MalformedWriter
from retailmart.files.records import ParseError, Record, readable
from retailmart.lake import Lake
from retailmart.lake.layout import FURTHER, ORIGIN, quarantine_table
from retailmart.ledger import Ledger
from retailmart.ledger.values import LedgerFile
from retailmart.project.feed import ENDINGS, Column, Feed
from retailmart.sheets import (
    CellError,
    Sheet,
    SheetRow,
    armed,
    defused,
    is_holdable,
    is_workbook,
    seen,
    text_of,
    write_sheet,
)
from retailmart.storage import Store

_TOLD_AT_ONCE = 10


# in a run


def origins_named(checked: CheckedFile) -> set[Origin]:
    """The origins that a file's rows name, whether or not such rows exist."""
    place = checked.layout.columns.index(ORIGIN)
    rows = (record.cells for record, _ in delivered(checked))
    named = (read_origin(cells[place]) for cells in rows if len(cells) > place)
    return {origin for origin in named if origin}


def resolve(
    engine: Engine,
    lake: Lake,
    ledger: Ledger,
    feed: Feed,
    files: Sequence[FileToLoad],
    leaving: Collection[int],
    returning: Collection[int] = (),
) -> list[FileToLoad]:
    """A feed's files; those that bring refused rows back are rewritten for `load`.

    A row is set apart and will be quarantined if its origin is unknown, counted already, or of one
    of the files `leaving` with this batch. Files that are `returning` count. The result is the same
    whenever a batch is repeated.
    """
    named: set[Origin] = set()
    for item in files:
        if item.checked.layout.is_replay:
            named |= origins_named(item.checked)
    gate = _Gate(engine, lake, ledger, feed, named, leaving, returning)
    return [
        FileToLoad(item.file, _resolved(item, gate)) if item.checked.layout.is_replay else item
        for item in files
    ]


@dataclass(frozen=True)
class _Known:
    """A row in quarantine: its origin, None if that is unknown, and its further columns."""

    origin: Origin | None
    further: frozenset[str]


@dataclass(frozen=True)
class _Claim:
    """What is known of a replayed row; with a `parse_error`, it must not be loaded."""

    origin: Origin | None
    further: frozenset[str] = frozenset()
    parse_error: ParseError | None = None


class _Gate:
    """Which refused rows may come back in this batch, each of them once."""

    def __init__(
        self,
        engine: Engine,
        lake: Lake,
        ledger: Ledger,
        feed: Feed,
        named: Collection[Origin],
        leaving: Collection[int],
        returning: Collection[int],
    ) -> None:
        self.feed = feed
        self.known = dict(_known(engine, lake, feed, named)) if named else {}
        origins = {known.origin for known in self.known.values() if known.origin}
        ids = {origin[0] for origin in origins}
        self.counted = (counted_among(ledger, ids) - set(leaving)) | set(returning)
        self.brought = {
            origin: file.path
            for origin, file in ledger.replays.brought_back(ids).items()
            if file.file_id not in leaving
        }
        self.taken: dict[Origin, str] = {}

    def claim(self, said: str, file: LedgerFile, line: int) -> _Claim:
        """Let a row in, or say why not. The first row that claims an origin has it."""
        if not said.strip():
            return _refused(
                f"{ORIGIN} is empty: a repaired row keeps its own, and a new row goes into a file"
                " without that column"
            )
        given = read_origin(said)
        known = self.known.get(given) if given else None
        if known is None or known.origin is None:
            return _refused(f"there is no refused row {said.strip()} in feed {self.feed.name}")
        origin = known.origin
        message = None
        if origin[0] not in self.counted:
            message = "its file was delivered anew or taken back since"
        elif path := self.brought.get(origin):
            message = f"it is counted already, from {path}"
        elif place := self.taken.get(origin):
            message = f"it came already in {place}"
        if message:
            return replace(
                _refused(f"{origin_text(origin)} is not counted: {message}"), origin=origin
            )
        self.taken[origin] = f"line {line} of {file.path}"
        return _Claim(origin, known.further)


def _refused(message: str) -> _Claim:
    return _Claim(None, parse_error=ParseError("replay", message))


def _known(
    engine: Engine, lake: Lake, feed: Feed, named: Collection[Origin]
) -> Iterator[tuple[Origin, _Known]]:
    """The quarantined rows of the files named, by file and line."""
    state = lake.state(quarantine_table(feed.name))
    if state is None:
        return
    held = engine.define(state)
    columns = refused_columns([field.name for field in state.fields])
    ids = ", ".join(str(file_id) for file_id in sorted({origin[0] for origin in named}))
    sets: dict[frozenset[str], frozenset[str]] = {}
    for file_id, line, said, keys in engine.rows(
        "SELECT file_id, line, origin, json_keys(CAST(cells AS VARCHAR))"
        f" FROM (SELECT {columns} FROM {held}) WHERE file_id IN ({ids})"
    ):
        own = (file_id, line)
        origin = own if said is None else read_origin(said)
        further = frozenset(keys or ())
        yield own, _Known(origin, sets.setdefault(further, further))


def _resolved(item: FileToLoad, gate: _Gate) -> CheckedFile:
    """Rewrite a replayed file: the feed's columns, the further ones as JSON, the origin."""
    checked = item.checked
    feed, names = checked.feed, checked.layout.columns
    own = {column.name for column in feed.columns}
    defaults = {column.name: column.default for column in feed.columns if column.default}
    data = {name: place for place, name in enumerate(names) if name in own}
    others = [p for p, name in enumerate(names) if name not in own and name not in NO_DATA]
    layout = Layout((*data, FURTHER, ORIGIN), True, checked.layout.from_path)
    target = own_path(checked.delivered, ".replay.csv")
    malformed = MalformedWriter(own_path(checked.delivered, ".replay.flawed"))
    count = 0
    with target.open("w", encoding="utf-8", newline="") as rewritten, malformed:
        writer = csv.writer(rewritten, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(f"c{n}" for n in range(len(layout.columns)))
        for record, parse_error in delivered(checked):
            if is_blank(record) and not (parse_error and feed.format == "json"):
                continue
            count += 1
            if parse_error:
                raw = readable(record.raw)
                malformed.add(MalformedRecord(record.line, raw, parse_error, origin=UNKNOWN_ORIGIN))
                continue
            claim = gate.claim(record.cells[names.index(ORIGIN)], item.file, record.line)
            cells = {name: armed(record.cells[place]) for name, place in data.items()}
            further = {names[p]: armed(record.cells[p]) for p in others}
            # The sheet has the columns of all its rows: an empty cell may not be one of this row's.
            if feed.format == "csv" and claim.further:
                lacks = defaults.keys() - claim.further
                cells |= {name: defaults[name] for name in lacks if cells.get(name) == ""}
            further = {n: text for n, text in further.items() if text or n in claim.further}
            origin = origin_text(claim.origin) if claim.origin else UNKNOWN_ORIGIN
            if claim.parse_error:
                malformed.add(_set_apart(record, claim.parse_error, {**cells, **further}, origin))
                continue
            told = json.dumps(further, ensure_ascii=False, separators=(",", ":"))
            writer.writerow([*cells.values(), told if further else "", origin])
    return CheckedFile(
        feed, checked.delivered, target, layout, True, count, True, malformed.records
    )


def _set_apart(
    record: Record, parse_error: ParseError, cells: Mapping[str, str], origin: str
) -> MalformedRecord:
    return MalformedRecord(record.line, readable(record.raw), parse_error, cells, origin)


def repaired_in(engine: Engine, lake: Lake, ledger: Ledger, feed: str) -> dict[int, LedgerFile]:
    """The files of a feed whose refused rows came in a sheet that counts, and such a sheet.

    Also those of which a row was refused again in the sheet: once the feed accepts it, it would
    count in the file and in the sheet.
    """
    found: dict[int, LedgerFile] = {}
    state = lake.state(quarantine_table(feed))
    if state is not None and "origin" in {field.name for field in state.fields}:
        rows = engine.rows(
            f"SELECT DISTINCT file_id, origin FROM {engine.define(state)} WHERE origin IS NOT NULL"
        )
        named = [(int(file_id), origin) for file_id, text in rows if (origin := read_origin(text))]
        counted = counted_among(ledger, {file_id for file_id, _ in named})
        sheets = {one.file_id: one for one in ledger.files.among(counted)}
        found = {origin[0]: sheets[key] for key, origin in named if key in sheets}
    return found | ledger.replays.origins(feed)


# to users


def export(path: Path, feed: Feed, items: Callable[[], Iterable[Item]]) -> int:
    """Write the open rows among `items` as a sheet to repair. Returns how many there are.

    The sheet's columns are the feed's and all further ones of these rows. A CSV has the dialect of
    the feed's own files, so that it can be dropped into landing as it is. Without any row, no file
    is written.
    """
    cells_of = _CellsFor(path, feed)
    columns = {column.name: None for column in feed.columns}
    count = 0
    for item, _ in _open(items()):
        count += 1
        columns |= dict.fromkeys(cells_of(item) or ())
    if not count:
        return 0

    def rows() -> Iterator[Sequence[str]]:
        yield [*NO_DATA[:-1], *map(defused, columns), NO_DATA[-1]]
        for item, origin in _open(items()):
            row, cells = item.row, cells_of(item)
            told = (item.file, str(item.line), row.rule, row.message)
            yield [
                origin_text(origin),
                *(defused(seen(text)) for text in told),
                *(defused((cells or {}).get(name, "")) for name in columns),
                "" if cells else defused(seen(row.raw)),
            ]

    return write_sheet(path, rows(), delimiter=feed.delimiter, encoding=feed.encoding)


def _open(items: Iterable[Item]) -> Iterator[tuple[Item, Origin]]:
    for item in items:
        if item.state is ItemState.OPEN and item.origin is not None:
            yield item, item.origin


class _CellsFor:
    """Cuts a refused row for a sheet; None if a sheet would not give it back as it was."""

    def __init__(self, path: Path, feed: Feed) -> None:
        self.path = path
        self.known = known_names(feed)
        self.encoding = "utf-8" if is_workbook(path) else feed.encoding

    def __call__(self, item: Item) -> dict[str, str] | None:
        delivered = item.row.cells or {}
        cells = {self.known.get(folded(name), name): text for name, text in delivered.items()}
        if len(cells) < len(delivered) or any(folded(name) in NO_DATA for name in cells):
            return None  # the feed's definition has changed, or a sender has names like ours
        texts = (*cells, *cells.values())
        return cells if all(map(self._holds, texts)) and cells else None

    def _holds(self, text: str) -> bool:
        if not is_holdable(text, self.path):
            return False
        try:
            return text.isascii() or bool(text.encode(self.encoding))
        except UnicodeError:
            return False


# back from users


@dataclass(frozen=True)
class Dropped:
    """A repaired sheet in landing: its path there, its rows, and how many rows were left out."""

    feed: str
    path: str
    rows: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def origins_in(sheet: Sheet) -> set[int]:
    """The keys of the files that a sheet's rows came from."""
    place = _place_of_origin(sheet)
    found = (read_origin(text_of(row.cells[place])) for row in sheet.rows)
    return {origin[0] for origin in found if origin}


def drop_repaired(
    landing: Store, feeds: Sequence[Feed], feed: Feed, sheet: Sheet, items: Iterable[Item]
) -> Dropped:
    """Put a repaired sheet into landing as a file of its feed, as a whole or not at all.

    `items` are the feed's refused rows. Rows without a single cell filled in are left out.
    Raises RetailmartError, which names every row that can't come back.
    """
    place = _place_of_origin(sheet)
    known = {item.origin: item for item in _latest(items)}
    kept: list[tuple[SheetRow, Item]] = []
    problems: list[str] = []
    first: dict[Origin, int] = {}
    left_out = 0
    data = [p for p, name in enumerate(sheet.columns) if folded(name) not in NO_DATA]
    for row in sheet.rows:
        if all(_is_empty(cell) for p, cell in enumerate(row.cells) if p in (place, *data)):
            continue
        said = text_of(row.cells[place])
        origin = read_origin(said)
        item = known.get(origin) if origin else None
        message = _unfit(row, said, item, len(sheet.columns), sheet.columns)
        if origin and item and not message and origin in first:
            message = f"{said} stands in row {first[origin]} already"
        if message:
            problems.append(f"row {row.number}: {message}")
        elif all(_is_empty(row.cells[p]) for p in data):
            left_out += 1
        elif origin and item:
            first[origin] = row.number
            kept.append((row, item))
    if problems:
        more = len(problems) - _TOLD_AT_ONCE
        shown = [*problems[:_TOLD_AT_ONCE], *([f"and {more:,} rows more"] if more > 0 else [])]
        raise RetailmartError(
            "nothing was replayed:\n  " + "\n  ".join(shown),
            "Correct or remove these rows, or export anew: retailmart quarantine export",
        )
    if not kept:
        raise RetailmartError(
            "no row of the sheet is filled in", "Write what each row should say into its columns"
        )
    content = _as_delivered(feed, sheet, place, data, [row for row, _ in kept])
    path = _landing_path(feeds, feed, content, [item.file for _, item in kept])
    landing.put(path, content)
    return Dropped(feed.name, path, len(kept), left_out)


def _place_of_origin(sheet: Sheet) -> int:
    return [folded(name) for name in sheet.columns].index(ORIGIN)


def _latest(items: Iterable[Item]) -> Iterator[Item]:
    """Items with an origin; the open or dismissed one of each origin is last."""
    told = [item for item in items if item.origin is not None]
    newest = (ItemState.OPEN, ItemState.DISMISSED)
    yield from sorted(told, key=lambda item: item.state in newest)


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _unfit(
    row: SheetRow, said: str, item: Item | None, width: int, columns: Sequence[str]
) -> str | None:
    """Why a row can't come back."""
    if not said.strip():
        return f"{ORIGIN} is empty; a new row goes into a file without that column"
    if item is None:
        return f"there is no refused row {said}"
    if item.state is ItemState.CLOSED:
        return f"{said} is counted already, from {item.by}"
    if item.state is ItemState.DISMISSED and item.dismissal:
        return (
            f"{said} is dismissed, by {item.dismissal.by}: {item.dismissal.reason}; take that back"
            f" first: retailmart quarantine dismiss {item.file} --line {item.line} --undo"
        )
    if item.state is not ItemState.OPEN:
        return f"{said} left: its file was delivered anew or taken back since"
    if len(row.cells) > width:
        return f"it has {len(row.cells)} values, the header {width}"
    for name, cell in zip(columns, row.cells, strict=True):
        if isinstance(cell, CellError):
            return f"{name} shows {cell}; write what it should say"
    return None


def _as_delivered(
    feed: Feed, sheet: Sheet, place: int, data: Sequence[int], rows: Iterable[SheetRow]
) -> bytes:
    """The sheet as a file of its feed: the origin and the data, cells still defused."""
    known = known_names(feed)
    columns = {column.name: column for column in feed.columns}
    meant = {p: columns.get(known.get(folded(sheet.columns[p]), "")) for p in data}
    names = [ORIGIN, *(sheet.columns[p] for p in data)]
    text = io.StringIO(newline="")
    records: list[str] = []
    writer = csv.writer(text, delimiter=feed.delimiter, lineterminator="\n")
    if feed.format == "csv":
        writer.writerow(names)
    for row in rows:
        cells = [_as_sent(row.cells[p], meant[p]) for p in data]
        try:
            "".join(cells).encode(feed.encoding)
        except UnicodeEncodeError as error:
            raise RetailmartError(
                f"row {row.number}: {error.object[error.start : error.end]!r} can't be written"
                f" in {feed.encoding}, as which files of feed {feed.name} are read",
                "Write it in other letters",
            ) from error
        cells = [text_of(row.cells[place]).strip(), *cells]
        if feed.format == "csv":
            writer.writerow(cells)
        else:
            record = dict(zip(names, cells, strict=True))
            records.append(json.dumps(record, ensure_ascii=False))
    if feed.format == "json":
        text.write(_wrapped(records, feed.records))
    return text.getvalue().encode(feed.encoding)


def _as_sent(cell: object, column: Column | None) -> str:
    """A cell's text; a value that a spreadsheet has typed is written as the column's senders do."""
    if column is None:
        return text_of(cell)
    text = text_of(cell, is_moment=column.type.name == "TIMESTAMP")
    return text if isinstance(cell, str) else column.as_sent(text)


def _wrapped(records: Sequence[str], key: str | None) -> str:
    """Records one a line, or in a list if the feed's own files have one."""
    if key is None:
        return "".join(f"{record}\n" for record in records)
    keys = [json.dumps(part, ensure_ascii=False) for part in key.split(".")]
    before = "".join(f"{{{part}: " for part in keys)
    listed = ",\n".join(records)
    return f"{before}[\n{listed}\n]{'}' * len(keys)}\n"


def _landing_path(feeds: Sequence[Feed], feed: Feed, content: bytes, origins: Sequence[str]) -> str:
    """A new name that the feed matches, in the folder that all origins share."""
    word = f"replay_{hashlib.sha256(content).hexdigest()[:12]}"
    folder = os.path.commonpath([str(PurePosixPath(path).parent) for path in origins])
    for name in _names(feed, word):
        path = str(PurePosixPath(folder, name))
        if not any(part.startswith(".") for part in PurePosixPath(path).parts) and (
            next((other for other in feeds if other.matches(path)), None) == feed
        ):
            return path
    raise RetailmartError(
        f"feed {feed.name} claims no new name for these rows in landing's folder {folder or '.'}",
        f"Replay the rows of one folder at a time, or add a pattern such as"
        f" {feed.name}_replay*{ENDINGS[feed.format][0]} to `files` in feeds/{feed.name}.yml",
    )


def _names(feed: Feed, word: str) -> Iterator[str]:
    """Names that the feed's patterns may mean; a pattern of a single name needs a new folder."""
    for pattern in feed.files:
        name = pattern.rsplit("/", 1)[-1]
        # One character of a set or of any; the word replaces the first star.
        name = re.sub(r"\[([^!\]][^\]]*)\]", lambda found: found[1][0], name).replace("?", "x")
        first, star, rest = name.partition("*")
        joint = "_" if first[-1:].isalnum() else ""
        made = f"{first}{joint}{word}{rest.replace('*', '')}" if star else f"{word}/{name}"
        for ending in ("", *ENDINGS[feed.format]):
            if f"{made}{ending}".lower().endswith(ENDINGS[feed.format]):
                yield f"{made}{ending}"
