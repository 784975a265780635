"""DuckDB's SQL as its own parser sees it. What a query means does not depend on the engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

# More queries than the marts of a project have; the parser need not see one again.
_MOST_PARSED = 500
_OF_NO_TABLE = ("unnest", "range", "generate_series")
# A connection refuses a second thread instead of making it wait.
_LOCK = threading.Lock()


@lru_cache(_MOST_PARSED)
def tree_of(query: str) -> Mapping[str, Any]:
    """The parse tree of a query, as DuckDB's `json_serialize_sql` returns it: not to be changed.

    It has `error` and `error_message` if the query is not a single SELECT.
    """
    with _LOCK:
        rows = _parser().execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    found: dict[str, Any] = json.loads(rows[0][0])
    return found


def text_of(tree: Mapping[str, Any]) -> str:
    """The query of a parse tree as text: what `tree_of` returns, or a changed copy of it."""
    with _LOCK:
        rows = _parser().execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()
    return str(rows[0][0])


@lru_cache(_MOST_PARSED)
def tables_in(query: str) -> frozenset[str]:
    """The table names that a single SELECT reads; else ValueError with the parser's text."""
    parsed = tree_of(query)
    if parsed.get("error"):
        raise ValueError(str(parsed.get("error_message", "is no SELECT")))
    if len(parsed["statements"]) != 1:
        raise ValueError("holds more than one statement; a mart is one SELECT")
    return frozenset(_tables(parsed, frozenset()))


def is_call(name: str) -> bool:
    """Whether SQL's grammar leaves `name(…)` to functions; it is a cast, or an error, otherwise."""
    for statement in tree_of(f"SELECT {name}(x)").get("statements", ()):
        return bool(statement["node"]["select_list"][0]["class"] == "FUNCTION")
    return False


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    """A DuckDB that runs no user's query."""
    import duckdb

    return duckdb.connect(config={"threads": 1})


def _tables(node: Any, bound: frozenset[str]) -> Iterator[str]:
    """The table names in a parsed query that are not WITH names; `bound` holds those so far.

    A WITH name is visible to what follows it, but not in its own body: WITH sales AS (… FROM sales)
    reads the real sales.
    """
    if isinstance(node, list):
        for item in node:
            yield from _tables(item, bound)
    elif isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            qualified = node["schema_name"] or node["catalog_name"]
            if qualified or node["table_name"].lower() not in bound:
                yield str(node["table_name"])
        if node.get("type") == "TABLE_FUNCTION":
            function = node.get("function", {}).get("function_name", "a table function")
            if function not in _OF_NO_TABLE:
                raise ValueError(f"reads with {function}(); a mart reads feeds, tables and marts")
        for entry in node.get("cte_map", {}).get("map", []):
            body = entry["value"]
            name = frozenset([str(entry["key"]).lower()])
            recursive = body["query_node"].get("type") == "RECURSIVE_CTE_NODE"
            yield from _tables(body, bound | name if recursive else bound)
            bound |= name
        for key, value in node.items():
            if key != "cte_map":
                yield from _tables(value, bound)
