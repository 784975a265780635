"""What the names in a SELECT can mean, and which of its sources its conditions tie together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retailmart.marts.splitting.rows import Leaf
from retailmart.marts.splitting.tree import Node, columns, conjuncts, function_name, nodes

# In a row of these joins, both sides meet the condition.
_BOTH_MEET: Final = ("INNER", "SEMI")
# The rows of these joins may lack a side: its columns are NULL then.
_FILLED: Final = ("LEFT", "RIGHT", "FULL", "OUTER")
_TEXTS: Final = ("VARCHAR", "TEXT", "STRING")
CONSTANT: Final = "constant"


@dataclass(frozen=True)
class Place:
    """A column that a name can mean. `own`: it holds its own source's split column.

    `loose`: it is of a source that is not cut, and that nothing else decides about.
    """

    depth: int
    leaf: int
    name: str
    holds: bool
    own: bool
    cut: bool
    loose: bool


@dataclass(frozen=True)
class Join:
    """A JOIN of the sources numbered `left` with those numbered `right`."""

    node: Node
    left: range
    right: range

    @property
    def filters(self) -> bool:
        """Whether only rows that meet its condition remain."""
        return self.node["join_type"] in _BOTH_MEET


@dataclass(frozen=True)
class _Equality:
    """A condition that two expressions are equal. With `join`, it is known only of rows that meet
    in that one; else of all rows.
    """

    left: Node
    right: Node
    join: Join | None


class Scope:
    """The names that the expressions of one SELECT can use, and which of its sources are tied.

    Sources are tied where a condition says that they meet only with equal split columns. So is a
    source and the outer query (its depth), or CONSTANT.
    """

    def __init__(self, outer: Scope | None) -> None:
        self.outer = outer
        self.depth: int = outer.depth + 1 if outer else 0
        self.leaves: list[Leaf] = []
        self.joins: list[Join] = []
        self.expressions: list[Node] = []
        self._aliases: dict[str, tuple[Place, ...]] = {}
        self._parents: dict[Hashable, Hashable] = {}
        self._related = False

    # What names mean.

    def meanings(self, path: Sequence[str]) -> list[Place]:
        """All columns that a reference can mean, from here outwards."""
        names = [name.lower() for name in path]
        for at in (0, 1):
            qualified = [
                self._place(number, names[at + 1])
                for number, leaf in enumerate(self.leaves)
                if len(names) > at + 1 and leaf.alias == names[at]
            ]
            if qualified:
                return qualified
        name = names[0]
        numbers = [n for n, leaf in enumerate(self.leaves) if leaf.rows.has(name)]
        outer: list[Place] = []
        if not numbers:
            numbers = [n for n, leaf in enumerate(self.leaves) if leaf.rows.has(name) is None]
            outer = self.outer.meanings(path) if self.outer else []
        rows = [self._whole(n) for n, leaf in enumerate(self.leaves) if leaf.alias == name]
        found = [self._place(number, name) for number in numbers]
        return [*found, *rows, *self._aliases.get(name, ()), *outer]

    def _place(self, number: int, name: str) -> Place:
        leaf = self.leaves[number]
        own = leaf.rows.holds(name) or name in leaf.equal
        return self._place_of(number, name, leaf.holds(name), own)

    def _whole(self, number: int) -> Place:
        """A row as a value, under its relation's name."""
        leaf = self.leaves[number]
        return self._place_of(number, leaf.alias, leaf.may_hold, leaf.may_hold)

    def _place_of(self, number: int, name: str, holds: bool, own: bool) -> Place:
        cut = self.leaves[number].rows.cut
        loose = not cut and not (self._related and any(leaf.rows.cut for leaf in self.leaves))
        return Place(self.depth, number, name, holds, own, cut, loose)

    def references(self, found: Any) -> Iterator[Place]:
        """What the names in an expression can mean, those in its subqueries too."""
        for path, _ in columns(found):
            yield from self.meanings(path)

    def holds(self, found: Any) -> bool:
        """Whether the value of an expression may depend on the split column."""
        if any(place.holds for place in self.references(found)):
            return True
        whole = any(
            node.get("class") in ("STAR", "POSITIONAL_REFERENCE")
            for node in nodes(found, into_queries=True)
        )
        return whole and any(leaf.may_hold for leaf in self.leaves)

    def name_selected(self, items: Iterable[Node]) -> None:
        """Let expressions use the names that the select list gives."""
        for item in items:
            if item.get("alias"):
                self._aliases[item["alias"].lower()] = tuple(self.references(item))

    # Which sources are tied.

    def relate(self, where: Node | None) -> None:
        """Learn from ON, USING and WHERE which columns are equal and which sources are tied.

        Only a condition that must be true counts, not what stands under OR or NOT.
        """
        equal = list(self._equalities(where))
        shared = [places for join in self.joins for places in self._shared(join)]
        while any([*map(self._learn, equal), *map(self._learn_shared, shared)]):
            shared = [places for join in self.joins for places in self._shared(join)]
        for places in shared:
            self.tie(*(place.leaf for place in places if place.own))
        for equality in sorted(equal, key=lambda each: each.join is not None):
            self._tie_by(equality)
        self._related = True

    @property
    def filters_only(self) -> bool:
        """Whether all rows meet the conditions of all joins."""
        return all(join.filters for join in self.joins)

    def _equalities(self, where: Node | None) -> Iterator[_Equality]:
        filled = any(join.node["join_type"] in _FILLED for join in self.joins)
        found: list[tuple[Node | None, Join | None]] = [(where, None)]
        for join in self.joins:
            found.append((join.node["condition"], None if self.filters_only else join))
        for condition, at in found:
            for part in conjuncts(condition):
                for left, right in _equal_sides(part, nulls=not filled):
                    if at is None or self._across(left, right, at):
                        yield _Equality(left, right, at)

    def _across(self, left: Node, right: Node, join: Join) -> bool:
        """Whether a condition compares the two sides of a join."""
        one, other = (
            {place.leaf for place in self.references(side) if place.depth == self.depth}
            for side in (left, right)
        )
        return any(
            not one.isdisjoint(first) and not other.isdisjoint(second)
            for first, second in ((join.left, join.right), (join.right, join.left))
        )

    def _shared(self, join: Join) -> Iterator[list[Place]]:
        """The places of each column that USING or NATURAL makes one."""
        names = [name.lower() for name in join.node["using_columns"]]
        if join.node["ref_type"] == "NATURAL":
            both = [*join.left, *join.right]
            names = [
                name for n in both for name, holds in self.leaves[n].without(()).columns if holds
            ]
        for name in names:
            left, right = (
                [self._place(n, name) for n in side if self.leaves[n].rows.has(name) is not False]
                for side in (join.left, join.right)
            )
            if left and right:
                yield left + right

    def set_equal(self, expression: Node) -> None:
        """Note that an expression must equal the split column of a subquery."""
        for place in list(self.references(expression)):
            if place.loose:
                self._set_equal(place, set())

    def _learn(self, equality: _Equality) -> bool:
        left, right = equality.left, equality.right
        return any([self._spread(left, right), self._spread(right, left)])

    def _spread(self, source: Node, target: Node) -> bool:
        if not self.holds(source):
            return False
        from_leaves = {p.leaf for p in self.references(source) if p.holds and p.depth == self.depth}
        return any(self._set_equal(place, from_leaves) for place in list(self.references(target)))

    def _learn_shared(self, places: Sequence[Place]) -> bool:
        from_leaves = {place.leaf for place in places if place.holds}
        return bool(from_leaves) and any(self._set_equal(place, from_leaves) for place in places)

    def _set_equal(self, place: Place, from_leaves: set[int]) -> bool:
        """Note that a column equals the split column. Returns whether that is new."""
        if place.holds or (place.depth != self.depth and not place.loose):
            return False
        scope = self
        while scope.depth != place.depth and scope.outer:
            scope = scope.outer
        leaf = scope.leaves[place.leaf]
        known = leaf.equal if not place.cut or place.leaf in from_leaves else leaf.joined
        news = place.name not in known
        known.add(place.name)
        return news

    def _tie_by(self, equality: _Equality) -> None:
        left, right, join = equality.left, equality.right, equality.join
        ones, others = self._members(left), self._members(right)
        if join is None:
            if _is_constant(right) and _is_value(left):
                others = [CONSTANT]
            if _is_constant(left) and _is_value(right):
                ones = [CONSTANT]
        if not ones or not others or not any(isinstance(each, int) for each in (*ones, *others)):
            return
        if join is None or not self._joins_more(ones[0], others[0], join):
            self.tie(*ones, *others)

    def _members(self, side: Node) -> list[Hashable]:
        """The sources, and the outer queries, whose split column a side of a condition may be."""
        places = list(self.references(side))
        here = {place.leaf for place in places if place.own and place.depth == self.depth}
        outer = {
            ("outer", place.depth)
            for place in places
            if place.depth < self.depth and (place.own or place.loose)
        }
        return [*here, *outer]

    def _joins_more(self, one: Hashable, other: Hashable, join: Join) -> bool:
        """Whether a join would tie sources of one side, though it keeps rows that do not meet."""
        if join.filters or self.tied(one, other):
            return False
        return any(
            any(self.tied(one, n) for n in side) and any(self.tied(other, n) for n in side)
            for side in (join.left, join.right)
        )

    def tie(self, *members: Hashable) -> None:
        """Say that these sources have one value of the split column wherever they meet."""
        for member in members[1:]:
            self._parents[self._root(member)] = self._root(members[0])

    def tied(self, one: Hashable, other: Hashable) -> bool:
        return self._root(one) == self._root(other)

    def tied_outside(self, leaf: int) -> frozenset[int]:
        """The depths of the outer queries that a source is tied to."""
        return frozenset(d for d in range(self.depth) if self.tied(leaf, ("outer", d)))

    def _root(self, member: Hashable) -> Hashable:
        while (parent := self._parents.get(member, member)) != member:
            member = parent
        return member


def _equal_sides(condition: Node, *, nulls: bool) -> Iterator[tuple[Node, Node]]:
    """What a condition says to be equal; with `nulls`, also where NULL counts as equal to NULL."""
    types = ("COMPARE_EQUAL", "COMPARE_NOT_DISTINCT_FROM") if nulls else ("COMPARE_EQUAL",)
    if condition.get("type") not in types:
        return
    left, right = condition["left"], condition["right"]
    if any(node.get("class") == "COLLATE" for node in nodes([left, right])):
        return  # different values may be equal by it
    cells = [_cells(left), _cells(right)]
    yield from zip(*cells, strict=True) if len(cells[0]) == len(cells[1]) else [(left, right)]


def _cells(side: Node) -> list[Node]:
    """The expressions of `(a, b)`, or one expression."""
    if side.get("class") != "FUNCTION" or function_name(side) != "row":
        return [side]
    return [each.get("expression", each) for each in side.get("arguments") or side["children"]]


def _is_constant(side: Node) -> bool:
    """Whether it is one value for all rows, and not of a column or subquery."""
    return not any(node.get("class") in ("COLUMN_REF", "SUBQUERY", "STAR") for node in nodes(side))


def _is_value(side: Node) -> bool:
    """Whether it is a column, as it is or as text: no other cast keeps all values apart."""
    if side.get("class") == "CAST" and side["type_expr"].get("type_name", "").upper() in _TEXTS:
        side = side["child"]
    return side.get("class") == "COLUMN_REF"
