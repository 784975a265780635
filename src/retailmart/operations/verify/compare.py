"""Compare tables by digests of their columns; if they differ, find the first different row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retailmart.engines import Engine, Relation
from retailmart.report import Comparison, Contrast
from retailmart.tables import Field, TableState, quoted, text_literal

# The side of what the lake already holds.
LAKE = "lake"
_HALF = 1 << 64


@dataclass(frozen=True)
class Side:
    """A table as one side has it: a relation of the comparing engine."""

    name: str
    relation: Relation

    @property
    def fields(self) -> tuple[Field, ...]:
        """Its columns."""
        return self.relation.fields

    @property
    def kinds(self) -> dict[str, str]:
        """The type of each column."""
        return {field.name: str(field.type) for field in self.fields}


def side_of(engine: Engine, name: str, state: TableState) -> Side:
    """A table as a side of a comparison."""
    return Side(name, engine.define(state))


@dataclass(frozen=True)
class Digest:
    """A table in figures that depend on its rows, not on their order. Equal rows each count.

    `parts` are by month, or under None for the whole: the count of rows, the two halves of the
    digest of all columns together, and those of each column's digest.
    """

    columns: tuple[str, ...]
    parts: Mapping[str | None, tuple[int, ...]]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(part[0] for part in self.parts.values())

    def of(self, column: str) -> str:
        """A column's digest: 128 bits in hex."""
        place = 3 + 2 * self.columns.index(column)
        first, second = (
            sum(part[half] for part in self.parts.values()) % _HALF for half in (place, place + 1)
        )
        return f"{first:016x}{second:016x}"


def digest(engine: Engine, side: Side, month: str | None) -> Digest:
    """Digest a table in one pass; `month` is the column that holds each row's month, if any.

    A value counts by its hash and by the hash of its text. So a value does not pass for another
    that merely equals it (0.0 for -0.0), nor NULL for an empty text.
    """
    columns = tuple(sorted(side.kinds))
    part = quoted(month) if month else "CAST(NULL AS VARCHAR)"
    inner = ", ".join(f"{one} AS _h{n}, {two} AS _t{n}" for n, one, two in _hashes(columns))
    by_value, by_text = _of_rows(columns)
    sums = "".join(f", sum(_h{n}), sum(_t{n})" for n, _ in enumerate(columns))
    rows = engine.rows(
        f"SELECT _part, count(*), sum({by_value}), sum({by_text}){sums}"
        f" FROM (SELECT {part} AS _part, {inner} FROM {side.relation}) GROUP BY _part"
    )
    return Digest(columns, {month: tuple(map(int, figures)) for month, *figures in rows})


def _hashes(columns: Sequence[str]) -> list[tuple[int, str, str]]:
    """Two hashes of each column in SQL, of the value and of its text."""
    return [
        (n, f"hash({quoted(name)})", f"hash('=' || CAST({quoted(name)} AS VARCHAR))")
        for n, name in enumerate(columns)
    ]


def _of_rows(columns: Sequence[str]) -> tuple[str, str]:
    """Two hashes of a whole row: the same values in other rows do not make the same table."""
    one, two = (", ".join(f"_{kind}{n}" for n, _ in enumerate(columns)) for kind in "ht")
    return f"hash({one})", f"hash({two})"


def compare(
    engine: Engine, table: str, sides: Sequence[Side], key: Sequence[str], month: str | None
) -> Comparison:
    """Compare a table's sides, each with each. `key` are columns that distinguish its rows."""
    digests = {side.name: digest(engine, side, month) for side in sides}
    groups: list[list[Side]] = []
    for side in sides:
        same = (digests[side.name], side.kinds)
        found = (group for group in groups if same == (digests[group[0].name], group[0].kinds))
        if (group := next(found, None)) is None:
            groups.append([side])
        else:
            group.append(side)
    first, *others = groups
    return Comparison(
        table=table,
        rows={name: one.rows for name, one in digests.items()},
        digests={
            column: {
                side.name: digests[side.name].of(column) for side in sides if column in side.kinds
            }
            for column in dict.fromkeys(field.name for side in sides for field in side.fields)
        },
        contrasts=tuple(_contrast(engine, first, group, digests, key, month) for group in others),
    )


def _contrast(
    engine: Engine,
    ones: Sequence[Side],
    others: Sequence[Side],
    digests: Mapping[str, Digest],
    key: Sequence[str],
    month: str | None,
) -> Contrast:
    """Where two groups of sides differ; the sides within a group are equal."""
    one, other = ones[0], others[0]
    names = tuple(side.name for side in ones), tuple(side.name for side in others)
    if one.kinds != other.kinds:
        unlike = {
            name: (one.kinds.get(name), other.kinds.get(name))
            for name in dict.fromkeys((*one.kinds, *other.kinds))
            if one.kinds.get(name) != other.kinds.get(name)
        }
        return Contrast(*names, columns=tuple(unlike), types=unlike)
    a, b = digests[one.name], digests[other.name]
    unlike_columns = [field.name for field in one.fields if a.of(field.name) != b.of(field.name)]
    alike = [field.name for field in one.fields if field.name not in unlike_columns]
    parts = sorted(
        (part for part in {*a.parts, *b.parts} if a.parts.get(part) != b.parts.get(part)),
        key=lambda part: (part is None, part or ""),
    )
    where = "true"
    if month:
        of_part = "IS NULL" if parts[0] is None else f"= {text_literal(parts[0])}"
        where = f"{quoted(month)} {of_part}"
    by = list(key) or alike or list(a.columns)
    columns = [field.name for field in one.fields]
    found = _first_rows(engine, one, other, columns, by, where)
    if len(found) == 1:
        ((in_one, texts),) = found.items()
        row = dict(zip(columns, texts, strict=True))
        shown = {name: row[name] for name in (key or columns)}
        only_in = names[0] if in_one else names[1]
        return Contrast(*names, columns=tuple(unlike_columns), row=shown, only_in=only_in)
    pairs = zip(columns, found[True], found[False], strict=True)
    values = {name: (left, right) for name, left, right in pairs if left != right}
    row = {name: text for name, text in zip(columns, found[True], strict=True) if name in by}
    return Contrast(*names, columns=tuple(unlike_columns), row=row, values=values)


def _first_rows(
    engine: Engine, one: Side, other: Side, columns: Sequence[str], by: Sequence[str], where: str
) -> dict[bool, tuple[str | None, ...]]:
    """The first row, in the order of `by`, that one side has more often: its texts, by that side.

    Returns both sides' rows if both have one there. Rows are distinguished by their hashes, as they
    were counted, so that a wide table need not be held.
    """
    hashes = ", ".join(f"{h} AS _h{n}, {t} AS _t{n}" for n, h, t in _hashes(columns))
    plain = ", ".join(f"{quoted(name)} AS c{n}" for n, name in enumerate(columns))
    listed = ", ".join(f"c{n}" for n, _ in enumerate(columns))
    texts = ", ".join(f"CAST(c{n} AS VARCHAR)" for n, _ in enumerate(columns))
    by_value, by_text = _of_rows(columns)
    sides = {
        name: f"SELECT {listed}, {by_value} AS h, {by_text} AS t"
        f" FROM (SELECT {plain}, {hashes} FROM {side.relation} WHERE {where})"
        for name, side in (("_one", one), ("_other", other))
    }
    places = [columns.index(name) for name in by]
    order = ", ".join(f"c{n}" for n in places)
    match = " AND ".join(f"s.c{n} IS NOT DISTINCT FROM f.c{n}" for n in places)
    rows = engine.rows(
        f"WITH _one AS ({sides['_one']}), _other AS ({sides['_other']}),"
        " odd AS (SELECT h, t, sum(side) AS more FROM (SELECT h, t, 1 AS side FROM _one"
        " UNION ALL SELECT h, t, -1 FROM _other) GROUP BY h, t HAVING sum(side) <> 0),"
        f" strange AS (SELECT true AS in_one, {listed} FROM _one SEMI JOIN"
        " (FROM odd WHERE more > 0) USING (h, t)"
        f" UNION ALL SELECT false, {listed} FROM _other SEMI JOIN"
        " (FROM odd WHERE more < 0) USING (h, t)),"
        f" foremost AS (SELECT {order} FROM strange ORDER BY {order} LIMIT 1)"
        f" SELECT in_one, {texts} FROM strange s SEMI JOIN foremost f ON {match}"
        f" QUALIFY row_number() OVER (PARTITION BY in_one ORDER BY {listed}) = 1"
    )
    return {in_one: tuple(found) for in_one, *found in rows}
