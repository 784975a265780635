"""FROM: relations, queries, lists of values and joins, and the names they go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from retailmart.engines.spark.dialect.expressions import Expressions, Query
from retailmart.engines.spark.dialect.scopes import Column, Scope, renamed
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.tree import Node
from retailmart.engines.spark.dialect.values import Value, duck_type, identifier, refuse
from retailmart.errors import RetailmartError
from retailmart.tables import Field

Fields = Callable[[str], Sequence[Field] | None]


class Sources:
    """What one query reads from. `query` tells the queries that stand in its FROM."""

    def __init__(
        self, translator: Translator, expressions: Expressions, query: Query, fields: Fields
    ) -> None:
        self._t = translator
        self._expressions = expressions
        self._query = query
        self._fields = fields
        self._used: set[str] = set()
        self._tables: dict[str, list[tuple[str, str]] | None] = {}

    def unique(self, name: str) -> str:
        """A name that stands for one thing in the whole query."""
        number, made = 1, name
        while made.lower() in self._used or (number > 1 and self.table(made) is not None):
            number += 1
            made = f"{name}_{number}"
        self._used.add(made.lower())
        return made

    def table(self, name: str) -> list[tuple[str, str]] | None:
        """The columns of a defined relation."""
        if name not in self._tables:
            found = self._fields(name)
            self._tables[name] = (
                None if found is None else [(f.name, duck_type(f.type)) for f in found]
            )
        return self._tables[name]

    def told(self, node: Node, scope: Scope) -> str:
        """FROM and what follows it; its columns join those of the scope."""
        if node["type"] == "EMPTY":
            return ""
        return f" FROM {self._source(node, scope)}"

    def _source(self, node: Node, scope: Scope) -> str:
        """One entry of FROM; its columns join those of the scope."""
        if node.get("sample"):
            raise refuse("a sample", "select rows by a condition")
        handlers = {
            "BASE_TABLE": self._base_table,
            "SUBQUERY": self._subquery,
            "JOIN": self._join,
            "EXPRESSION_LIST": self._values,
            "TABLE_FUNCTION": self._table_function,
        }
        if node["type"] not in handlers:
            raise refuse(node["type"].replace("_", " "), "write it with CASE and GROUP BY")
        return handlers[node["type"]](node, scope)

    def _enter(
        self, node: Node, alias: str, columns: Sequence[tuple[str, str]], scope: Scope
    ) -> str:
        """Give a source its alias and its columns to the scope."""
        made = self.unique(alias)
        names = renamed(columns, node.get("column_name_alias") or [])
        for (name, kind), (given, _) in zip(names, columns, strict=True):
            value = Value(f"{identifier(made)}.{identifier(given)}", kind)
            scope.columns.append(Column(alias, name, value))
        return identifier(made)

    def _base_table(self, node: Node, scope: Scope) -> str:
        name = str(node["table_name"])
        alias = node["alias"] or name
        found = scope.relations.get(name.lower())
        if found is not None:
            made = self._enter(node, alias, found.columns, scope)
            return f"{identifier(found.sql)} AS {made}"
        columns = self.table(name)
        if columns is None:
            raise RetailmartError(f"there is no relation {name!r}")
        return f"{identifier(name)} AS {self._enter(node, alias, columns, scope)}"

    def _subquery(self, node: Node, scope: Scope) -> str:
        scope.reached = False
        found = self._query(node["subquery"]["node"], scope, scope.relations)
        lateral = "LATERAL " if scope.reached else ""
        alias = self._enter(node, node["alias"] or "_subquery", found.columns, scope)
        return f"{lateral}({found.sql}) AS {alias}"

    def _values(self, node: Node, scope: Scope) -> str:
        rows = [[self._expressions.value(one, scope) for one in row] for row in node["values"]]
        kinds = [self._t.common(list(column)) for column in zip(*rows, strict=True)]
        told = ", ".join(
            "(" + ", ".join(self._t.cast(v, k).sql for v, k in zip(row, kinds, strict=True)) + ")"
            for row in rows
        )
        columns = [(f"col{number}", kind) for number, kind in enumerate(kinds)]
        alias = self._enter(node, node["alias"] or "_values", columns, scope)
        return f"(VALUES {told}) AS {alias}({', '.join(name for name, _ in columns)})"

    def _table_function(self, node: Node, scope: Scope) -> str:
        name = node["function"]["function_name"].lower()
        if name not in ("unnest", "range", "generate_series"):
            raise refuse(f"{name}() in FROM", "read feeds, tables and marts")
        outer = Scope(parent=scope, relations=scope.relations)
        scope.reached = False
        if name == "unnest":
            rows = self._expressions.value(node["function"]["arguments"][0]["expression"], outer)
        else:
            rows = self._expressions.value(node["function"], outer)
        lateral = "LATERAL " if scope.reached else ""
        columns = [(name, rows.type.removesuffix("[]"))]
        alias = self._enter(node, node["alias"] or name, columns, scope)
        return f"{lateral}(SELECT explode({rows.sql}) AS {identifier(name)}) AS {alias}"

    def _join(self, node: Node, scope: Scope) -> str:
        kind, reference = node["join_type"], node["ref_type"]
        if reference not in ("REGULAR", "CROSS", "NATURAL"):
            raise refuse(
                f"{reference} JOIN",
                "join by the conditions and keep one row each with"
                " QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) = 1",
            )
        before = len(scope.columns)
        left = self._source(node["left"], scope)
        middle = len(scope.columns)
        right = self._source(node["right"], scope)
        if node["right"]["type"] == "JOIN":
            right = f"({right})"
        lefts, rights = scope.columns[before:middle], scope.columns[middle:]
        word = {
            "INNER": "JOIN",
            "LEFT": "LEFT JOIN",
            "RIGHT": "RIGHT JOIN",
            "FULL": "FULL JOIN",
            "SEMI": "LEFT SEMI JOIN",
            "ANTI": "LEFT ANTI JOIN",
        }[kind]
        if reference == "CROSS":
            return f"{left} CROSS JOIN {right}"
        shared = list(node["using_columns"])
        if reference == "NATURAL":
            names = {column.name.lower() for column in rights if not column.merged}
            shared = [c.name for c in lefts if c.name.lower() in names and not c.merged]
        if shared:
            condition = self._using(shared, kind, lefts, rights, scope, before)
        else:
            condition = self._expressions.condition(node["condition"], scope)
        if kind in ("SEMI", "ANTI"):
            scope.columns[before:] = lefts
        return f"{left} {word} {right} ON {condition}"

    def _using(
        self,
        shared: Sequence[str],
        kind: str,
        lefts: Sequence[Column],
        rights: Sequence[Column],
        scope: Scope,
        before: int,
    ) -> str:
        """Match columns of one name; without their relation's name they are one column."""
        conditions = []
        columns = [*lefts, *rights]
        for name in shared:
            pair = []
            for side in (lefts, rights):
                pair.append(
                    next(c for c in side if c.name.lower() == name.lower() and not c.merged)
                )
            values = [column.value for column in pair]
            common = self._t.common(values)
            one, other = (self._t.cast(value, common).sql for value in values)
            conditions.append(f"{one} = {other}")
            merged = values[1] if kind == "RIGHT" else values[0]
            if kind == "FULL":
                merged = Value(f"coalesce({one}, {other})", common)
            at = columns.index(pair[0])
            for column in pair:
                columns[columns.index(column)] = replace(column, merged=True)
            columns.insert(at, Column("", pair[0].name, merged))
        scope.columns[before:] = columns
        return " AND ".join(conditions)
