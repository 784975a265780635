"""A DuckDB that reads and writes nothing outside the given folders, and whose errors are ours."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb.func import FunctionNullHandling, PythonUDFType

from retailmart.engines import VariableValue
from retailmart.engines.duckdb.sql import (
    BY_DATE,
    VARIABLE_ON,
    escaped,
    literal,
    of_days,
    sql_type,
)
from retailmart.engines.errors import ours
from retailmart.engines.parsing import is_call
from retailmart.errors import (
    CsvBroken,
    EngineFailed,
    NotComputed,
    RetailmartError,
    SettingsError,
    Shortage,
)
from retailmart.project.functions import FILE, Functions, guarded
from retailmart.shortages import shortage_in, shortage_of
from retailmart.tables import quoted, text_literal

if TYPE_CHECKING:
    import pyarrow as pa

# Errors caused by values in rows, not by the query or the machine. They are recognised by text,
# because an error in the middle of a stream has no DuckDB error class.
_OF_VALUES = ("Out of Range Error", "Conversion Error", "Invalid Input Error")
# After the last two, it answers nothing any more.
_OF_ENGINE = ("IO Error", "INTERRUPT Error", "INTERNAL Error", "FATAL Error")

# These can be caused by what the machine lacks.
_OF_MACHINE = ("IO Error", "Out of Memory Error", "FATAL Error", "INTERNAL Error")


class Connection:
    """DuckDB in a sandbox. Several threads may use it; all but `batches` wait for each other."""

    def __init__(
        self,
        folders: Sequence[Path],
        scratch: Path,
        memory_limit: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._connection = duckdb.connect()
        self._views: dict[str, str] = {}
        self._variables: dict[str, VariableValue] = {}
        self._rows: dict[str, pa.Table] = {}
        # The connection refuses a second thread instead of making it wait.
        self._lock = threading.RLock()
        self._sorting = threading.Lock()
        # Connections that read a large result beside the first one.
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._ordered = 0
        # A separate folder: two DuckDBs that spill into one folder overwrite each other's files.
        self._spill = scratch / f"spill-{uuid.uuid4().hex}"
        execute = self._connection.execute
        execute("SET GLOBAL TimeZone = 'UTC'")
        execute("SET preserve_insertion_order = false")
        execute(VARIABLE_ON)
        execute("SET enable_progress_bar = false")  # it would be in the log of a pipe
        execute(f"SET temp_directory = {text_literal(str(self._spill))}")
        execute("SET autoinstall_known_extensions = false")
        execute("SET autoload_known_extensions = false")
        if memory_limit:
            execute(f"SET memory_limit = {text_literal(memory_limit)}")
        if threads:
            execute(f"SET threads = {threads:d}")
        sandbox = {text for path in (scratch, *folders) for text in (str(path), escaped(path))}
        listed = ", ".join(text_literal(f"{path}/") for path in sorted(sandbox))
        execute(f"SET allowed_directories = [{listed}]")
        execute("SET enable_external_access = false")
        execute("SET allowed_configs = ['preserve_insertion_order']")
        execute("SET lock_configuration = true")

    def set_variables(self, values: Mapping[str, VariableValue]) -> None:
        """Make `getvariable('name')` and `variable_on('name', day)` return these values."""
        with self._lock:
            known = {name: literal(value) for name, value in self._variables.items()}
            new = {name: v for name, v in values.items() if known.get(name) != literal(v)}
            _set_variables(self._connection, new)
            self._variables.update(new)  # only after success: what is known is not set again

    def add_functions(self, functions: Functions) -> None:
        """Register functions; SettingsError if SQL already has one of these names."""
        loaded = functions.load()
        if problems := [
            f"{FILE}:{function.line}: {function.name} is a word of SQL's own"
            for function in loaded
            if not is_call(function.name) or self._has_function(function.name)
        ]:
            raise SettingsError(problems, f"Give the function another name in {FILE}")
        for function, code in loaded.items():
            takes: list[Any] = [sql_type(parameter) for parameter in function.parameters]
            kind = sql_type(function.returns)
            with self._lock:
                empty = self._connection.sql(f"SELECT CAST(NULL AS {kind})").to_arrow_table()
                self._connection.create_function(
                    function.name,
                    guarded(function, code, empty.schema.field(0).type),
                    takes,
                    kind,
                    type=PythonUDFType.ARROW,
                    null_handling=FunctionNullHandling.SPECIAL,
                )

    def _has_function(self, name: str) -> bool:
        found = f"FROM duckdb_functions() WHERE function_name = {text_literal(name.lower())}"
        return bool(self.rows(f"SELECT 1 {found} LIMIT 1"))

    def view(self, name: str, query: str, schema: str | None = None) -> None:
        """Give a query a name, in a schema if one is given."""
        full = quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"
        with self._lock, translate_errors():
            if self._views.get(full) != query:
                self._connection.execute(f"CREATE OR REPLACE VIEW {full} AS {query}")
                self._views[full] = query

    def hold(self, name: str, rows: pa.Table) -> None:
        """Give rows in memory a name."""
        with self._lock:
            self._rows[name] = rows
            self._connection.register(name, rows)

    def release(self, name: str) -> None:
        """Free rows in memory, or a view: one over many files has a long text and a large tree."""
        with self._lock:
            if self._rows.pop(name, None) is not None:
                self._connection.unregister(name)
            elif self._views.pop(quoted(name), None) is not None:
                self._connection.execute(f"DROP VIEW IF EXISTS {quoted(name)}")

    def relation(self, name: str) -> duckdb.DuckDBPyRelation:
        """What has a name, as an object of DuckDB's."""
        return self._connection.view(name)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """A query's rows, to be read from this connection."""
        return self._connection.sql(query)

    def statements(self, query: str) -> list[duckdb.StatementType]:
        """What kinds of statements a text holds; duckdb.Error if it is no SQL."""
        return [statement.type for statement in self._connection.extract_statements(query)]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A query's rows as Python values; also runs what is no query."""
        with self._lock, translate_errors():
            return self._connection.execute(query).fetchall()

    def batches(self, query: str, size: int) -> Generator[pa.RecordBatch, None, None]:
        """A query's rows in its order. Other threads go on meanwhile."""
        with self._cursor() as cursor:
            # One at a time: parallel sorts compete for memory, and each one uses all threads
            # anyway.
            with self._sorting:
                reader = cursor.sql(query).to_arrow_reader(size)
                first = next(reader, None)
            if first is not None:
                yield first
                yield from reader

    def some_rows(self, query: str, size: int) -> Generator[list[tuple[Any, ...]], None, None]:
        """A query's rows in its order as Python values, so many at a time."""
        with self._cursor() as cursor:
            cursor.execute(query)
            while some := cursor.fetchmany(size):
                yield some

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A second connection to the same views and values, which keeps the order of rows."""
        with self.ordered():
            with self._lock:
                cursor = self._connection.cursor()
                _set_variables(cursor, self._variables)
                for name, rows in self._rows.items():
                    cursor.register(name, rows)
            self._cursors.add(cursor)
            try:
                with translate_errors():
                    yield cursor
            finally:
                self._cursors.discard(cursor)
                cursor.close()

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Keep the order of rows meanwhile, which numbers a file's records.

        One setting applies to all connections, so it stays while any result needs it.
        """
        self._keep_order(+1)
        try:
            yield
        finally:
            self._keep_order(-1)

    def _keep_order(self, more: int) -> None:
        with self._lock:
            before, self._ordered = self._ordered, self._ordered + more
            if bool(before) != bool(self._ordered):
                wanted = str(bool(self._ordered)).lower()
                self._connection.execute(f"SET preserve_insertion_order = {wanted}")

    def interrupt(self) -> None:
        """Make the queries that run now fail; another thread's call."""
        for connection in (self._connection, *self._cursors):
            connection.interrupt()

    def close(self) -> None:
        """Free what it holds, on disk too."""
        self._connection.close()
        shutil.rmtree(self._spill, ignore_errors=True)


def _set_variables(
    connection: duckdb.DuckDBPyConnection, values: Mapping[str, VariableValue]
) -> None:
    for name, value in values.items():
        connection.execute(f"SET VARIABLE {quoted(name)} = {literal(value)}")
        connection.execute(f"SET VARIABLE {quoted(name + BY_DATE)} = {of_days(value)}")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate DuckDB's errors to ours."""
    try:
        yield
    except (duckdb.Error, OSError) as error:  # OSError: an error in the middle of a stream
        message = str(error)
        if lacking := _lacking(message, error):
            raise lacking from error
        if (known := ours(message)) is not None:
            raise known from error
        if "CSV Error" in message:
            raise CsvBroken(message.splitlines()[0]) from error
        if "CSV Parser" in message:  # mixed line ends; what DuckDB advises would hide flawed rows
            raise CsvBroken("the file's lines are not as regular as its scan says") from error
        raise _kind(message, error)(_first_lines(message)) from error


def _lacking(message: str, error: Exception) -> Shortage | None:
    """What the machine lacks. A value in a row may say the same words, so only these kinds are."""
    if isinstance(error, OSError) and error.errno is not None:
        return shortage_of(error)
    if message.startswith(_OF_MACHINE):
        return shortage_in(message)
    return None


def _kind(message: str, error: Exception) -> type[RetailmartError]:
    """Whether values, the engine or the query is to blame."""
    if message.startswith(_OF_VALUES):
        return NotComputed
    own = getattr(error, "errno", None) is not None  # of the system, as on a full disk
    return EngineFailed if own or message.startswith(_OF_ENGINE) else RetailmartError


def _first_lines(message: str) -> str:
    return "\n".join(message.strip().splitlines()[:6])
