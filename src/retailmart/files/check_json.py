"""Check a JSON file: cut its records into the feed's columns; decide how the engine reads it.

A file whose records all have the same form is read as it is. Any other file is rewritten, each
value as a text of exactly the characters that were delivered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from retailmart.engines import JsonShape
from retailmart.engines.round_trip import JsonForm, count_alike
from retailmart.files.checked import CheckedFile, ErrorFolder, Layout, Refusal, own_path, with_cuts
from retailmart.files.header import NO_DATA, folded, frozen, known_names
from retailmart.files.json_records import (
    DEEPEST,
    BrokenJson,
    JsonRecord,
    is_array,
    json_records,
    parse_error_of_members,
    plain_of,
    text_of,
    written,
)
from retailmart.files.malformed import MalformedRecord, MalformedWriter
from retailmart.files.records import ParseError, readable
from retailmart.files.scan import LONGEST_RECORD, Scan
from retailmart.lake.layout import ORIGIN
from retailmart.project.documents import did_you_mean
from retailmart.project.feed import Feed, Policy
from retailmart.tables import FILE_ID, ROW

# Below this size, the careful reader is done before the engine has begun.
WORTH_A_LOOK = 1 << 18
_LOOKED_AT = 100
_MOST_NAMES = 1_000
_NOTHING = object()
# Columns that the engine's relations get besides a file's keys.
_TAKEN = frozenset({ROW, FILE_ID, "file_index"})


@dataclass
class Cut:
    """A record as columns: values by the feed's names and by names that the feed does not know.

    `places` are the keys that lead to each value. With a `parse_error`, it is not a row.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parse_error: ParseError | None = None

    @property
    def cells(self) -> dict[str, str]:
        """The values of the columns, as texts."""
        return {name: plain_of(value) for name, value in self.values.items()}


class Cutter:
    """Cuts the records of one file. With `is_replay` it knows the columns of an exported sheet."""

    def __init__(self, feed: Feed, *, is_replay: bool = False) -> None:
        self.known = known_names(feed)
        if is_replay:
            self.known |= {name: name for name in NO_DATA if name not in self.known}
        self._own = frozenset(self.known.values())
        self._flattens = feed.nested == "flatten"
        self._evolves = feed.schema.columns is Policy.EVOLVE
        self.inner = _beginnings(self.known) if self._flattens else frozenset()
        self._names: dict[str, str] = {}
        self._first: dict[str, str] = {}

    def __call__(self, record: JsonRecord) -> Cut:
        """The columns of an object."""
        members = record.members or {}
        cut = Cut(parse_error=parse_error_of_members(record, members))
        if cut.parse_error:
            cut.values = {self.name(key): None for key in members}
            return cut
        for key, value in members.items():
            rest = self._taken(cut, record, value, folded(key), (key,)) if self.inner else value
            if rest is _NOTHING:
                continue
            if isinstance(rest, dict) and rest and self._spreads(key):
                for path, leaf in _leaves(rest, (key,)):
                    self._put(cut, record, self.name(".".join(path)), leaf, path)
            else:
                self._put(cut, record, self.name(key), rest, (key,))
        return cut

    def name(self, key: str) -> str:
        """The column that a key means: one of the feed's, or the key itself.

        If such keys become columns of raw, letter case does not distinguish them.
        """
        name = self._names.get(key)
        if name is None:
            word = folded(key)
            first = self._first.setdefault(word, key) if self._evolves else key
            name = self._names[key] = self.known.get(word) or first
        return name

    def _spreads(self, key: str) -> bool:
        """Whether the leaves of an object become separate columns."""
        return self._evolves and self._flattens and self.name(key) not in self._own

    def _taken(
        self, cut: Cut, record: JsonRecord, value: Any, word: str, path: tuple[str, ...]
    ) -> Any:
        """Take the feed's columns out of an object. Returns the rest; _NOTHING if all was taken."""
        if word not in self.inner or not isinstance(value, dict) or not value:
            return value
        left = {}
        for key, item in value.items():
            inner, place = f"{word}.{folded(key)}", (*path, key)
            rest = self._taken(cut, record, item, inner, place)
            if rest is _NOTHING:
                continue
            if column := self.known.get(inner):
                self._put(cut, record, column, rest, place)
            else:
                left[key] = rest
        return left or _NOTHING

    @staticmethod
    def _put(cut: Cut, record: JsonRecord, name: str, value: Any, path: tuple[str, ...]) -> None:
        if name in cut.values and cut.parse_error is None:
            message = f"names the column {name} more than once"
            cut.parse_error = ParseError("duplicate_key", f"{message}, at {record.pointer(*path)}")
        cut.values[name] = value
        cut.places[name] = path


def _beginnings(names: Iterable[str]) -> frozenset[str]:
    """The parts before the dots of dotted names."""
    found = set()
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[:count]) for count in range(1, len(parts))}
    return frozenset(found)


def _leaves(value: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _leaves(item, (*path, key))
        else:
            yield (*path, key), item


def check_json(
    content: Path, scan: Scan, feed: Feed, from_path: tuple[tuple[str, str], ...]
) -> CheckedFile | Refusal:
    """Check the content of a JSON file that `feed` matches; `from_path` is what its path gives."""
    try:
        found = _as_it_is(content, scan, feed) or take_apart(content, feed)
    except BrokenJson as error:
        return Refusal(ErrorFolder.BAD_SCHEMA, str(error))
    if isinstance(found, Refusal):
        return found
    return replace(found, layout=replace(found.layout, from_path=from_path))


def _as_it_is(content: Path, scan: Scan, feed: Feed) -> CheckedFile | None:
    """A large file of records of the same form, of which the engine changes nothing."""
    if content.stat().st_size < WORTH_A_LOOK or feed.records is not None:
        return None
    cutter = Cutter(feed)
    form = _form(content, feed, cutter)
    if form is None:
        return None
    names = {cutter.name(key): key for key in form.keys}
    layout = _layout(feed, names, is_replay=False)
    if len(names) < len(form.keys) or isinstance(layout, Refusal):
        return None
    count = count_alike(content, form)
    if not count:
        return None
    shape = JsonShape(tuple(names[name] for name in layout.columns), form.array)
    checked = CheckedFile(feed, content, content, layout, False, count, json=shape)
    return with_cuts(checked, scan) if not form.array and count == scan.lines else checked


def _form(content: Path, feed: Feed, cutter: Cutter) -> JsonForm | None:
    """How the fullest of the first records is written, if the engine can read that form."""
    longest: JsonRecord | None = None
    for record in islice(json_records(content), _LOOKED_AT):
        if record.members is None:
            return None
        if longest is None or len(record.members) > len(longest.members or {}):
            longest = record
    members = written(longest.raw) if longest else None
    if not members:
        return None
    keys, before, after = members
    lowered = {key.lower() for key in keys}
    plain = all(key and '"' not in key and "\\" not in key for key in keys)
    if not plain or len(lowered) < len(keys) or lowered & _TAKEN or len(keys) > _MOST_NAMES:
        return None
    if any(folded(key) in cutter.inner or folded(key) == ORIGIN for key in keys):
        return None
    types = {column.name: column.type for column in feed.columns}
    scales = {
        key: (types[name].precision, types[name].scale)
        for key in keys
        if (name := cutter.name(key)) in types and types[name].is_decimal
    }
    further = frozenset(key for key in keys if cutter.name(key) not in types)
    if further and feed.schema.columns is Policy.EVOLVE:
        return None
    return JsonForm(
        keys,
        before,
        after,
        is_array(content),
        longest=LONGEST_RECORD,
        brackets=DEEPEST,
        exact=further,
        scales=scales,
    )


def take_apart(content: Path, feed: Feed) -> CheckedFile | Refusal:
    """Rewrite a file: one object a line, values' JSON texts as texts, malformed records apart.

    Raises BrokenJson.
    """
    target = own_path(content, ".clean.jsonl")
    malformed = MalformedWriter(own_path(content, ".flawed"))
    cutter = Cutter(feed)
    # Keys are numbers, as a hostile name may be one that the engine uses itself.
    names: dict[str, str] = {}
    count = objects = 0
    first: ParseError | None = None
    with target.open("w", encoding="utf-8") as clean, malformed:
        for record in json_records(content, feed.records):
            count += 1
            parse_error = record.parse_error
            if record.members is not None:
                objects += 1
                cut = cutter(record)
                parse_error = parse_error or cut.parse_error
                for name in cut.values:
                    if name not in names:
                        names[name] = str(len(names))
                if len(names) > _MOST_NAMES:
                    break
            if parse_error:
                first = first or parse_error
                malformed.add(MalformedRecord(record.number, readable(record.raw), parse_error))
                continue
            own = cutter.known.values()
            said = {
                names[name]: text_of(value)
                for name, value in cut.values.items()
                if value is not None or name not in own
            }
            clean.write(json.dumps(said, ensure_ascii=False) + "\n")
    if not count and feed.takes_empty:
        names = {column.name: column.name for column in feed.columns if column.folder is None}
    elif refusal := _unfit(count, objects, first, names):
        return refusal
    is_replay = ORIGIN not in cutter.known and any(folded(name) == ORIGIN for name in names)
    if is_replay:
        replay = Cutter(feed, is_replay=True)
        names = {replay.name(name): key for name, key in names.items()}
    layout = _layout(feed, names, is_replay=is_replay)
    if isinstance(layout, Refusal):
        return layout
    shape = JsonShape(tuple(names[name] for name in layout.columns), array=False, of_texts=True)
    return CheckedFile(
        feed, content, target, layout, False, count, True, malformed.records, json=shape
    )


def _unfit(
    count: int, objects: int, first: ParseError | None, names: Mapping[str, str]
) -> Refusal | None:
    if len(names) > _MOST_NAMES:
        message = f"has more than {_MOST_NAMES:,} different keys; are some of them values?"
    elif not count:
        message = "holds no record"
    elif not objects:
        why = f": {first.message}" if first else ""
        message = f"is neither a list of objects nor one object a line{why}"
    else:
        return None
    return Refusal(ErrorFolder.BAD_SCHEMA, message)


def _layout(feed: Feed, names: Mapping[str, str], *, is_replay: bool) -> Layout | Refusal:
    """The columns of a file whose records have these names: the feed's first, in its order."""
    asked = [column for column in feed.columns if column.folder is None]
    own = [column.name for column in asked if column.name in names]
    missing = [column.name for column in asked if column.is_expected and column.name not in names]
    others = [name for name in names if name not in own]
    if missing:
        word = "column" if len(missing) == 1 else "columns"
        hint = did_you_mean(missing[0], others)
        message = f"has no record with the {word} {', '.join(missing)}"
        return Refusal(ErrorFolder.BAD_SCHEMA, message + (hint if "mean" in hint else ""))
    known = known_names(feed) | ({name: name for name in NO_DATA} if is_replay else {})
    layout = Layout((*own, *others), is_replay, is_json=True)
    return frozen(feed, layout.columns, known) or layout
