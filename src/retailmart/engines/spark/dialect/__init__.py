"""DuckDB's SQL told in Spark's, so that both engines give the same values.

DuckDB itself takes a query apart and says of which type each part is; here every part is written
in Spark's words for just that meaning. Nothing is handed through because it looks alike: what has
no entry here, or has no exact equal, is refused with what to write instead.

From the top down: `queries`, `sources` (FROM) and `expressions` follow DuckDB's tree of a query.
`functions` (with `numbers`, `texts`, `patterns`, `lists` and `dates`), `aggregates` and `windows`
tell what a function means. `translator` asks DuckDB and casts, by `casts` and `readings`. `scopes`,
`tree` and `values` are what all of them speak of.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from retailmart.engines import VariableValue
from retailmart.engines.spark.dialect.queries import Queries
from retailmart.engines.spark.dialect.sources import Fields
from retailmart.engines.spark.dialect.translator import Translator, empty_duckdb
from retailmart.engines.spark.dialect.values import duck_type
from retailmart.project.types import ColumnType

__all__ = ["to_spark"]


def to_spark(
    query: str,
    fields: Fields,
    variables: Mapping[str, VariableValue],
    functions: Mapping[str, ColumnType] | None = None,
) -> str:
    """A SELECT of DuckDB's as one of Spark's, 3.5 and later, with ANSI mode on and in UTC.

    `fields` gives a relation's columns by its name in any letter case, None where there is none.
    `functions` are the user's own, with what they return. The columns come in DuckDB's order and
    each by a name of its own: of two of one name, the second is called `name_1`.
    RetailmartError says what cannot be told exactly, and what to write instead.
    """
    own = {name.lower(): duck_type(kind) for name, kind in (functions or {}).items()}
    with closing(empty_duckdb().cursor()) as connection:
        translator = Translator(connection)
        queries = Queries(translator, fields, variables, own)
        return queries.relation(translator.parsed(query), None, {}).sql
