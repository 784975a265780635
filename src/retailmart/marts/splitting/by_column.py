"""Whether a mart's query shows that `split_by` is wrong: rows of different values meet in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from retailmart.marts.splitting.checks import (
    Checks,
    RowsMeet,
    check_distinct,
    check_modifiers,
    gives_one_row,
)
from retailmart.marts.splitting.rows import Leaf, Rows, together
from retailmart.marts.splitting.scope import Join, Scope
from retailmart.marts.splitting.selected import selected
from retailmart.marts.splitting.tree import (
    Node,
    columns,
    common_tables,
    conjuncts,
    parts,
    statement,
)

Names = Mapping[str, Rows | RowsMeet]
_ALL: Node = {
    "class": "STAR",
    "relation_name": "",
    "exclude_list": [],
    "qualified_exclude_list": [],
    "rename_list": [],
    "replace_list": [],
    "columns": False,
}
# SELECT * of some source.
_EVERYTHING: Node = {
    "type": "SELECT_NODE",
    "select_list": [_ALL],
    "where_clause": None,
    "group_expressions": [],
    "group_sets": [],
    "aggregate_handling": "STANDARD_HANDLING",
    "having": None,
    "qualify": None,
    "sample": None,
    "modifiers": [],
}


def split_problem(
    tree: Mapping[str, Any],
    columns: Collection[str],
    relations_with_fields: Mapping[str, Collection[str]],
) -> str | None:
    """Why a month cannot be cut by `columns`, as one sentence, if the query shows it.

    `tree` is what json_serialize_sql gives of one SELECT; `relations_with_fields` are the
    relations that are cut by month, with their columns. None if the query does not show it:
    `split_by` is the user's promise, and `retailmart verify` proves it.
    """
    query = statement(tree)
    if query is None:
        return None
    try:
        for column in columns:
            if not _Query(column, relations_with_fields).rows(query, {}, None).cut:
                return f"the query reads no relation that can be cut by {column}"
    except RowsMeet as problem:
        return str(problem)
    except KeyError:  # another DuckDB's tree
        return None
    return None


@dataclass(frozen=True)
class _Query:
    """The parts of one query, seen for one split column; each refuses what it shows to be wrong."""

    column: str
    relations: Mapping[str, Collection[str]]

    def rows(self, node: Node, outer_names: Names, outer: Scope | None) -> Rows:
        """What a query gives. `outer_names` are the WITH names that it can read."""
        names = dict(outer_names)
        for name, inner, aliases in common_tables(node):
            try:
                names[name] = self.rows(inner, names, outer).renamed(aliases)
            except RowsMeet as problem:  # it does not matter if nothing reads it
                names[name] = _in_part(problem, name)
        if node["type"] == "SELECT_NODE":
            return self._select(node, names, outer)
        if node["type"] == "SET_OPERATION_NODE":
            return self._set_operation(node, names, outer)
        if node["type"] == "RECURSIVE_CTE_NODE":
            first = self.rows(node["left"], names, outer)
            return Rows(first.cut, others=True, tied=first.tied)
        return Rows(True, others=True)

    def _select(self, node: Node, names: Names, outer: Scope | None) -> Rows:
        scope = Scope(outer)
        self._source(node["from_table"], names, scope)
        scope.name_selected(node["select_list"])
        conditions = [join.node["condition"] for join in scope.joins]
        scope.relate(node["where_clause"])
        scope.name_selected(node["select_list"])
        filtering = [node["where_clause"], node["qualify"], node["having"], conditions]
        filters = self._subqueries(filtering, names, scope, as_conditions=True)
        rest = [node["select_list"], node["group_expressions"], node["modifiers"]]
        values = self._subqueries([*rest, scope.expressions], names, scope)
        cut = [number for number, leaf in enumerate(scope.leaves) if leaf.rows.cut]
        inner = [rows for _, rows in (*filters, *values)]
        if not cut and not inner:
            return selected(node["select_list"], scope, cut=False)
        tied = _tied(scope, cut, inner)
        kept = [*conjuncts(node["where_clause"])]
        if scope.filters_only:
            kept += [part for condition in conditions for part in conjuncts(condition)]
        needs = any(rows.needs_cut and any(n is part for part in kept) for n, rows in filters)
        if not cut:
            self._without_cut_source(scope, needs, tied)
        elif scope.filters_only:
            needs = needs or any(scope.leaves[number].rows.needs_cut for number in cut)
        checks = Checks(self.column, node, scope, cut, bool(tied))
        return replace(self._checked(checks, tied), needs_cut=needs and not gives_one_row(node))

    def _checked(self, checks: Checks, tied: frozenset[int]) -> Rows:
        checks.sources_are_tied()
        checks.joins()
        checks.steps()
        rows = selected(checks.node["select_list"], checks.scope, cut=True)
        if not tied and not checks.one_value:
            check_modifiers(checks.node, rows, self.column)
        return replace(rows, tied=tied)

    def _without_cut_source(self, scope: Scope, filtered: bool, tied: frozenset[int]) -> None:
        """FROM reads nothing that is cut but a subquery does: a filter may tie the rows to it.

        It must be a condition by IN or EXISTS that no row meets where the subquery has no rows.
        """
        if not filtered and not tied:
            raise RowsMeet(
                f"FROM reads nothing that can be cut by {self.column}, so each part of the month"
                " would give its rows"
            )
        if any(leaf.equal for leaf in scope.leaves):
            return
        for leaf in scope.leaves:  # the filter may compare any of them with the split column
            columns = tuple((name, True) for name, _ in leaf.rows.columns)
            leaf.rows = replace(leaf.rows, columns=columns, others=True)

    # The sources in FROM.

    def _source(self, node: Node, names: Names, scope: Scope, hidden: bool = False) -> None:
        if node["type"] == "JOIN":
            start = len(scope.leaves)
            self._source(node["left"], names, scope, hidden)
            middle = len(scope.leaves)
            hidden = hidden or node["join_type"] in ("SEMI", "ANTI")
            self._source(node["right"], names, scope, hidden)
            end = len(scope.leaves)
            scope.joins.append(Join(node, range(start, middle), range(middle, end)))
        elif node["type"] != "EMPTY":
            self._leaf(node, names, scope, hidden)

    def _leaf(self, node: Node, names: Names, scope: Scope, hidden: bool) -> None:
        alias = node.get("alias") or node.get("table_name") or ""
        label = node.get("table_name") or alias or "a subquery"
        try:
            rows = self._rows_of(node, names, scope)
        except RowsMeet as problem:
            raise _in_part(problem, node.get("alias")) from None
        if node.get("sample") and rows.cut:
            raise RowsMeet(f"TABLESAMPLE chooses among rows of all values of {self.column}")
        rows = rows.renamed(node.get("column_name_alias") or ())
        number = len(scope.leaves)
        scope.leaves.append(Leaf(alias.lower(), label, rows, hidden))
        for depth in rows.tied:  # by LATERAL to the sources before it, or to an outer query
            scope.tie(number, *(range(number) if depth == scope.depth else [("outer", depth)]))

    def _rows_of(self, node: Node, names: Names, scope: Scope) -> Rows:
        if node["type"] == "BASE_TABLE":
            return self._table(node, names)
        if node["type"] == "SUBQUERY":
            return self.rows(node["subquery"]["node"], names, scope)
        if node["type"] == "PIVOT":
            return self._pivot(node, names, scope)
        used = [part for part in (node.get("function"), node.get("values")) if part]
        scope.expressions += used
        return Rows(False, others=scope.holds(used))

    def _pivot(self, node: Node, names: Names, scope: Scope) -> Rows:
        """PIVOT groups by the columns that it names, else by all that it does not use."""
        source = {**_EVERYTHING, "from_table": node["source"]}
        rows = self._select(source, names, scope.outer)
        unknown = Rows(rows.cut, others=True, tied=rows.tied)
        if node["unpivot_names"] or not rows.cut or rows.tied:
            return unknown
        computed = {path[-1].lower() for path, _ in columns(node["aggregates"])}
        used = computed | {
            path[-1].lower()
            for pivot in node["pivots"]
            for path, _ in columns(pivot["pivot_expressions"])
        }
        groups = [name.lower() for name in node["groups"]]
        groups = groups or [name for name, _ in rows.columns if name not in used]
        rest = not node["groups"] and not rows.complete
        if not any(map(rows.holds, groups)) and not (rest and rows.others):
            by = ", ".join(groups) or "no column"
            raise RowsMeet(f"PIVOT groups by {by}, without {self.column}")
        others = (rest and rows.others) or any(map(rows.holds, computed))
        return replace(unknown, columns=tuple((g, rows.holds(g)) for g in groups), others=others)

    def _table(self, node: Node, names: Names) -> Rows:
        name = node["table_name"].lower()
        known = None if node["schema_name"] or node["catalog_name"] else names.get(name)
        if isinstance(known, RowsMeet):
            raise known
        if known:
            return known
        for relation, fields in self.relations.items():
            if relation.lower() == name:
                lower = [field.lower() for field in fields]
                if self.column.lower() not in lower:
                    raise RowsMeet(f"{relation} has no column {self.column} to cut it by")
                known_columns = tuple((field, field == self.column.lower()) for field in lower)
                ordered = isinstance(fields, Sequence)
                return Rows(True, known_columns, complete=True, ordered=ordered, needs_cut=True)
        return Rows(False)

    def _subqueries(
        self, found: Any, names: Names, scope: Scope, *, as_conditions: bool = False
    ) -> list[tuple[Node, Rows]]:
        """The subqueries in expressions that read cut relations; each must be tied to the row."""
        inner = []
        for node, is_condition in _with_use(found, as_conditions):
            rows = self.rows(node["subquery"]["node"], names, scope)
            if rows.cut and not rows.tied and not _tied_by_in(node, rows, scope):
                kind = {"ANY": "in IN", "EXISTS": "in EXISTS"}.get(node["subquery_type"], "")
                raise RowsMeet(
                    f"the subquery {kind or 'for a value'} reads rows of all values of"
                    f" {self.column}: add a condition on {self.column} to it"
                )
            if rows.cut and not rows.tied and not is_condition:
                raise RowsMeet(
                    "NOT IN, or IN as a value, depends on whether any row of the subquery is NULL:"
                    f" write EXISTS, with a condition on {self.column}"
                )
            if rows.cut:
                inner.append((node, rows))
        return inner

    def _set_operation(self, node: Node, names: Names, outer: Scope | None) -> Rows:
        found = [self.rows(part, names, outer) for part in parts(node)]
        cut = [rows for rows in found if rows.cut]
        word = node["setop_type"].partition("_")[0]
        rows = together(cut or found, by_name=word != node["setop_type"])
        if not cut or all(each.tied for each in cut):
            return replace(rows, tied=frozenset(depth for each in cut for depth in each.tied))
        # The rows of INTERSECT, and of the first query of EXCEPT, are cut rows nevertheless.
        bounded = word == "INTERSECT" or (word == "EXCEPT" and found[0].cut)
        if len(cut) < len(found) and not bounded:
            raise RowsMeet(
                f"a part of the {word} reads no relation that can be cut by {self.column}, so each"
                " part of the month would give its rows"
            )
        if word != "UNION" or not node["setop_all"]:
            check_distinct(word, rows, self.column)
        check_modifiers(node, rows, self.column)
        return rows


def _tied(scope: Scope, cut: Sequence[int], inner: Sequence[Rows]) -> frozenset[int]:
    """The outer queries of which one row decides the split value of all rows."""
    sources = cut[:1] or range(len(scope.leaves))
    found = {depth for leaf in sources for depth in scope.tied_outside(leaf)}
    if not cut:
        found |= {depth for rows in inner for depth in rows.tied if depth < scope.depth}
    return frozenset(found)


def _tied_by_in(node: Node, rows: Rows, scope: Scope) -> bool:
    """Whether `x IN (SELECT …)` may compare the split column with itself."""
    if node["subquery_type"] != "ANY" or node["comparison_type"] != "COMPARE_EQUAL":
        return False
    if not rows.may_hold:
        return False
    tied = any(place.holds or place.loose for place in scope.references(node["child"]))
    if tied:
        scope.set_equal(node["child"])
    return tied


def _with_use(found: Any, as_conditions: bool) -> Iterator[tuple[Node, bool]]:
    """The subqueries in expressions, each with whether NULL is the same as false there."""
    if isinstance(found, list):
        for part in found:
            yield from _with_use(part, as_conditions)
    elif isinstance(found, dict):
        kind = found.get("type")
        if found.get("class") == "SUBQUERY":
            yield found, as_conditions
        for name, value in found.items():
            if name == "subquery":
                continue
            both = as_conditions and kind in ("CONJUNCTION_AND", "CONJUNCTION_OR")
            yield from _with_use(value, both or name in ("when_expr", "filter"))


def _in_part(problem: RowsMeet, name: str | None) -> RowsMeet:
    """The same problem with the innermost named part of the query that has it."""
    words = str(problem)
    return RowsMeet(f"in {name}: {words}") if name and not words.startswith("in ") else problem
