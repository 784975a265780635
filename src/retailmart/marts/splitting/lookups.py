"""Which rows of a table a query can show, by the columns whose values it looks them up by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from retailmart.lake.layout import VALID_FROM, VALID_TO
from retailmart.marts.splitting.tree import Node, common_tables, conjuncts, nodes, parts, statement

# Joins in which a row of this side counts only if the condition finds it.
_RIGHT_IS_FOUND: Final = ("INNER", "LEFT", "SEMI", "ANTI")
_LEFT_IS_FOUND: Final = ("INNER", "RIGHT", "SEMI")
_COMPARISONS: Final = {
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
}

# A column of a relation, by the names of both.
Origin = tuple[str, str]


@dataclass(frozen=True)
class Lookup:
    """A table's rows are found by `key`, which must equal `column` of `relation`.

    `day` is a column of the relation, too: of the versions of a table's row, the one of that day is
    found, and no other condition says when it ends. None if other versions may show.
    """

    relation: str
    column: str
    key: str
    day: str | None = None


@dataclass(frozen=True)
class _Given:
    """What a source or query gives: its columns, and the origins whose values each copies.

    `complete`: there are no others. None: the column is not known to be a copy.
    """

    columns: Mapping[str, frozenset[Origin] | None]
    complete: bool = True


_UNKNOWN: Final = _Given({}, complete=False)


@dataclass(frozen=True)
class _Leaf:
    """One source in FROM. `is_table`: it is the table whose lookups are wanted."""

    alias: str
    given: _Given
    is_table: bool


@dataclass
class _Scope:
    """The sources of one SELECT, and of those around it."""

    outer: _Scope | None
    leaves: list[_Leaf] = field(default_factory=list)
    plain: bool = True
    # Each use of the table: the number of its leaf, its join, and the other leaves of that.
    uses: list[tuple[int, Node | None, range]] = field(default_factory=list)

    def meaning(self, path: Sequence[str]) -> tuple[_Leaf, str] | None:
        """The one column that a name means; None if that is not certain."""
        name = path[-1].lower()
        if len(path) > 2:
            return None
        if len(path) == 2:
            found = [leaf for leaf in self.leaves if leaf.alias == path[0].lower()]
        else:
            found = [leaf for leaf in self.leaves if name in leaf.given.columns]
            if not all(leaf.given.complete for leaf in self.leaves):
                return None
        if not found:
            return self.outer.meaning(path) if self.outer else None
        if len(found) > 1 or name not in found[0].given.columns:
            return None
        return found[0], name

    def origins(self, node: Node) -> frozenset[Origin]:
        """The columns whose values an expression copies; none if it computes."""
        if node.get("class") != "COLUMN_REF":
            return frozenset()
        found = self.meaning(node["column_names"])
        return frozenset() if found is None else found[0].given.columns[found[1]] or frozenset()


class _Unproven(Exception):
    """Any row of the table may show."""


def lookups(
    tree: Mapping[str, Any],
    table: str,
    fields: Mapping[str, Mapping[str, str]],
    days: Mapping[str, str],
) -> frozenset[Lookup] | None:
    """How a query finds the rows of a table; None if it may read rows that it does not look up.

    `tree` is what json_serialize_sql gives of one SELECT, `fields` are the columns of all that it
    reads, with their types. Rows are looked up by columns of the relations `days`, which also gives
    the day of each of their rows. So if a row's key is not a value of such a column, the row does
    not matter.
    """
    query = statement(tree)
    lower = {
        name.lower(): {column.lower(): kind for column, kind in known.items()}
        for name, known in fields.items()
    }
    reader = _Reader(
        table.lower(), lower, {name.lower(): day.lower() for name, day in days.items()}
    )
    try:
        if query is None:
            return None
        reader.query(query, {}, None)
    except (_Unproven, KeyError):  # a KeyError: another DuckDB's tree
        return None
    if not reader.found:
        return None
    if _named_ends(query, reader.aliases) != reader.ends:
        return frozenset(replace(each, day=None) for each in reader.found)
    return frozenset(reader.found)


def _named_ends(query: Node, aliases: Collection[str]) -> int:
    """How often a query says when a version ends, of what may have one of these names."""
    return sum(
        path[-1] == VALID_TO and (len(path) == 1 or path[-2] in aliases)
        for node in nodes(query, into_queries=True)
        if node.get("class") == "COLUMN_REF"
        for path in [[name.lower() for name in node["column_names"]]]
    )


class _Reader:
    """Walks one query; `found` are the lookups of the table, `aliases` its names there.

    `ends` counts the conditions by which a day must be before `_valid_to`.
    """

    def __init__(
        self, table: str, fields: Mapping[str, Mapping[str, str]], days: Mapping[str, str]
    ) -> None:
        self.table = table
        self.fields = fields
        self.days = days
        self.found: set[Lookup] = set()
        self.aliases: set[str] = set()
        self.ends = 0

    def query(self, node: Node, outer_names: Mapping[str, _Given], outer: _Scope | None) -> _Given:
        names = dict(outer_names)
        for name, inner, aliases in common_tables(node):
            within = {**names, name: _UNKNOWN} if inner["type"] == "RECURSIVE_CTE_NODE" else names
            given = self.query(inner, within, outer)
            names[name] = _UNKNOWN if aliases else given
        if node["type"] == "SELECT_NODE":
            return self._select(node, names, outer)
        if node["type"] not in ("SET_OPERATION_NODE", "RECURSIVE_CTE_NODE"):
            raise _Unproven
        given_by = [self.query(part, names, outer) for part in parts(node)]
        self._expressions(node["modifiers"], names, _Scope(outer))
        by_name = str(node.get("setop_type", "")).endswith("BY_NAME")
        return _UNKNOWN if by_name else self._together(given_by)

    def _select(self, node: Node, names: Mapping[str, _Given], outer: _Scope | None) -> _Given:
        scope = _Scope(outer)
        self._source(node["from_table"], names, scope)
        for number, join, others in scope.uses:
            self._use(scope, number, join, others, node)
        for part in ("select_list", "where_clause", "group_expressions", "having", "qualify"):
            self._expressions(node[part], names, scope)
        self._expressions(node["modifiers"], names, scope)
        return _selected(node["select_list"], scope)

    def _expressions(self, found: Any, names: Mapping[str, _Given], scope: _Scope) -> None:
        for node in nodes(found):
            if node.get("class") == "SUBQUERY":
                self.query(node["subquery"]["node"], names, scope)

    def _together(self, found: Sequence[_Given]) -> _Given:
        """What a UNION, EXCEPT or INTERSECT gives: a column copies what it copies in any part.

        Columns of different types are not copied but cast to a type that holds both, in which other
        values are equal than in their own.
        """
        if not all(given.complete for given in found):
            return _UNKNOWN
        listed = zip(*(given.columns.items() for given in found), strict=False)
        together: dict[str, frozenset[Origin] | None] = {}
        for each in listed:
            origins = [origin for _, origin in each]
            known = [origin for origin in origins if origin is not None]
            name, both = each[0][0], frozenset[Origin]().union(*known)
            kinds = {self.fields[relation][column] for relation, column in both}
            whole = len(known) == len(origins) and len(kinds) == 1 and name not in together
            together[name] = both if whole else None
        return _Given(together)

    # The sources in FROM.

    def _source(self, node: Node, names: Mapping[str, _Given], scope: _Scope) -> None:
        kind = node["type"]
        if kind == "JOIN":
            self._join(node, names, scope)
        elif kind == "BASE_TABLE":
            leaf = self._table(node, names)
            if leaf.is_table:
                scope.uses.append((len(scope.leaves), None, range(0)))
            scope.leaves.append(leaf)
        elif kind == "SUBQUERY":
            given = self.query(node["subquery"]["node"], names, scope)
            given = _UNKNOWN if node["column_name_alias"] else given
            scope.leaves.append(_Leaf(node["alias"].lower(), given, False))
        elif kind in ("TABLE_FUNCTION", "EXPRESSION_LIST"):
            self._expressions([node.get("function"), node.get("values")], names, scope)
            scope.leaves.append(_Leaf(str(node.get("alias") or "").lower(), _UNKNOWN, False))
        elif kind != "EMPTY":
            raise _Unproven

    def _table(self, node: Node, names: Mapping[str, _Given]) -> _Leaf:
        name = node["table_name"].lower()
        alias = (node.get("alias") or name).lower()
        is_common = name in names and not node["schema_name"] and not node["catalog_name"]
        is_table = name == self.table and not is_common
        if is_table and (node["sample"] or node["at_clause"]):
            raise _Unproven
        if is_common:
            given = names[name]
        elif name not in self.fields:
            given = _UNKNOWN
        elif name in self.days:
            given = _Given({each: frozenset({(name, each)}) for each in self.fields[name]})
        else:
            given = _Given(dict.fromkeys(self.fields[name]))
        if node["column_name_alias"]:
            if is_table:
                raise _Unproven
            given = _UNKNOWN
        return _Leaf(alias, given, is_table)

    def _join(self, node: Node, names: Mapping[str, _Given], scope: _Scope) -> None:
        start, used = len(scope.leaves), len(scope.uses)
        self._source(node["left"], names, scope)
        middle, of_left = len(scope.leaves), len(scope.uses)
        self._source(node["right"], names, scope)
        end = len(scope.leaves)
        scope.plain = scope.plain and node["join_type"] == "INNER"
        scope.plain = scope.plain and node["ref_type"] in ("REGULAR", "CROSS")
        # For a joined table, the condition of its own join counts.
        sides = [
            (node["left"], used, _LEFT_IS_FOUND, range(middle, end)),
            (node["right"], of_left, _RIGHT_IS_FOUND, range(start, middle)),
        ]
        for side, number, kinds, others in sides:
            if side["type"] != "BASE_TABLE" or number >= len(scope.uses):
                continue
            leaf, join, _ = scope.uses[number]
            at = start if side is node["left"] else middle
            if leaf == at and join is None and node["join_type"] in kinds:
                scope.uses[number] = (leaf, node, others)
        self._expressions(node["condition"], names, scope)

    # The uses of the table.

    def _use(
        self, scope: _Scope, number: int, join: Node | None, others: range, select: Node
    ) -> None:
        """Record how the rows of one use are looked up. Raises _Unproven if any row may show."""
        leaf = scope.leaves[number]
        self.aliases.add(leaf.alias)
        conditions: list[Node] = []
        if join is not None and join["ref_type"] == "REGULAR":
            conditions += conjuncts(join["condition"])
        if scope.plain:
            conditions += conjuncts(select["where_clause"])
        equal = [pair for node in conditions for pair in self._equal(node, leaf, scope)]
        if join is not None and join["ref_type"] == "REGULAR":
            equal += self._using(join, leaf, [scope.leaves[n] for n in others])
        if not equal:
            raise _Unproven
        key, origins = equal[0]
        day, ends = self._day(conditions, leaf, scope, {relation for relation, _ in origins})
        if day is not None and not _is_whole(leaf, select):
            self.ends += ends
        else:
            day = None
        for relation, column in origins:
            self.found.add(Lookup(relation, column, key, self.days[relation] if day else None))

    def _equal(
        self, node: Node, leaf: _Leaf, scope: _Scope
    ) -> Iterator[tuple[str, frozenset[Origin]]]:
        """The table's column that a condition compares with a copied one, and whose copy it is."""
        if node.get("type") != "COMPARE_EQUAL":
            return
        for one, other in ((node["left"], node["right"]), (node["right"], node["left"])):
            origins = scope.origins(other)
            if origins and (name := _column_of(one, leaf, scope)) is not None:
                yield name, origins

    def _using(
        self, join: Node, leaf: _Leaf, others: Sequence[_Leaf]
    ) -> Iterator[tuple[str, frozenset[Origin]]]:
        for name in map(str.lower, join["using_columns"]):
            found = [other for other in others if name in other.given.columns]
            if len(found) != 1 or not all(other.given.complete for other in others):
                continue
            if name in leaf.given.columns and (origins := found[0].given.columns[name]):
                yield name, origins

    def _day(
        self, conditions: Sequence[Node], leaf: _Leaf, scope: _Scope, relations: set[str]
    ) -> tuple[str | None, int]:
        """The day that `_valid_from` must not be after, and how often it is before `_valid_to`."""
        begins: set[frozenset[Origin]] = set()
        ends: list[frozenset[Origin]] = []
        for node in conditions:
            condition, names_end = self._without_for_ever(node, leaf, scope)
            for kind, one, other in _comparison(condition):
                name = _column_of(one, leaf, scope)
                if kind == "COMPARE_LESSTHANOREQUALTO" and name == VALID_FROM:
                    begins.add(scope.origins(other))
                if kind == "COMPARE_GREATERTHAN" and name == VALID_TO:
                    ends += [scope.origins(other)] * names_end
        wanted = {frozenset({(relation, self.days[relation])}) for relation in relations}
        if len(wanted) != 1 or not wanted <= begins:
            return None, 0
        (day,) = wanted
        return self.days[next(iter(relations))], ends.count(day)

    def _without_for_ever(self, node: Node, leaf: _Leaf, scope: _Scope) -> tuple[Node, int]:
        """`day < _valid_to OR _valid_to = …` without its end, and how often it names `_valid_to`.

        What follows the OR matters only on days on which the version has ended.
        """
        if node.get("type") != "CONJUNCTION_OR" or len(node["children"]) != 2:
            return node, 1
        for one, other in (node["children"], node["children"][::-1]):
            if other.get("type") != "COMPARE_EQUAL":
                continue
            sides = (other["left"], other["right"])
            named = [side for side in sides if _column_of(side, leaf, scope) == VALID_TO]
            fixed = [s for s in sides if not any(n.get("class") != "CONSTANT" for n in _values(s))]
            if len(named) == len(fixed) == 1:
                return one, 2
        return node, 1


def _values(node: Node) -> Iterator[Node]:
    """The nodes that an expression is computed from, without its casts."""
    return (each for each in nodes(node) if each.get("class") not in (None, "CAST", "TYPE"))


def _column_of(node: Node, leaf: _Leaf, scope: _Scope) -> str | None:
    """The column of a source that an expression is, as it is."""
    if node.get("class") != "COLUMN_REF":
        return None
    found = scope.meaning(node["column_names"])
    return found[1] if found is not None and found[0] is leaf else None


def _comparison(node: Node) -> Iterator[tuple[str, Node, Node]]:
    """A comparison, read from either side."""
    kind = node.get("type", "")
    if kind in _COMPARISONS:
        yield kind, node["left"], node["right"]
        yield _COMPARISONS[kind], node["right"], node["left"]


def _is_whole(leaf: _Leaf, select: Node) -> bool:
    """Whether all columns of a source may be taken at once, `_valid_to` among them."""
    for node in nodes(select, into_queries=True):
        if node.get("class") == "POSITIONAL_REFERENCE":
            return True
        if node.get("class") == "STAR" and node.get("relation_name", "").lower() in (
            "",
            leaf.alias,
        ):
            return True
        if node.get("class") == "COLUMN_REF" and [leaf.alias] == [
            name.lower() for name in node["column_names"]
        ]:
            return True
    return False


def _selected(items: Sequence[Node], scope: _Scope) -> _Given:
    """The columns of a select list."""
    given: dict[str, frozenset[Origin] | None] = {}
    complete = True
    for number, item in enumerate(items):
        for name, origins in _item(item, number, scope):
            complete = complete and name != "" and name not in given
            given[name] = None if name in given else origins
    given.pop("", None)
    return _Given(given, complete)


def _item(item: Node, number: int, scope: _Scope) -> Iterator[tuple[str, frozenset[Origin] | None]]:
    """The columns that one item gives; one without a name stands for those that are not known."""
    if item.get("class") == "STAR":
        yield from _star(item, scope)
    elif any(node.get("class") == "STAR" for node in nodes(item)):
        yield "", None
    elif item.get("class") == "COLUMN_REF":
        yield (item["alias"] or item["column_names"][-1]).lower(), scope.origins(item) or None
    else:
        # Without an alias, its name is made of its text; no copy has such a name.
        yield (item.get("alias") or f"\0{number}").lower(), None


def _star(star: Node, scope: _Scope) -> Iterator[tuple[str, frozenset[Origin] | None]]:
    named = star["relation_name"].lower()
    if star["columns"] or star["rename_list"]:
        yield "", None
        return
    excluded = {str(name).lower() for name in star["exclude_list"]}
    excluded |= {each["column"].lower() for each in star["qualified_exclude_list"]}
    replaced = {str(each.get("key", each)).lower() for each in star["replace_list"] or ()}
    for leaf in scope.leaves:
        if named not in ("", leaf.alias):
            continue
        if not leaf.given.complete:
            yield "", None
        for name, origins in leaf.given.columns.items():
            if name not in excluded:
                yield name, None if replaced else origins
