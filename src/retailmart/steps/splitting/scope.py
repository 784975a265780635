"""What the names in a SELECT can mean, and which of its sources its conditions tie together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retailmart.steps.splitting.rows import Leaf
from retailmart.steps.splitting.tree import Node, columns, nodes

_EQUALITIES: Final = ("COMPARE_EQUAL", "COMPARE_NOT_DISTINCT_FROM")
# A comparison of this kind says that the values differ.
_INEQUALITIES: Final = (
    "COMPARE_NOTEQUAL",
    "COMPARE_DISTINCT_FROM",
    "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHAN",
)
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

    def relate(self, conditions: Sequence[Node | None]) -> None:
        """Learn from ON, USING and WHERE which columns are equal and which sources are tied."""
        known = [part for condition in conditions for part in _conjuncts(condition)]
        equal = [n for part in known for n in nodes(part) if n.get("type") in _EQUALITIES]
        shared = [places for join in self.joins for places in self._shared(join)]
        while any([*map(self._learn, equal), *map(self._learn_shared, shared)]):
            shared = [places for join in self.joins for places in self._shared(join)]
        for part in known:
            self._tie_by(part)
        for places in shared:
            self.tie(*(place.leaf for place in places if place.own))
        self._related = True

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
            self._set_equal(place, set())

    def _learn(self, equality: Node) -> bool:
        left, right = equality["left"], equality["right"]
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

    def _tie_by(self, condition: Node) -> None:
        if condition.get("type") in _INEQUALITIES:
            return
        places = list(self.references(condition))
        here = {place.leaf for place in places if place.own and place.depth == self.depth}
        outer = {
            ("outer", place.depth)
            for place in places
            if place.depth < self.depth and (place.own or place.loose)
        }
        if here:
            self.tie(*here, *outer, *([CONSTANT] if _with_constant(condition) else []))

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


def _conjuncts(condition: Node | None) -> Iterator[Node]:
    if condition and condition.get("type") == "CONJUNCTION_AND":
        for child in condition["children"]:
            yield from _conjuncts(child)
    elif condition:
        yield condition


def _with_constant(condition: Node) -> bool:
    """Whether a condition is that a column, as it is or cast, equals a value of no column."""
    if condition.get("type") not in _EQUALITIES:
        return False
    left, right = condition["left"], condition["right"]
    return any(
        one.get("class") in ("COLUMN_REF", "CAST") and not any(columns(other))
        for one, other in ((left, right), (right, left))
    )
