"""What a query must not do with rows of different values of the split column."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retailmart.marts.splitting.rows import Rows
from retailmart.marts.splitting.scope import CONSTANT, Join, Scope
from retailmart.marts.splitting.tree import AGGREGATES, Node, conjuncts, function_name, nodes

# The sides of a join that stay whole, whether the other side has rows for them or not.
_KEPT: Final = {
    "LEFT": ("left",),
    "ANTI": ("left",),
    "RIGHT": ("right",),
    "FULL": ("left", "right"),
    "OUTER": ("left", "right"),
}

# What is NULL if a column in it is; with the operators.
_NULL_OF_NULL: Final = ("COLUMN_REF", "CAST", "CONSTANT", "TYPE")


class RowsMeet(Exception):
    """Rows of different values of the split column meet; the message says where."""


@dataclass(frozen=True)
class Checks:
    """The checks of one SELECT, each of which raises RowsMeet.

    `cut` numbers its sources that are cut. `tied` says that one row of an outer query decides
    which value of the split column all rows have.
    """

    column: str
    node: Node
    scope: Scope
    cut: Sequence[int]
    tied: bool

    @property
    def one_value(self) -> bool:
        """Whether the query asks for one constant value of the split column only."""
        return bool(self.cut) and self.scope.tied(self.cut[0], CONSTANT)

    def sources_are_tied(self) -> None:
        for number in self.cut[1:]:
            if not self.scope.tied(self.cut[0], number):
                one, other = (self.scope.leaves[n].label for n in (self.cut[0], number))
                raise RowsMeet(f"the join of {one} and {other} has no condition on {self.column}")

    def joins(self) -> None:
        """A join must not depend on the order of rows, nor keep rows that are not cut."""
        if self.tied:
            return
        filtered = self._filtered()
        for join in self.scope.joins:
            cut_sides = [
                side
                for side, numbers in (("left", join.left), ("right", join.right))
                if set(numbers) & set(self.cut)
            ]
            if cut_sides and join.node["ref_type"] == "POSITIONAL":
                raise RowsMeet("a POSITIONAL join depends on the order of all rows")
            if len(cut_sides) == 1:
                self._kept_whole(join, cut_sides[0], filtered)

    def _filtered(self) -> set[int]:
        """The cut sources of which WHERE drops the rows that a join fills with NULLs."""
        values = [
            value for part in conjuncts(self.node["where_clause"]) for value in _not_null(part)
        ]
        places = [place for value in values for place in self.scope.references(value)]
        return {each.leaf for each in places if each.cut and each.depth == self.scope.depth}

    def _kept_whole(self, join: Join, cut_side: str, filtered: Collection[int]) -> None:
        kind = join.node["join_type"]
        kept = _KEPT.get(kind, ())
        if cut_side == "right" and (kind == "SEMI" or join.node["ref_type"] == "ASOF"):
            rest = [n for n in range(len(self.scope.leaves)) if n not in join.right]
            if not any(self.scope.tied(n, join.right[0]) for n in [*rest, CONSTANT]):
                kept = ("left",)
        # A filter on the other side may drop the rows that a LEFT JOIN keeps.
        if kind not in ("SEMI", "ANTI") and not {*join.left, *join.right}.isdisjoint(filtered):
            return
        for side in kept:
            if side != cut_side:
                numbers = join.left if side == "left" else join.right
                label = self.scope.leaves[numbers[0]].label
                raise RowsMeet(
                    f"the {kind} JOIN keeps rows of {label}, which is not cut by {self.column}, so"
                    " each part of the month would give them"
                )

    def steps(self) -> None:
        """Groups, windows, DISTINCT and LIMIT must each be of one value of the split column."""
        if self.node["sample"]:
            raise RowsMeet(f"USING SAMPLE chooses among rows of all values of {self.column}")
        if self.tied:
            return
        self._groups()
        if self.one_value:
            return
        for inner in nodes(
            [self.node["select_list"], self.node["qualify"], self.node["modifiers"]]
        ):
            if inner.get("class") == "WINDOW" and not self.scope.holds(inner["partitions"]):
                name = function_name(inner)
                raise RowsMeet(f"the window of {name}() is not partitioned by {self.column}")
        for modifier in self.node["modifiers"]:
            targets = modifier.get("distinct_on_targets")
            if targets and not any(map(self._holds, targets)):
                raise RowsMeet(f"DISTINCT ON does not contain {self.column}")

    def _groups(self) -> None:
        sets, items = self.node["group_sets"], self.node["select_list"]
        by_all = self.node["aggregate_handling"] == "FORCE_AGGREGATES"
        for members in sets:
            by = [self.node["group_expressions"][number] for number in members]
            if not by and len(sets) > 1:
                raise RowsMeet("ROLLUP, CUBE or GROUPING SETS gives a total of all rows")
            if by and not self.one_value and not any(map(self._holds, by)):
                written = ", ".join(map(_written, by))
                raise RowsMeet(f"GROUP BY {written} does not contain {self.column}")
        plain = [item for item in items if not _aggregate(item)]
        if by_all and plain and not self.one_value and not self.scope.holds(plain):
            raise RowsMeet(f"GROUP BY ALL groups by no column that contains {self.column}")
        if not (plain if by_all else any(sets)):
            self._total(by_all)

    def _total(self, by_all: bool) -> None:
        """Without groups, an aggregate gives one row of all rows."""
        node = self.node
        used = [node["select_list"], node["having"], node["qualify"], node["modifiers"]]
        name = _aggregate(used)
        if name or node["having"] or node["group_sets"] or by_all:
            what = f"{name}()" if name else "the query"
            raise RowsMeet(
                f"{what} puts rows of all values of {self.column} together, as there is no GROUP BY"
            )

    def _holds(self, expression: Node) -> bool:
        """Whether a group may contain the split column; it can be a position in the select list."""
        items = self.node["select_list"]
        number = (expression.get("literal") or {}).get("text", "")
        if expression.get("class") != "CONSTANT" or not number.isdigit():
            return self.scope.holds(expression)
        before = items[: int(number)]
        stars = any(node.get("class") == "STAR" for node in nodes(before))
        return stars or self.scope.holds(before[-1:])


def _not_null(condition: Node) -> Iterator[Node]:
    """The expressions that cannot be NULL if a condition is true, and are NULL if a column is."""
    kind = condition.get("type", "")
    found: list[Node] = []
    if condition.get("class") == "COMPARISON" and "DISTINCT" not in kind:
        found = [condition["left"], condition["right"]]
    elif condition.get("class") == "BETWEEN":
        found = [condition["input"]]
    elif kind in ("COMPARE_IN", "OPERATOR_IS_NOT_NULL"):
        found = condition["children"][:1]
    for value in found:
        inner = [node for node in nodes(value) if "class" in node]
        if all(n["class"] in _NULL_OF_NULL or n.get("is_operator") for n in inner):
            yield value


def gives_one_row(node: Node) -> bool:
    """Whether a SELECT gives a row even if FROM gives none."""
    return not any(node["group_sets"]) and (
        node["having"] is not None
        or _aggregate([node["select_list"], node["qualify"], node["modifiers"]]) is not None
    )


def check_modifiers(node: Node, rows: Rows, column: str) -> None:
    """What follows a query that gives `rows` of several values: LIMIT and DISTINCT."""
    for modifier in node["modifiers"]:
        if modifier["type"].startswith("LIMIT"):
            raise RowsMeet(f"LIMIT or OFFSET counts rows of all values of {column}")
        if modifier["type"] == "DISTINCT_MODIFIER" and not modifier["distinct_on_targets"]:
            check_distinct("DISTINCT", rows, column)


def check_distinct(word: str, rows: Rows, column: str) -> None:
    """Rows are compared as a whole, so one of their columns must hold the split column."""
    if not rows.may_hold:
        raise RowsMeet(f"{word} compares rows that do not contain {column}")


def _aggregate(found: Any) -> str | None:
    """The first aggregate function in expressions, except those of windows."""
    return next(_aggregates(found), None)


def _aggregates(found: Any) -> Iterator[str]:
    for node in nodes(found):
        if node.get("class") == "FUNCTION" and function_name(node) in AGGREGATES:
            yield function_name(node).removesuffix("_star")


def _written(expression: Node) -> str:
    if expression.get("class") == "COLUMN_REF":
        return ".".join(expression["column_names"])
    if expression.get("class") == "CONSTANT":
        return str((expression.get("literal") or {}).get("text", "…"))
    return "…"
