"""DuckDB for people's own questions: one query that only reads, over tables by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb

from retailmart.engines.duckdb.connection import translate_errors
from retailmart.engines.duckdb.engine import DuckDBEngine
from retailmart.engines.duckdb.sql import read_table
from retailmart.errors import RetailmartError
from retailmart.tables import TableState, quoted, text_literal

if TYPE_CHECKING:
    from retailmart.engines.relations import Relation

_ONLY_READ: Final = "this is not one SELECT, which changes nothing"
_EXAMPLE: Final = "As in: retailmart sql 'SELECT * FROM TABLE LIMIT 20'"
# Besides SELECT: DESCRIBE, SHOW and SUMMARIZE are of its kind.
_READING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_FORMS: Final = {"csv": "FORMAT csv, HEADER", "parquet": "FORMAT parquet, COMPRESSION zstd"}
_AT_ONCE: Final = 2_000


class AskingEngine(DuckDBEngine):
    """A DuckDB that answers queries of people, within the sandbox of all engines."""

    def name(self, names: Mapping[str, Relation | TableState], schema: str | None = None) -> None:
        """Let queries find relations and tables by these names, in a schema if one is given."""
        if names and schema is not None:
            self.rows(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
        for name, found in names.items():
            if isinstance(found, TableState):
                text = read_table(self._here(found))
            else:
                text = f"SELECT * FROM {found}"
            self._connection.view(name, text, schema)

    def ask(self, query: str) -> duckdb.DuckDBPyRelation:
        """A query's rows, to be read. RetailmartError if it is not a single one that only reads."""
        with translate_errors():
            self._expect_only_reading(query)
            return self._connection.sql(query)

    def answered(self, query: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query that `ask` has taken, in its order."""
        for some in self._connection.some_rows(query, _AT_ONCE):
            yield from some

    @contextmanager
    def written(self, query: str, form: str) -> Iterator[Path]:
        """A file with a query's rows as `csv` or `parquet`, while it is needed."""
        file = self.exchange()
        file.parent.mkdir(parents=True, exist_ok=True)
        text = _unended(query)
        with self._connection.ordered():
            self.rows(f"COPY (\n{text}\n) TO {text_literal(str(file))} ({_FORMS[form]})")
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def _expect_only_reading(self, query: str) -> None:
        statements = self._connection.statements(query)
        if len(statements) == 1:
            if statements[0] in _READING:
                return
            # DuckDB takes PIVOT for several statements, but COPY (PIVOT …), too; a part of a SELECT
            # cannot write.
            text = _unended(query)
            if statements[0] is duckdb.StatementType.MULTI and self._is_part(text):
                return
        raise RetailmartError(_ONLY_READ, _EXAMPLE)

    def _is_part(self, query: str) -> bool:
        """Whether a query can be a part of another one."""
        try:
            return len(self._connection.statements(f"SELECT * FROM (\n{query}\n)")) == 1
        except duckdb.Error:
            return False


def _unended(query: str) -> str:
    """A query without the semicolons at its end, as a part of another one."""
    return re.sub(r"[;\s]+$", "", query)
