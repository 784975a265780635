"""What every part of a query is told with.

DuckDB is asked here of which type a part is and what constants give; no other part of the dialect
speaks to a connection, but for the table of letters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import duckdb

from retailmart.engines.spark.dialect.casts import Cast
from retailmart.engines.spark.dialect.tree import Node
from retailmart.engines.spark.dialect.values import (
    INTEGERS,
    MOMENTS,
    NULL,
    RAISE,
    TEXTS,
    Value,
    refuse,
    spark_literal,
    spark_type,
    written,
)
from retailmart.errors import RetailmartError

# A text this long is computed once and named instead of being written twice.
_SHORT = 120


@cache
def empty_duckdb() -> duckdb.DuckDBPyConnection:
    """The DuckDB that is asked; it holds nothing. To open one takes longer than most queries."""
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


class Translator:
    """DuckDB's word on the types and constants of one query, and values as of other types."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._types: dict[str, str] = {}
        self._computed: dict[str, Any] = {}
        self._parameters = 0

    def parsed(self, query: str) -> Node:
        """A SELECT's tree."""
        found = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
        tree = json.loads(found[0][0])
        if tree.get("error"):
            told = str(tree.get("error_message", "it is no SELECT"))
            raise RetailmartError(told, "Write one SELECT; CASE and GROUP BY do what PIVOT does")
        if len(tree["statements"]) != 1:
            raise RetailmartError("more than one statement", "A query is one SELECT")
        node: Node = tree["statements"][0]["node"]
        return node

    def type_of(self, template: str) -> str:
        """The type that DuckDB gives an expression of typed NULLs and constants."""
        if template not in self._types:
            try:
                kind = str(self._connection.sql(f"SELECT {template}").types[0])
            except duckdb.Error as error:
                raise RetailmartError(str(error).strip().splitlines()[0]) from error
            self._types[template] = kind
        return self._types[template]

    def evaluated(self, template: str) -> Any:
        """What DuckDB computes from constants."""
        if template not in self._computed:
            try:
                found = self._connection.execute(f"SELECT {template}").fetchall()
            except duckdb.Error as error:
                raise RetailmartError(str(error).strip().splitlines()[0]) from error
            self._computed[template] = found[0][0]
        return self._computed[template]

    def is_constant(self, function: str, kind: str) -> bool:
        """Whether a function of constants gives a constant that can be written down."""
        if not written(kind) and kind != "INTERVAL":
            return False
        found = self._connection.execute(
            "SELECT bool_and(stability = 'CONSISTENT' AND function_type = 'scalar')"
            " FROM duckdb_functions() WHERE function_name = ?",
            [function],
        ).fetchall()
        return bool(found[0][0])

    def constant(self, template: str, kind: str) -> Value:
        """What DuckDB computes, as a constant."""
        if kind == "INTERVAL":
            return Value("", kind, template)
        told = f"CAST({template} AS {kind})"
        return Value(spark_literal(self.evaluated(told), kind), kind, told)

    def whole(self, value: Value) -> int | None:
        """The number that a value is, if it is a constant whole one."""
        if value.literal is None or value.type not in INTEGERS:
            return None
        found = self.evaluated(value.literal)
        return None if found is None else int(found)

    def template(self, value: Value) -> str:
        """What stands for a value where DuckDB is asked for types."""
        if value.literal is not None:
            return value.literal
        return "NULL" if value.type == NULL else f"CAST(NULL AS {value.type})"

    def named(self, node: Node) -> str:
        """How DuckDB calls a column that is given no name."""
        bare = {**node, "alias": ""}
        if bare["class"] == "COLUMN_REF":
            return str(bare["column_names"][-1])
        if bare["class"] == "FUNCTION" and bare["function_name"].lower() == "unnest":
            return f"unnest({self._printed(bare['arguments'][0]['expression'])})"
        return self._printed(bare)

    def _printed(self, node: Node) -> str:
        select: Node = {
            "type": "SELECT_NODE",
            "modifiers": [],
            "cte_map": {"map": []},
            "select_list": [node],
            "from_table": {"type": "EMPTY", "alias": "", "sample": None},
            "where_clause": None,
            "group_expressions": [],
            "group_sets": [],
            "aggregate_handling": "STANDARD_HANDLING",
            "having": None,
            "sample": None,
            "qualify": None,
        }
        tree = {"error": False, "statements": [{"node": select, "named_param_map": []}]}
        found = self._connection.execute(
            "SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]
        ).fetchall()
        return str(found[0][0]).removeprefix("SELECT ")

    def common(self, values: Sequence[Value]) -> str:
        """The type that all values take beside each other."""
        kinds = {value.type for value in values}
        if len(kinds) == 1:
            return kinds.pop()
        return self.type_of(f"coalesce({', '.join(map(self.template, values))})")

    def alike(self, values: Sequence[Value]) -> list[Value]:
        """Values as of the one type in which DuckDB compares them."""
        typed = {
            value.type for value in values if value.literal is None or value.type not in TEXTS
        } - {NULL}
        if typed & {*TEXTS} and typed - {*TEXTS}:
            raise refuse(
                f"a comparison of {' with '.join(sorted(typed))}",
                "cast one to the other's type",
            )
        kind = self.common(values)
        return [self.cast(value, kind) for value in values]

    def cast(self, value: Value, kind: str, *, tried: bool = False) -> Value:
        """A value as of another type, rounded as DuckDB rounds."""
        if value.type == kind:
            return value
        if value.type == NULL:
            # A column of NULLs has some type to Spark, which may be none that casts to this one.
            one = value.sql if value.sql.startswith(RAISE) else "NULL"
            return Value(f"CAST({one} AS {spark_type(kind)})", kind)
        if value.literal is not None:
            template = f"{'TRY_CAST' if tried else 'CAST'}({value.literal} AS {kind})"
            if kind == "INTERVAL":
                return Value("", kind, template)
            if written(kind):
                return Value(spark_literal(self.evaluated(template), kind), kind, template)
        return Value(Cast(self.let, tried=tried).sql(value, kind), kind)

    def typed(self, sql: str, kind: str) -> Value:
        """What Spark gives, as the type that stands for DuckDB's."""
        if kind in ("VARCHAR", "BOOLEAN", "DATE", *MOMENTS) or kind.endswith("[]"):
            return Value(sql, kind)
        return Value(f"CAST({sql} AS {spark_type(kind)})", kind)

    def let(self, sql: str, told: Callable[[str], str]) -> str:
        """An expression that uses another more than once."""
        if len(sql) <= _SHORT:
            return told(sql)
        name = self.parameter()
        return f"transform(array({sql}), {name} -> {told(name)})[0]"

    def parameter(self) -> str:
        """A lambda's parameter, by a name that stands for one thing in the whole query."""
        self._parameters += 1
        return f"v{self._parameters}_"
