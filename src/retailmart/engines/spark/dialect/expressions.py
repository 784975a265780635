"""Expressions: each node of DuckDB's tree that gives a value, told where it stands.

This is where a node's kind decides; what a function or a cast means is told by those below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from retailmart.engines import PLAIN, VariableValue
from retailmart.engines.duckdb import literal as duck_literal
from retailmart.engines.spark.dialect.aggregates import AGGREGATES, Summary
from retailmart.engines.spark.dialect.calls import Call
from retailmart.engines.spark.dialect.functions import FUNCTIONS, INSTEAD
from retailmart.engines.spark.dialect.lists import LAMBDAS, element
from retailmart.engines.spark.dialect.readings import read_plain
from retailmart.engines.spark.dialect.scopes import Relation, Scope
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.tree import Node, direction
from retailmart.engines.spark.dialect.values import (
    AT_HAND,
    NULL,
    Value,
    identifier,
    refuse,
    spark_literal,
    string,
)
from retailmart.engines.spark.dialect.windows import UNFRAMED, WINDOWS, frame
from retailmart.errors import RetailmartError
from retailmart.tables import quoted, text_literal

# A query within `Scope`, which knows these WITH names.
Query = Callable[[Node, Scope | None, Mapping[str, Relation]], Relation]
_COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_NOT_DISTINCT_FROM": "<=>",
}


class Expressions:
    """The expressions of one query. `query` tells the queries that stand in them.

    `functions` are the user's own, with what they return, by their names in small letters.
    """

    def __init__(
        self,
        translator: Translator,
        query: Query,
        variables: Mapping[str, VariableValue],
        functions: Mapping[str, str],
    ) -> None:
        self._t = translator
        self._query = query
        self._variables = {name.lower(): value for name, value in variables.items()}
        self._functions = functions

    def value(self, node: Node, scope: Scope) -> Value:
        """An expression of any kind."""
        kind = node["class"]
        handlers: dict[str, Callable[[Node, Scope], Value]] = {
            "_VALUE": lambda one, _: one["value"],
            "CONSTANT": lambda one, _: self._constant(one),
            "COLUMN_REF": self._column,
            "FUNCTION": self._function,
            "COMPARISON": self._comparison,
            "CONJUNCTION": self._conjunction,
            "OPERATOR": self._operator,
            "CASE": self._case,
            "CAST": self._cast_node,
            "BETWEEN": self._between,
            "SUBQUERY": self._subquery_value,
            "WINDOW": self._window,
        }
        if kind not in handlers:
            raise refuse(f"{self._t.named(node)}", AT_HAND)
        return handlers[kind](node, scope)

    def condition(self, node: Node, scope: Scope) -> str:
        """A condition's SQL."""
        return self._t.cast(self.value(node, scope), "BOOLEAN").sql

    def _constant(self, node: Node) -> Value:
        kind, text = node["literal"]["kind"], str(node["literal"]["text"])
        if kind == "NULL_LITERAL":
            return Value("NULL", NULL, "NULL")
        if kind == "STRING":
            return Value(string(text), "VARCHAR", text_literal(text))
        if kind == "BOOLEAN":
            return Value(text.lower(), "BOOLEAN", text)
        if kind not in ("INTEGER", "NUMERIC"):
            raise refuse(f"the constant {text!r}", "write a number or a text")
        found = self._t.type_of(text)
        return Value(spark_literal(self._t.evaluated(text), found), found, text)

    def _variable(self, name: Value) -> Value:
        """The value of getvariable('name')."""
        if name.literal is None:
            raise refuse("getvariable() of a computed name", "write the name as a text")
        value = self._variables.get(str(self._t.evaluated(name.literal)).lower())
        if value is None:
            return Value("NULL", NULL, "NULL")
        kind = self._t.type_of(duck_literal(value))
        # A cast, as a variable's number is of its type already, which a bare number's is not.
        told = f"CAST({duck_literal(value)} AS {kind})"
        return Value(spark_literal(value, kind), kind, told)

    def _column(self, node: Node, scope: Scope) -> Value:
        names = [str(name) for name in node["column_names"]]
        relation = names[-2].lower() if len(names) > 1 else None
        place: Scope | None = scope
        while place is not None:
            found = place.lookup(relation, names[-1])
            if found is not None:
                place.reached = place.reached or place is not scope
                return found
            if relation is None and names[0].lower() in place.aliases:
                target = place.aliases[names[0].lower()]
                inner = replace(
                    place,
                    aliases={key: one for key, one in place.aliases.items() if one is not target},
                )
                return self.value(target, inner)
            place = place.parent
        if len(names) > 1:
            raise refuse(f"{'.'.join(names)}, a field of a struct,", "use plain columns")
        if names[0].lower() in INSTEAD:
            raise refuse(names[0], INSTEAD[names[0].lower()])
        raise RetailmartError(f"there is no column {'.'.join(names)}")

    def _comparison(self, node: Node, scope: Scope) -> Value:
        values = [self.value(node[key], scope) for key in ("left", "right")]
        left, right = self._t.alike(values)
        if node["type"] == "COMPARE_DISTINCT_FROM":
            return Value(f"(NOT ({left.sql} <=> {right.sql}))", "BOOLEAN")
        operator = _COMPARISONS.get(node["type"])
        if operator is None:
            raise refuse(node["type"], "compare by =, <, > or IN")
        return Value(f"({left.sql} {operator} {right.sql})", "BOOLEAN")

    def _conjunction(self, node: Node, scope: Scope) -> Value:
        word = " AND " if node["type"] == "CONJUNCTION_AND" else " OR "
        parts = [self.condition(child, scope) for child in node["children"]]
        return Value(f"({word.join(parts)})", "BOOLEAN")

    def _between(self, node: Node, scope: Scope) -> Value:
        values = [self.value(node[key], scope) for key in ("input", "lower", "upper")]
        value, lower, upper = (one.sql for one in self._t.alike(values))
        word = "NOT BETWEEN" if "NOT" in node["type"] else "BETWEEN"
        return Value(f"({value} {word} {lower} AND {upper})", "BOOLEAN")

    def _operator(self, node: Node, scope: Scope) -> Value:
        kind = node["type"]
        values = [self.value(child, scope) for child in node["children"]]
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            word = "IS NULL" if kind == "OPERATOR_IS_NULL" else "IS NOT NULL"
            return Value(f"({values[0].sql} {word})", "BOOLEAN")
        if kind == "OPERATOR_NOT":
            return Value(f"(NOT {self._t.cast(values[0], 'BOOLEAN').sql})", "BOOLEAN")
        if kind == "COMPARE_IN":
            first, *others = (value.sql for value in self._t.alike(values))
            return Value(f"({first} IN ({', '.join(others)}))", "BOOLEAN")
        if kind == "OPERATOR_COALESCE":
            common = self._t.common(values)
            parts = ", ".join(self._t.cast(value, common).sql for value in values)
            return Value(f"coalesce({parts})", common)
        if kind == "ARRAY_EXTRACT" and values[0].type.endswith("[]"):
            return element(self._t, values)
        raise refuse(self._t.named(node), AT_HAND)

    def _case(self, node: Node, scope: Scope) -> Value:
        checks = [
            (
                self.condition(one["when_expr"], scope),
                self.value(one["then_expr"], scope),
            )
            for one in node["case_checks"]
        ]
        otherwise = self.value(node["else_expr"], scope)
        kind = self._t.common([*(value for _, value in checks), otherwise])
        whens = " ".join(f"WHEN {test} THEN {self._t.cast(v, kind).sql}" for test, v in checks)
        return Value(f"CASE {whens} ELSE {self._t.cast(otherwise, kind).sql} END", kind)

    def _cast_node(self, node: Node, scope: Scope) -> Value:
        child, kind = node["child"], self._cast_type(node["type_expr"])
        if node["try_cast"] and child.get("function_name") == PLAIN:
            text = self.value(child["arguments"][0]["expression"], scope)
            return Value(read_plain(text.sql, kind), kind)
        return self._t.cast(self.value(child, scope), kind, tried=node["try_cast"])

    def _cast_type(self, node: Node) -> str:
        name = str(node["type_name"])
        children = node["children"]
        if name.lower() == "list":
            return f"{self._cast_type(children[0])}[]"
        told = name
        if children:
            if any(child["class"] != "CONSTANT" for child in children):
                raise refuse(f"the type {name}", "cast to a type that tables hold")
            told += f"({','.join(child['literal']['text'] for child in children)})"
        return self._t.type_of(f"CAST(NULL AS {told})")

    def _subquery_value(self, node: Node, scope: Scope) -> Value:
        found = self._query(node["subquery"]["node"], scope, scope.relations)
        kind = node["subquery_type"]
        if kind == "EXISTS":
            return Value(f"EXISTS ({found.sql})", "BOOLEAN")
        (_, column), *_ = found.columns
        if kind == "SCALAR":
            return Value(f"({found.sql})", column)
        raise refuse(
            "IN (SELECT …) anywhere but as a condition of its own in WHERE",
            "use EXISTS, which is never NULL, or join",
        )

    def _function(self, node: Node, scope: Scope) -> Value:
        name = str(node["function_name"]).lower()
        if name == "getvariable":
            return self._variable(self.value(node["arguments"][0]["expression"], scope))
        if name in self._functions:
            told = ", ".join(arg.sql for arg in self._args(node, scope))
            return Value(f"{identifier(name)}({told})", self._functions[name])
        if any(one["expression"]["class"] == "LAMBDA" for one in node["arguments"]):
            return self._with_lambda(name, node, scope)
        if name in AGGREGATES:
            scope = scope.within or scope
            return self._aggregate(self._call(name, node, self._args(node, scope)), scope, None)
        args = self._args(node, scope)
        constant = bool(args) and all(arg.literal for arg in args)
        if name not in FUNCTIONS and not constant:
            raise refuse(f"{name}()", INSTEAD.get(name, AT_HAND))
        call = self._call(name, node, args)
        if constant and self._t.is_constant(name, call.type):
            return self._t.constant(call.template, call.type)
        if name not in FUNCTIONS:
            raise refuse(f"{name}()", INSTEAD.get(name, AT_HAND))
        return FUNCTIONS[name](self._t, call)

    def _args(self, node: Node, scope: Scope) -> tuple[Value, ...]:
        return tuple(self.value(one["expression"], scope) for one in node["arguments"])

    def _call(self, name: str, node: Node, args: tuple[Value, ...]) -> Call:
        told = [self._t.template(arg) for arg in args]
        symbol = node.get("is_operator") and not name.isidentifier()
        if symbol and len(told) == 2:
            template = f"{told[0]} {name} {told[1]}"
        elif symbol:
            template = f"{name} {told[0]}"
        elif name == "count_star":
            template = "count(*)"
        else:
            template = f"{quoted(name)}({', '.join(told)})"
        if node["class"] == "WINDOW":
            template += " OVER ()"
        kind = NULL if name == "error" else self._t.type_of(template)
        return Call(name, node, args, kind, template)

    def _with_lambda(self, name: str, node: Node, scope: Scope) -> Value:
        if name not in LAMBDAS or len(node["arguments"]) != 2:
            raise refuse(f"{name}()", AT_HAND)
        rows = self.value(node["arguments"][0]["expression"], scope)
        function = node["arguments"][1]["expression"]
        if function["lhs"]["class"] != "COLUMN_REF":
            raise refuse(f"{name}() with more than one parameter", AT_HAND)
        parameter = self._t.parameter()
        given = str(function["lhs"]["column_names"][0]).lower()
        inner = replace(
            scope,
            lambdas={
                **scope.lambdas,
                given: Value(parameter, rows.type.removesuffix("[]")),
            },
        )
        body = self.value(function["expr"], inner)
        if LAMBDAS[name] == "filter":
            condition = self._t.cast(body, "BOOLEAN").sql
            return Value(f"filter({rows.sql}, {parameter} -> {condition})", rows.type)
        return Value(f"transform({rows.sql}, {parameter} -> {body.sql})", f"{body.type}[]")

    def _aggregate(self, call: Call, scope: Scope, over: str | None) -> Value:
        node = call.node
        key = "filter_expr" if node["class"] == "WINDOW" else "filter"
        test = None if node[key] is None else self.condition(node[key], scope)
        ordered = node["arg_orders"] if node["class"] == "WINDOW" else node["order_bys"]["orders"]
        orders = [(self.value(one["expression"], scope), one) for one in ordered]
        summary = Summary(self._t, call, test, bool(node["distinct"]), over, orders)
        return AGGREGATES[call.name](summary)

    def _window(self, node: Node, scope: Scope) -> Value:
        name = str(node["function_name"]).lower()
        call = self._call(name, node, self._args(node, scope))
        if node.get("exclude_clause", "NO_OTHER") != "NO_OTHER":
            raise refuse("EXCLUDE in a window", "leave the row out by a condition")
        over = self._over(node, scope, name)
        if name in AGGREGATES and node["type"] == "WINDOW_AGGREGATE":
            return self._aggregate(call, scope, over)
        if name not in WINDOWS:
            raise refuse(f"{name}() as a window", AT_HAND)
        if not node["orders"]:
            raise refuse(
                f"{name}() over a window without ORDER BY",
                "say by ORDER BY which row comes first",
            )
        told = WINDOWS[name](self._t, call)
        nulls = " IGNORE NULLS" if node["ignore_nulls"] else ""
        return self._t.typed(f"{told}{nulls} OVER ({over})", call.type)

    def _over(self, node: Node, scope: Scope, name: str) -> str:
        parts = []
        if node["partitions"]:
            keys = ", ".join(self.value(one, scope).sql for one in node["partitions"])
            parts.append(f"PARTITION BY {keys}")
        if node["orders"]:
            keys = ", ".join(
                f"{self.value(one['expression'], scope).sql} {direction(one)}"
                for one in node["orders"]
            )
            parts.append(f"ORDER BY {keys}")
        if name not in UNFRAMED and (told := frame(node)):
            parts.append(told)
        return " ".join(parts)
