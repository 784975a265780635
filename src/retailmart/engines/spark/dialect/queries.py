"""SELECTs and set operations: what is listed, grouped, ordered, and which rows stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from retailmart.engines import VariableValue
from retailmart.engines.spark.dialect.aggregates import holds_aggregate
from retailmart.engines.spark.dialect.expressions import Expressions
from retailmart.engines.spark.dialect.scopes import Column, Relation, Scope, renamed
from retailmart.engines.spark.dialect.sources import Fields, Sources
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.tree import Node, bare, direction, modifier, whole
from retailmart.engines.spark.dialect.values import NULL, Value, identifier, refuse
from retailmart.errors import RetailmartError


class Queries:
    """A query with all that stands in it."""

    def __init__(
        self,
        translator: Translator,
        fields: Fields,
        variables: Mapping[str, VariableValue],
        functions: Mapping[str, str],
    ) -> None:
        self._t = translator
        self._expressions = Expressions(translator, self.relation, variables, functions)
        self._sources = Sources(translator, self._expressions, self.relation, fields)

    def relation(
        self, node: Node, parent: Scope | None, relations: Mapping[str, Relation]
    ) -> Relation:
        """A query of any kind, below `parent` where it is part of another."""
        known = dict(relations)
        definitions = [self._definition(e, parent, known) for e in node["cte_map"]["map"]]
        if node["type"] == "SELECT_NODE":
            found = self._select(node, Scope(parent=parent, relations=known))
        elif node["type"] == "SET_OPERATION_NODE":
            found = self._set_operation(node, Scope(parent=parent, relations=known))
        else:
            raise refuse(
                "a recursive query" if "RECURSIVE" in node["type"] else node["type"],
                "write the steps as joins, or number them with unnest(range(…))",
            )
        if definitions:
            return replace(found, sql=f"WITH {', '.join(definitions)} {found.sql}")
        return found

    def _definition(self, entry: Node, parent: Scope | None, known: dict[str, Relation]) -> str:
        """A WITH name. What follows knows it, its own body does not."""
        found = self.relation(entry["value"]["query_node"], parent, known)
        columns = renamed(found.columns, entry["value"]["aliases"])
        name = str(entry["key"])
        made = self._sources.unique(name if self._sources.table(name) is None else f"{name}_with")
        known[name.lower()] = Relation(made, columns)
        given = ", ".join(identifier(column) for column, _ in columns)
        return f"{identifier(made)}({given}) AS ({found.sql})"

    def _set_operation(self, node: Node, scope: Scope) -> Relation:
        parts = [self.relation(one, scope.parent, scope.relations) for one in node["children"]]
        kind = node["setop_type"]
        if kind == "UNION_BY_NAME":
            parts, kind = _by_name(parts), "UNION"
        columns = []
        for number, (name, _) in enumerate(parts[0].columns):
            kinds = [part.columns[number][1] for part in parts]
            columns.append((name, self._t.common([Value("", k) for k in kinds])))
        word = f"{kind} ALL" if node["setop_all"] else kind
        sql = f" {word} ".join(self._aligned(part, columns) for part in parts)
        return self._modified(Relation(sql, tuple(columns)), node, scope)

    def _aligned(self, part: Relation, columns: Sequence[tuple[str, str]]) -> str:
        items = []
        for (given, had), (name, kind) in zip(part.columns, columns, strict=True):
            value = self._t.cast(Value(identifier(given), had), kind)
            items.append(f"{value.sql} AS {identifier(name)}")
        return f"(SELECT {', '.join(items)} FROM ({part.sql}))"

    def _modified(
        self,
        found: Relation,
        node: Node,
        scope: Scope,
    ) -> Relation:
        """ORDER BY and LIMIT of a set operation."""
        outputs = [(name, Value(identifier(name), kind)) for name, kind in found.columns]
        known = {name.lower(): value for name, value in outputs}
        inner = replace(scope, columns=[Column("", n, v) for n, v in outputs])
        hidden: list[tuple[str, str]] = []
        order = self._order(node, [], outputs, known, hidden, inner, within=True)
        limit = self._limit(node)
        if not order and not limit:
            return found
        sql = f"SELECT * FROM ({found.sql})"
        if hidden:
            beside = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in hidden)
            names = ", ".join(identifier(name) for name, _ in found.columns)
            sql = f"SELECT {names} FROM (SELECT *, {beside} FROM ({found.sql}))"
        return replace(found, sql=sql + order + limit)

    def _select(self, node: Node, scope: Scope) -> Relation:
        if node.get("sample"):
            raise refuse("a sample", "select rows by a condition")
        source = self._sources.told(node["from_table"], scope)
        items = self._items(node["select_list"], scope)
        scope.aliases = {
            item["alias"].lower(): item for item in node["select_list"] if item.get("alias")
        }
        where = self._condition(" WHERE ", node["where_clause"], scope)
        values = [(name, self._expressions.value(one, scope)) for name, one in items]
        groups = self._groups(node, items, values, scope)
        having = self._condition(" HAVING ", node["having"], self._having(node, scope))
        outputs = []
        taken: set[str] = set()
        for name, value in values:
            made, number = name, 0
            while made.lower() in taken:
                number += 1
                made = f"{name}_{number}"
            taken.add(made.lower())
            outputs.append((made, value))
        hidden: list[tuple[str, str]] = []
        distinct = modifier(node, "DISTINCT_MODIFIER")
        qualify = None
        if node["qualify"] is not None:
            qualify = "_qualified"
            hidden.append((qualify, self._expressions.condition(node["qualify"], scope)))
        first = None
        if distinct and distinct["distinct_on_targets"]:
            first = self._first_of(distinct, node, items, scope)
            hidden.append(("_first", first))
        known = {name.lower(): Value(identifier(name), v.type) for name, v in outputs}
        order = self._order(
            node, items, outputs, known, hidden, scope, within=first is not None or not distinct
        )
        listed = [f"{value.sql} AS {identifier(name)}" for name, value in outputs]
        listed += [f"{sql} AS {identifier(name)}" for name, sql in hidden]
        plain = bool(distinct) and not first and not hidden
        core = f"SELECT {'DISTINCT ' if plain else ''}{', '.join(listed)}{source}{where}{groups}"
        core += having
        columns = tuple((name, value.type) for name, value in outputs)
        if hidden or (order and (groups or plain)):
            names = ", ".join(identifier(name) for name, _ in outputs)
            tests = ["_qualified"] * bool(qualify) + ["_first = 1"] * bool(first)
            again = "DISTINCT " if distinct and not first and not plain else ""
            core = f"SELECT {again}{names} FROM ({core})"
            if tests:
                core += f" WHERE {' AND '.join(tests)}"
        return Relation(core + order + self._limit(node), columns)

    def _items(self, nodes: Iterable[Node], scope: Scope) -> list[tuple[str, Node]]:
        """The columns that a SELECT lists, stars taken apart: name and expression."""
        items: list[tuple[str, Node]] = []
        for node in nodes:
            if node["class"] == "STAR":
                if node["columns"]:
                    raise refuse("COLUMNS(…)", "name the columns")
                items += self._star(node, scope)
            else:
                items.append((node.get("alias") or self._called(node, scope), node))
        return items

    def _called(self, node: Node, scope: Scope) -> str:
        """The name of a column that is given none: as its table writes it, in that letter case."""
        if node["class"] == "COLUMN_REF":
            *relation, name = (str(one).lower() for one in node["column_names"])
            for column in scope.columns:
                if column.name.lower() == name and relation in ([], [column.relation.lower()]):
                    return column.name
        return self._t.named(node)

    def _star(self, node: Node, scope: Scope) -> Iterator[tuple[str, Node]]:
        relation = node["relation_name"].lower() or None
        left_out = {name.lower() for name in node["exclude_list"]}
        qualified = {
            (one["table"].lower(), one["column"].lower()) for one in node["qualified_exclude_list"]
        }
        replaced = {one["key"].lower(): one["value"] for one in node["replace_list"]}
        other = {one["key"]["column"].lower(): one["value"] for one in node["rename_list"]}
        for column in scope.columns:
            name = column.name.lower()
            if column.merged if relation is None else column.relation.lower() != relation:
                continue
            if name in left_out or (column.relation.lower(), name) in qualified:
                continue
            if name in replaced:
                yield column.name, replaced[name]
            else:
                yield (
                    other.get(name, column.name),
                    {"class": "_VALUE", "value": column.value},
                )

    def _condition(self, word: str, node: Node | None, scope: Scope) -> str:
        return "" if node is None else f"{word}{self._filter(node, scope)}"

    def _filter(self, node: Node, scope: Scope) -> str:
        """A condition of which nothing but being true matters."""
        if node["class"] == "CONJUNCTION" and node["type"] == "CONJUNCTION_AND":
            parts = [self._filter(child, scope) for child in node["children"]]
            return f"({' AND '.join(parts)})"
        negated = node["type"] == "OPERATOR_NOT"
        inner = node["children"][0] if negated else node
        if inner["class"] == "SUBQUERY" and inner["subquery_type"] == "ANY":
            told = self._member(inner, scope)
            return f"(NOT {told})" if negated else told
        return self._expressions.condition(node, scope)

    def _member(self, node: Node, scope: Scope) -> str:
        """Whether a value is one of a query's, where a NULL may count as false."""
        if node["comparison_type"] != "COMPARE_EQUAL":
            raise refuse(
                "ANY and ALL of a subquery",
                "compare with its min() or max(), or use EXISTS",
            )
        found = self.relation(node["subquery"]["node"], scope, scope.relations)
        value = self._expressions.value(node["child"], scope)
        common = self._t.alike([value, Value("", found.columns[0][1])])[1].type
        listed = self._aligned(found, [(found.columns[0][0], common)])
        return f"({self._t.cast(value, common).sql} IN {listed})"

    def _groups(
        self,
        node: Node,
        items: Sequence[tuple[str, Node]],
        values: Sequence[tuple[str, Value]],
        scope: Scope,
    ) -> str:
        if node["aggregate_handling"] == "FORCE_AGGREGATES":
            grouped = [
                value
                for (_, one), (_, value) in zip(items, values, strict=True)
                if not holds_aggregate(one)
            ]
        elif not node["group_expressions"]:
            return ""
        else:
            if len(node["group_sets"]) > 1:
                raise refuse("ROLLUP, CUBE and GROUPING SETS", "write one SELECT each, UNION ALL")
            grouped = []
            for expression in node["group_expressions"]:
                number = whole(expression)
                if number is not None:
                    grouped.append(values[number - 1][1])
                else:
                    grouped.append(self._expressions.value(expression, scope))
        keys = [value.sql for value in grouped if value.literal is None]
        if node["aggregate_handling"] == "FORCE_AGGREGATES" and not keys:
            return ""
        if not keys:  # a number would be a column's place
            keys = ["concat('', '')"]
        return f" GROUP BY {', '.join(dict.fromkeys(keys))}"

    @staticmethod
    def _having(node: Node, scope: Scope) -> Scope:
        """What HAVING sees: no column but those of the groups goes before the SELECT's names."""
        grouped = {
            str(one["column_names"][-1]).lower()
            for one in node["group_expressions"]
            if one["class"] == "COLUMN_REF"
        }
        hidden = scope.aliases.keys() - grouped
        columns = [column for column in scope.columns if column.name.lower() not in hidden]
        return replace(scope, columns=columns, within=scope)

    def _first_of(
        self,
        distinct: Node,
        node: Node,
        items: Sequence[tuple[str, Node]],
        scope: Scope,
    ) -> str:
        order = modifier(node, "ORDER_MODIFIER")
        if order is None:
            raise refuse("DISTINCT ON without ORDER BY", "say by ORDER BY which row is the first")
        on = ", ".join(
            self._expressions.value(one, scope).sql for one in distinct["distinct_on_targets"]
        )
        keys = []
        for one in order["orders"]:
            number = whole(one["expression"])
            target = items[number - 1][1] if number is not None else one["expression"]
            keys.append(f"{self._expressions.value(target, scope).sql} {direction(one)}")
        return f"row_number() OVER (PARTITION BY {on} ORDER BY {', '.join(keys)})"

    def _order(
        self,
        node: Node,
        items: Sequence[tuple[str, Node]],
        outputs: Sequence[tuple[str, Value]],
        known: Mapping[str, Value],
        hidden: list[tuple[str, str]],
        scope: Scope,
        *,
        within: bool,
    ) -> str:
        """ORDER BY in names of the output; what it lacks is put beside it, in `hidden`."""
        clause = modifier(node, "ORDER_MODIFIER")
        if clause is None:
            return ""
        keys = []
        for one in clause["orders"]:
            expression = one["expression"]
            if expression["class"] == "STAR":
                keys += [f"{value.sql} {direction(one)}" for value in known.values()]
                continue
            found = self._in_output(expression, items, outputs, known)
            if found is None:
                if not within:
                    raise RetailmartError("ORDER BY names what DISTINCT does not select")
                found = identifier(f"_order_{len(hidden)}")
                hidden.append(
                    (f"_order_{len(hidden)}", self._expressions.value(expression, scope).sql)
                )
            keys.append(f"{found} {direction(one)}")
        return f" ORDER BY {', '.join(keys)}" if keys else ""

    @staticmethod
    def _in_output(
        expression: Node,
        items: Sequence[tuple[str, Node]],
        outputs: Sequence[tuple[str, Value]],
        known: Mapping[str, Value],
    ) -> str | None:
        number = whole(expression)
        if number is not None:
            return identifier(outputs[number - 1][0])
        if expression["class"] == "COLUMN_REF" and len(expression["column_names"]) == 1:
            value = known.get(expression["column_names"][0].lower())
            if value is not None:
                return value.sql
        same = bare(expression)
        for (_, one), (name, _) in zip(items, outputs, strict=False):
            if bare(one) == same:
                return identifier(name)
        return None

    @staticmethod
    def _limit(node: Node) -> str:
        clause = modifier(node, "LIMIT_MODIFIER")
        if clause is None:
            return ""
        if clause["limit_type"] != "ROW_COUNT":
            raise refuse("LIMIT in percent", "use ntile(100) OVER (ORDER BY …) and a condition")
        sql = ""
        for word, key in (("LIMIT", "limit"), ("OFFSET", "offset")):
            if clause[key] is not None:
                number = whole(clause[key])
                if number is None:
                    raise refuse(f"a computed {word}", "write a number")
                sql += f" {word} {number}"
        return sql


def _by_name(parts: Sequence[Relation]) -> list[Relation]:
    """Queries with all columns of each, matched by their names."""
    names: dict[str, tuple[str, str]] = {}
    for part in parts:
        for name, kind in part.columns:
            names.setdefault(name.lower(), (name, kind))
    widened = []
    for part in parts:
        had = {name.lower(): (name, kind) for name, kind in part.columns}
        items, columns = [], []
        for key, (name, _) in names.items():
            given, kind = had.get(key, ("", NULL))
            value = identifier(given) if key in had else "CAST(NULL AS INT)"
            items.append(f"{value} AS {identifier(name)}")
            columns.append((name, kind))
        sql = f"SELECT {', '.join(items)} FROM ({part.sql})"
        widened.append(Relation(sql, tuple(columns)))
    return widened
