"""Match the names that a file delivers with the columns of its feed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from retailmart.files.checked import ErrorFolder, Layout, Refusal
from retailmart.files.records import Record, parse_error_of
from retailmart.lake.layout import ORIGIN
from retailmart.project.documents import did_you_mean
from retailmart.project.feed import Feed, Policy
from retailmart.sheets import armed

# The columns of an exported sheet that are not data. A file with `_origin` brings refused rows
# back.
NO_DATA = (ORIGIN, "_file", "_line", "_rule", "_message", "_raw")


def folded(name: str) -> str:
    """A header's name without what senders vary: letter case and padding."""
    return " ".join(name.strip().casefold().split())


def known_names(feed: Feed) -> dict[str, str]:
    """The feed's columns by all names that a header may use for them, folded.

    The feed's own definition takes precedence over names under which files added columns.
    """
    asked = [column for column in feed.columns if column.folder is None]
    brought = {
        folded(name): column.name
        for column in asked
        for name in (*column.delivered, *([column.name] if column.evolved else ()))
    }
    return brought | {
        folded(name): column.name
        for column in asked
        if not column.evolved
        for name in (column.name, *column.aliases)
    }


def read_header(header: Record, feed: Feed) -> Layout | Refusal:
    """Match a header with the feed's columns: in any order, letter case and padding, by aliases."""
    parse_error = parse_error_of(header, len(header.cells))
    if parse_error and parse_error == header.parse_error and "never closed" in parse_error.message:
        message = "has a quote in its header that is never closed"
        return Refusal(ErrorFolder.BAD_SCHEMA, message)
    if parse_error:
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header is broken: {parse_error.message}")
    known = known_names(feed)
    is_replay = any(folded(cell) == ORIGIN for cell in header.cells) and ORIGIN not in known
    if is_replay:
        known |= {name: name for name in NO_DATA if name not in known}
    names: list[str] = []
    for position, delivered in enumerate(header.cells, 1):
        cell = armed(delivered) if is_replay else delivered
        names.append(known.get(folded(cell)) or cell.strip() or f"unnamed_{position}")
    # First, because a file without a header may have equal values in its first row.
    asked = (column for column in feed.columns if column.folder is None)
    missing = [column.name for column in asked if column.is_expected and column.name not in names]
    if missing:
        return Refusal(ErrorFolder.BAD_SCHEMA, _missing(missing, names, feed))
    evolves = feed.schema.columns is Policy.EVOLVE
    seen = [folded(name) for name in names] if evolves else names
    twice = {name for name, word in zip(names, seen, strict=True) if seen.count(word) > 1}
    if twice:
        listed = ", ".join(sorted(twice))
        return Refusal(ErrorFolder.BAD_SCHEMA, f"its header names {listed} more than once")
    return frozen(feed, names, known) or Layout(tuple(names), is_replay)


def _missing(missing: Sequence[str], names: Sequence[str], feed: Feed) -> str:
    others = [name for name in names if name not in {c.name for c in feed.columns}]
    message = "lacks the column " if len(missing) == 1 else "lacks the columns "
    hint = did_you_mean(missing[0], others)
    is_one = len(names) == 1  # cells with another delimiter look like one name
    return message + ", ".join(missing) + (hint if "mean" in hint and not is_one else "")


def frozen(feed: Feed, names: Iterable[str], known: Mapping[str, str]) -> Refusal | None:
    """Why a file with columns of these names must not be loaded, if the feed's schema is frozen.

    The values of `known` are names that are allowed besides those of the feed's columns.
    """
    place = f"feeds/{feed.name}.yml"
    if feed.schema.table is Policy.FREEZE:
        message = f"would make the raw table of feed {feed.name}, which is frozen"
        return Refusal(
            ErrorFolder.BAD_SCHEMA, f"{message}: {place} says `table: freeze` under `schema`"
        )
    own = {*known.values(), *(column.name for column in feed.columns)}
    strange = [name for name in names if name not in own]
    if strange and feed.schema.columns is Policy.FREEZE:
        message = "the column" if len(strange) == 1 else "the columns"
        return Refusal(
            ErrorFolder.BAD_SCHEMA,
            f"brings {message} {', '.join(strange)}, which {place} does not name; its columns are"
            " frozen",
        )
    return None
