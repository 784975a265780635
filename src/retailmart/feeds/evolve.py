"""The schema of a feed in a batch: what its user defines, and what its files added."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from retailmart.errors import SettingsError
from retailmart.feeds.casts import attempt, is_doubtful, typed
from retailmart.files.checked import Layout
from retailmart.files.header import folded, known_names
from retailmart.lake.layout import is_system_column, raw_table
from retailmart.ledger.values import ColumnChange, SchemaColumn
from retailmart.project.feed import Column, Feed, Policy
from retailmart.project.types import ColumnType, parse_type
from retailmart.tables import Field, quoted

# MySQL can hold at most so many text columns in a row; a hostile header must not block a
# published table.
MOST_BROUGHT = 150
_LONGEST_NAME = 63
_STRING, _BIGINT = ColumnType("STRING"), ColumnType("BIGINT")
_DATE, _TIMESTAMP = ColumnType("DATE"), ColumnType("TIMESTAMP")
_DIGITS = {"INT": 10, "BIGINT": 19}
_PRECISION = 38
# MySQL keeps no more digits after the point.
_SCALE = 30


# the feed and its raw table


@dataclass(frozen=True)
class Divergence:
    """A column that differs between the feed's file and raw; types as text, None if it is missing.

    `since` are the names under which files added a column that the feed does not name; `refused`
    says why the definition cannot be followed.
    """

    column: str
    defined: str | None
    held: str | None
    since: tuple[str, ...] = ()
    refused: str | None = None


def effective(feed: Feed, held: Sequence[Field] | None, known: Sequence[SchemaColumn]) -> Feed:
    """The feed with all columns that its raw table holds, each with the wider type of both.

    `held` are raw's columns, None if it has no table yet; `known` is what the ledger remembers of
    them. Raises SettingsError, which names every column that raw would lose or could hold less of.
    """
    if held is None:
        return feed
    whole, found = compare(feed, held, known)
    if problems := [one.refused for one in found if one.refused]:
        raise SettingsError(
            problems,
            "Put it back as it was: it may be optional, and no mart needs to select it. Under"
            " another name, the feed gets a raw table of its own",
        )
    return whole


def compare(
    feed: Feed, held: Sequence[Field], known: Sequence[SchemaColumn]
) -> tuple[Feed, list[Divergence]]:
    """The feed with all that raw holds, as far as it can be followed, and where they differ."""
    remembered = {column.name.lower(): column for column in known}
    rest = {field.name.lower(): field for field in held if not is_system_column(field.name)}
    found: list[Divergence] = []
    columns: list[Column] = []
    for column in feed.columns:
        field = rest.pop(column.name.lower(), None)
        memory = remembered.get(column.name.lower())
        one = _settle(feed, column, field.type if field else None, memory)
        found += [one[1]] if one[1] else []
        columns.append(replace(one[0], delivered=memory.aliases) if memory else one[0])
    if feed.extra_columns and rest.pop(feed.extra_columns.lower(), None) is None:
        found.append(Divergence(feed.extra_columns, str(_STRING), None))
    for key, field in rest.items():
        memory = remembered.get(key)
        if memory is None or not memory.aliases:
            message = (
                f"feeds/{feed.name}.yml: names no column {field.name} any more, but"
                f" {raw_table(feed.name)} holds {field.name} {field.type}"
            )
            found.append(Divergence(field.name, None, str(field.type), refused=message))
            continue
        found.append(Divergence(field.name, None, str(field.type), memory.aliases))
        columns.append(_brought(field.name, field.type, memory.aliases))
    open_table = replace(feed.schema, table=Policy.EVOLVE)  # the table exists already
    return replace(feed, columns=tuple(columns), schema=open_table), found


def _brought(name: str, kind: ColumnType, delivered: tuple[str, ...]) -> Column:
    return Column(name, kind, False, (), None, evolved=True, delivered=delivered)


def _settle(
    feed: Feed, column: Column, held: ColumnType | None, memory: SchemaColumn | None
) -> tuple[Column, Divergence | None]:
    """A column with the type that holds both what the feed says and what raw has."""
    if held is None or held == column.type:
        new = Divergence(column.name, str(column.type), None) if held is None else None
        return column, new
    place = f"feeds/{feed.name}.yml: column {column.name} is {column.type}"
    raw, was = raw_table(feed.name), _said(memory, held)
    wider, both = joined(was, column.type), joined(column.type, held)
    refused = None
    if wider != column.type and was == held:
        refused = f"{place}, but {raw} holds {held}, of which that has no room for all"
    elif wider != column.type:
        refused = f"{place}, but was {was} when {raw} took it in; that is narrower"
    elif both is None:
        refused = f"{place}, but {raw} has grown to {held}, and no type holds both"
    elif (was, column.type) == (_DATE, _TIMESTAMP) and not feed.schema.date_to_timestamp:
        refused = (
            f"{place}, but {raw} holds DATE; write `schema: {{date_to_timestamp: true}}`"
            " if midnight (UTC) is to be the time of those days"
        )
    told = Divergence(column.name, str(column.type), str(held), refused=refused)
    if both is None or both == column.type:
        return column, told
    return replace(column, type=both, defined=column.defined or column.type), told


def _said(memory: SchemaColumn | None, held: ColumnType) -> ColumnType:
    """The type in the feed's file when raw last changed; raw's own type if that is unknown."""
    return parse_type(memory.defined) if memory and memory.defined else held


def remembered(feed: Feed) -> tuple[SchemaColumn, ...]:
    """A feed's columns as the ledger keeps them."""
    columns = [
        SchemaColumn(
            column.name,
            str(column.type),
            None if column.evolved else str(column.defined or column.type),
            column.delivered,
        )
        for column in feed.columns
    ]
    if feed.extra_columns:
        columns.append(SchemaColumn(feed.extra_columns, str(_STRING), str(_STRING)))
    return tuple(columns)


def changes(
    feed: Feed, held: Sequence[Field] | None, causes: Mapping[str, str]
) -> tuple[ColumnChange, ...]:
    """How raw's columns change with this batch. `causes` maps a column → the causing file."""
    before = {field.name.lower(): str(field.type) for field in held or ()}
    definition = f"feeds/{feed.name}.yml"
    return tuple(
        ColumnChange(now.name, was, now.type, causes.get(now.name, definition))
        for now in remembered(feed)
        if (was := before.get(now.name.lower())) != now.type
    )


def joined(one: ColumnType, other: ColumnType) -> ColumnType | None:
    """The narrowest type that holds every value of both; None if there is none."""
    names = {one.name, other.name}
    if one == other:
        return one
    if "STRING" in names:
        return _STRING
    if names == {"DATE", "TIMESTAMP"}:
        return _TIMESTAMP
    if names == {"INT", "BIGINT"}:
        return _BIGINT
    if not names <= {"INT", "BIGINT", "DECIMAL"}:
        return None
    return _decimal(max(_digits(one), _digits(other)), max(one.scale, other.scale))


def _digits(kind: ColumnType) -> int:
    """How many digits a number has before the point, at most."""
    return _DIGITS.get(kind.name, kind.precision - kind.scale)


def _decimal(digits: int, scale: int) -> ColumnType | None:
    precision = digits + scale
    return ColumnType("DECIMAL", precision, scale) if precision <= _PRECISION else None


# columns that files add


def unknown(feed: Feed, layout: Layout) -> list[tuple[int, str]]:
    """The columns of a file that the feed does not name: position and delivered name."""
    named = {column.name for column in feed.columns}
    if layout.is_replay:
        return []  # its further columns are one JSON object already
    return [(n, name) for n, name in enumerate(layout.columns) if name not in named]


def with_brought(feed: Feed, files: Iterable[tuple[str, Layout]]) -> tuple[Feed, dict[str, str]]:
    """The feed with the columns that files (path, layout) add, and which file added each.

    Raises SettingsError if there are more than a published table could have.
    """
    known = known_names(feed)
    arrived: dict[str, tuple[str, str]] = {}
    for path, layout in files:
        for _, name in unknown(feed, layout):
            if folded(name) not in known:
                arrived.setdefault(folded(name), (name, path))
    taken = {name.lower() for name in (*(c.name for c in feed.columns), feed.extra_columns or "")}
    brought, causes = [], {}
    # Valid names are kept as they are, whatever came before.
    for name, path in sorted(arrived.values(), key=lambda one: fit(one[0]) != one[0]):
        column = _free(fit(name), taken)
        taken.add(column.lower())
        brought.append(_brought(column, _STRING, (name,)))
        causes[column] = path
    count = len(brought) + sum(column.evolved for column in feed.columns)
    if brought and count > MOST_BROUGHT:
        raise SettingsError(
            [
                f"{next(iter(causes.values()))} would bring feed {feed.name} to {count} columns"
                f" that it does not name; {MOST_BROUGHT} are the most"
            ],
            f"Name an `extra_columns` column in feeds/{feed.name}.yml and drop `columns: evolve`",
        )
    return replace(feed, columns=(*feed.columns, *brought)), causes


def fit(name: str) -> str:
    """A delivered name in letters, digits and _, which every database accepts for a column."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_]+", "_", plain).strip("_") or "column"
    return (words if words[0].isalpha() else f"c_{words}")[:_LONGEST_NAME].rstrip("_")


def _free(name: str, taken: set[str]) -> str:
    number, made = 1, name
    while made.lower() in taken:
        number += 1
        ending = f"_{number}"
        made = name[: _LONGEST_NAME - len(ending)] + ending
    return made


def as_known(layout: Layout, feed: Feed) -> Layout:
    """A layout in the feed's own names, if the feed learned them after the file was read."""
    names = known_names(feed)
    own = {column.name for column in feed.columns}
    columns = tuple(
        name if name in own or layout.is_replay else names.get(folded(name), name)
        for name in layout.columns
    )
    return replace(layout, columns=columns)


# values that need wider types


@dataclass(frozen=True)
class Need:
    """What the values of a column in one file need that are not of its type.

    `whole` counts those that a BIGINT holds, `count` those that some wider type holds; the latter
    have at most `digits` digits before and `scale` digits after the point.
    """

    column: str
    path: str
    count: int
    whole: int
    digits: int
    scale: int


def can_widen(feed: Feed, column: Column) -> bool:
    """Whether any wider type exists for a column."""
    if column.type == _DATE:
        return feed.schema.date_to_timestamp and column.name != feed.month
    return column.type.name in ("INT", "BIGINT", "DECIMAL")


def needs(column: Column, text: str, *, doubts: bool = False) -> str:
    """SQL of four figures over many rows, as `Need` has them; `text` is the text of the cells.

    With `doubts`, a text that may mean thousands needs nothing: no type makes it a value.
    """
    misfit = f"{quoted(column.name)} IS NULL AND {text} IS NOT NULL"
    if column.type == _DATE:
        moment = typed(text, attempt(text, _TIMESTAMP), _TIMESTAMP)
        return f"count(*) FILTER ({misfit} AND ({moment}) IS NOT NULL), 0, 0, 0"
    digits = rf"length(regexp_extract({text}, '^\s*[+-]?0*([0-9]*)', 1))"
    scale = rf"length(rtrim(regexp_extract({text}, '\.([0-9]*)', 1), '0'))"
    number = rf"regexp_full_match({text}, '\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*')"
    held = (
        f"greatest({digits}, {_digits(column.type)}) + greatest({scale}, {column.type.scale})"
        f" <= {_PRECISION} AND {scale} <= {max(_SCALE, column.type.scale)}"
    )
    wanted = f"{misfit} AND {number} AND {held}"
    if doubts:
        wanted = f"{wanted} AND NOT {is_doubtful(text)}"
    whole = rf"regexp_full_match({text}, '\s*[+-]?[0-9]+\s*')"
    long = f"{wanted} AND {whole} AND TRY_CAST({text} AS BIGINT) IS NOT NULL"
    return (
        f"count(*) FILTER ({wanted}), count(*) FILTER ({long}),"
        f" coalesce(max({digits}) FILTER ({wanted}), 0),"
        f" coalesce(max({scale}) FILTER ({wanted}), 0)"
    )


def widened(feed: Feed, found: Sequence[Need]) -> tuple[Feed, dict[str, str]]:
    """The feed with the types that hold all that was found, and which file needed each first.

    If no type holds all, a column becomes BIGINT if that helps, and stays as it is otherwise.
    """
    causes: dict[str, str] = {}

    def settled(column: Column) -> Column:
        own = [need for need in found if need.column == column.name and need.count]
        kind = _wide_enough(column.type, own) if own else column.type
        if kind == column.type:
            return column
        causes[column.name] = own[0].path
        return replace(column, type=kind, defined=column.defined or column.type)

    return replace(feed, columns=tuple(map(settled, feed.columns))), causes


def _wide_enough(kind: ColumnType, found: Sequence[Need]) -> ColumnType:
    if kind == _DATE:
        return _TIMESTAMP
    if kind.name == "INT" and all(need.whole == need.count for need in found):
        return _BIGINT
    digits = max(_digits(kind), *(need.digits for need in found))
    scale = max(kind.scale, *(need.scale for need in found))
    if (holding := _decimal(digits, scale)) is not None:
        return holding
    return _BIGINT if kind.name == "INT" and any(need.whole for need in found) else kind
