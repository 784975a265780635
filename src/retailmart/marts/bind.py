"""Bind marts and rules to what they read, to report mistakes before anything is done."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from retailmart.engines import Engine
from retailmart.engines.parsing import tables_in, tree_of
from retailmart.errors import RetailmartError, SettingsError
from retailmart.feeds.rows import raw_fields
from retailmart.lake import Lake
from retailmart.lake.layout import VALID_FROM, VALID_TO, is_system_column, raw_table
from retailmart.marts.build import build_order, mart_fields
from retailmart.marts.row_order import unordered
from retailmart.marts.splitting import CLOCKS, VOLATILE, nodes
from retailmart.marts.splitting.tree import Node, function_name
from retailmart.project import Feed, Mart, Project
from retailmart.project.by_date import ByDate
from retailmart.project.documents import Location, did_you_mean, parse_yaml
from retailmart.project.feed import Action, Rule
from retailmart.project.lexer import variables_of
from retailmart.project.mart import AS_OF
from retailmart.project.table import HISTORY, Table, undeclared
from retailmart.project.types import ColumnType
from retailmart.sources.databases import Sources
from retailmart.sources.form import own_fields
from retailmart.tables import Field, TableState

_LINE: Final = re.compile(r"\s*\bLINE (\d+): .*", re.DOTALL)
_NO_COLUMN: Final = re.compile(
    r'Values list "(?P<input>[^"]+)" does not have a column named "(?P<column>[^"]+)"'
    r'|Referenced column "(?P<bare>[^"]+)" not found in FROM'
)
_CLOCK: Final = "it differs from run to run; the run's moment is getvariable('as_of')"
_CHANCE: Final = "it differs from run to run; choose rows by a column, or by hash() of one"

# What reads a variable, and how many arguments it takes.
_READ_VARIABLES: Final = {"getvariable": 1, "variable_on": 2}
_HOW_TO_READ: Final = {
    "getvariable": "a variable is read by its name alone, as in getvariable('rate')",
    "variable_on": "a variable's value of a day is read by name and day, as in"
    " variable_on('rate', sales_date)",
}

Columns = Mapping[str, tuple[Field, ...]]


@dataclass(frozen=True)
class _Text:
    """A query and its place: the file, and the line on which the query begins."""

    file: str
    first_line: int
    query: str

    def at(self, offset: int | str | None) -> str:
        """The place of a part that begins this many bytes after the start of the query."""
        before = self.query.encode()[: int(offset or 0)]
        line = self.first_line + before.count(b"\n")
        return f"{self.file}:{line}"

    def placed(self, error: RetailmartError) -> str:
        """An engine's message about a mistake, with its line in the file."""
        found = _LINE.search(error.message)
        line = self.first_line + (int(found[1]) - 1 if found else 0)
        message = " ".join(_LINE.sub("", error.message).split())
        return f"{self.file}:{line}: {message}"


@dataclass(frozen=True)
class Binding:
    """What the definitions of a project are bound against.

    The engine knows the project's functions and the values of its variables. `lake` is None if
    there is no lake to ask. `marts` takes the columns of the marts that are found good.
    """

    engine: Engine
    project: Project
    sources: Sources
    lake: Lake | None
    marts: dict[str, tuple[Field, ...]] = field(default_factory=dict)

    def problems(self, marts: Collection[str], *, thorough: bool) -> list[str]:
        """What is wrong with these marts, and with the rules of all feeds.

        `thorough` also reports what a run can accept: variables of other marts' headers, rules that
        read the clock, and `references` to columns that a table lacks.
        """
        return [
            *self.of_marts(marts, thorough=thorough),
            *self.of_rules(thorough=thorough),
            *(self._of_references() if thorough else ()),
        ]

    # Marts.

    def of_marts(self, wanted: Collection[str], *, thorough: bool) -> Iterator[str]:
        """What is wrong with some marts; finds the columns of the marts that they read."""
        reads: dict[str, frozenset[str]] = {}
        parsed: dict[str, Mart] = {}
        for mart in self.project.marts.values():
            text = _of_mart(mart)
            tree = tree_of(mart.query)
            if tree.get("error"):
                if mart.name in wanted:
                    place = text.at(tree.get("position"))
                    yield f"{place}: {tree.get('error_message', 'is no SELECT')}"
                continue
            try:
                reads[mart.name] = names_read(self.project, mart)
                parsed[mart.name] = mart
            except ValueError as error:
                if mart.name in wanted:
                    yield f"{text.at(0)}: {error}"
        ordered = build_order(parsed, reads)
        columns = dict(self._columns(frozenset().union(*reads.values())))
        unknown = self._unknown(frozenset().union(*reads.values()) - columns.keys())
        for mart in ordered:
            found = list(self._of_mart(mart, columns, reads[mart.name], unknown, thorough=thorough))
            if mart.name in wanted:
                yield from found

    def _of_mart(
        self,
        mart: Mart,
        columns: dict[str, tuple[Field, ...]],
        reads: frozenset[str],
        unknown: Mapping[str, str],
        *,
        thorough: bool,
    ) -> Iterator[str]:
        """The mistakes of one mart; adds its columns to `columns` if they are known."""
        text = _of_mart(mart)
        tables = {
            str(node["table_name"]): node.get("query_location")
            for node in nodes(tree_of(mart.query), into_queries=True)
            if node.get("type") == "BASE_TABLE"
        }
        for name in sorted(reads & unknown.keys()):
            yield f"{text.at(tables.get(name))}: {unknown[name]}"
        own = frozenset(name.lower() for name in mart.variables) if thorough else None
        yield from self._of_query(text, _named(columns, reads), own, mart.reads_variables)
        if not reads <= columns.keys():
            return
        relations = {
            name: self.engine.define(TableState("", columns[name], (), ())) for name in reads
        }
        try:
            columns[mart.name] = mart_fields(self.engine, mart, relations)
            self.marts[mart.name] = columns[mart.name]
        except RetailmartError as error:
            yield text.placed(error) + self._next_step(mart, columns, reads, error)

    def _next_step(
        self, mart: Mart, columns: Columns, reads: frozenset[str], error: RetailmartError
    ) -> str:
        """What to do about a column that an input lacks, if the error shows which input it is."""
        found = _NO_COLUMN.search(error.message)
        if found is None:
            return ""
        column = found["column"] or found["bare"]
        inputs = _inputs_called(mart, found["input"], reads) if found["input"] else reads
        lacking = [name for name in inputs if column.lower() not in _named(columns, [name])]
        if len(lacking) != 1:
            return ""
        (name,) = lacking
        own = ", ".join(f.name for f in columns[name] if not is_system_column(f.name))
        fix = f"correct marts/{mart.name}.sql"
        if name in self.project.marts:
            return f"; mart {name!r} has {own}: {fix}"
        if name in self.project.feeds:
            fix += f", or add the column to feeds/{name}.yml"
            return f"; feed {name!r} has {own}: {fix}"
        tables = (table.name for table in self.project.tables.values() if name in table.names)
        table = next(tables, name)
        fix += f", or write in tables/{table}.yml: aliases: {{{column}: [NAME_IN_THE_SOURCE]}}"
        return f"; source table {table!r} has {own}: {fix}"

    # What a query must not do.

    def _of_query(
        self,
        text: _Text,
        known: Collection[str],
        own: Collection[str] | None,
        read: Collection[str],
    ) -> Iterator[str]:
        """What is wrong with a query: its variables, and what differs from run to run.

        `known` are the columns that it reads, `own` the variables that it may read (None: all that
        any mart declares), `read` the variables that it is seen to read.
        """
        defined = {name.lower() for name in self.project.functions.defined}
        for node in nodes(tree_of(text.query), into_queries=True):
            place = text.at(node.get("query_location"))
            if node.get("class") == "FUNCTION":
                name = function_name(node)
                if name in _READ_VARIABLES:
                    yield from self._of_variable(node, place, own, read)
                elif name not in defined and (why := _volatile(name, len(node["arguments"]))):
                    yield f"{place}: {name}(): {why}"
            elif node.get("class") == "COLUMN_REF":
                name = node["column_names"][-1].lower()
                if len(node["column_names"]) == 1 and name in CLOCKS and name not in known:
                    yield f"{place}: {name}: {_CLOCK}"
            elif node.get("sample"):
                yield f"{place}: a sample of rows: {_CHANCE}"
        for found in unordered(tree_of(text.query), defined):
            yield f"{text.at(found.at)}: {found.message}"

    def _of_variable(
        self, node: Node, place: str, own: Collection[str] | None, read: Collection[str]
    ) -> Iterator[str]:
        """What is wrong with one getvariable(…) or variable_on(…, day)."""
        called = function_name(node)
        literals = [each["expression"].get("literal") or {} for each in node["arguments"]]
        takes = _READ_VARIABLES[called]
        name = str(literals[0].get("text", "")).lower() if len(literals) == takes else ""
        if name not in read or not name:
            yield f"{place}: {_HOW_TO_READ[called]}"
            return
        values = {known.lower(): value for known, value in self.project.variables.items()}
        if called == "getvariable" and isinstance(values.get(name), ByDate):
            yield (
                f"{place}: the variable {name!r} has values by date; read that of a day with"
                f" variable_on('{name}', day)"
            )
        declared = {
            variable.lower(): mart.name
            for mart in self.project.marts.values()
            for variable in mart.variables
        }
        allowed = {*(declared if own is None else own), AS_OF}
        if name not in allowed and name in declared:
            yield (
                f"{place}: the variable {name!r} is declared in marts/{declared[name]}.sql; declare"
                " it in this header, too"
            )
        elif name not in allowed:
            hint = did_you_mean(name, {*declared, AS_OF})
            yield f"{place}: no header declares the variable {name!r}{hint}"

    # Rules.

    def of_rules(self, *, thorough: bool) -> Iterator[str]:
        """What is wrong with the rules of all feeds."""
        for feed in self.project.feeds.values():
            yield from self._of_rules(feed, thorough=thorough)

    def _of_rules(self, feed: Feed, *, thorough: bool) -> Iterator[str]:
        if not feed.rules:
            return
        columns = {"row": tuple(Field(c.name, c.type) for c in feed.columns)}
        columns["raw"] = raw_fields(feed)
        relations = {
            name: self.engine.define(TableState("", fields, (), ()))
            for name, fields in columns.items()
        }
        for number, rule in enumerate(feed.rules):
            kind = "row" if rule.action is Action.QUARANTINE else "raw"
            query = f"SELECT NOT ({rule.condition}\n) AS broken FROM {relations[kind]}"
            text = _Text("", 0, query)
            message: str | None = None
            tree = tree_of(query)
            if tree.get("error"):
                message = str(tree.get("error_message", "is no condition"))
            else:
                try:
                    self.engine.fields(query)
                except RetailmartError as error:
                    message = text.placed(error).split(": ", 1)[1]
            if message is None and thorough:
                names = frozenset(field.name.lower() for field in columns[kind])
                read = variables_of(rule.condition)
                found = next(self._of_query(text, names, None, read), None)
                message = None if found is None else found.split(": ", 1)[1]
            if message is None:
                message = self._untriable(rule, str(relations[kind]))
            if message is not None:
                place = _place_in_feed(self.project.folder, feed, ("rules", number))
                yield f"{place}: rule {rule.name}: {message}"

    def _untriable(self, rule: Rule, relation: str) -> str | None:
        """Why a rule can't be tried for one row alone, as is done if it can't be computed."""
        try:
            self.engine.fields(f"SELECT {rule.tried} AS kept FROM {relation}")
        except RetailmartError as error:
            first = error.message.splitlines()[0].split(": ", 1)[-1]
            return (
                f"cannot be tried row by row ({first}); write it without SELECT, over the row's own"
                " columns, as with IN (1, 2) or list_contains"
            )
        return None

    # References.

    def _of_references(self) -> Iterator[str]:
        """The `references` to columns that their tables do not have."""
        for feed in self.project.feeds.values():
            for column in feed.columns:
                if column.references is None:
                    continue
                table, key = column.references
                known = [
                    field.name
                    for _, fields in self._columns(frozenset({table}))
                    for field in fields
                ]
                if known and key.lower() not in map(str.lower, known):
                    place = _place_in_feed(
                        self.project.folder, feed, ("columns", column.name, "references")
                    )
                    yield f"{place}: {table} has no column {key!r}{did_you_mean(key, known)}"

    # The columns of what is read.

    def _columns(self, names: frozenset[str]) -> Iterator[tuple[str, tuple[Field, ...]]]:
        """The feeds and tables of these names whose columns are known."""
        for feed in self.project.feeds.values():
            if feed.name in names:
                yield feed.name, self._with_lake(raw_fields(feed), raw_table(feed.name))
        declared = {name: table for table in self.project.tables.values() for name in table.names}
        for name in names - self.project.feeds.keys() - self.project.marts.keys():
            table = declared.get(name) or undeclared(name)
            fields = self._of_table(table)
            if fields and table.history and name == table.name + HISTORY:
                day = ColumnType("DATE")
                fields = (*fields, Field(VALID_FROM, day), Field(VALID_TO, day))
            if fields:
                yield name, fields

    def _of_table(self, table: Table) -> tuple[Field, ...] | None:
        """A source table's columns: as the source has them, in the lake's types."""
        state = self._state(raw_table(table.name))
        own = {f.name: f for f in (own_fields(state) if state else ())}
        with suppress(RetailmartError):  # a source that is not there, or not there yet
            source = self.sources.has(table)
            if source is None:
                return None
            offered = {f.name: f for f in self.sources.fields(source, table)}
            # Columns that the source no longer has concern only its marts: a run holds them back.
            return tuple({**offered, **own}.values())
        return tuple(own.values()) or None

    def _unknown(self, names: frozenset[str]) -> dict[str, str]:
        """The names that exist nowhere, with messages, if all sources can be asked."""
        tables = (name for table in self.project.tables.values() for name in table.names)
        own = {*self.project.feeds, *self.project.marts, *tables}
        offered: set[str] = set()
        try:
            for source in self.sources.names:
                offered |= self.sources.offered(source)
        except RetailmartError:
            return {}
        lacking = {name: did_you_mean(name, own | offered) for name in names - own - offered}
        return {
            name: f"{name!r} is no feed, mart or table of a source{hint}"
            for name, hint in lacking.items()
        }

    def _with_lake(self, fields: tuple[Field, ...], table: str) -> tuple[Field, ...]:
        """A feed's columns, and those that its files have added.

        What raw has beside these was its own, as the month of a feed that has no `month` any more.
        """
        state = self._state(table)
        named = {field.name.lower() for field in fields}
        brought = (f for f in (state.fields if state else ()) if not is_system_column(f.name))
        return (*fields, *(f for f in brought if f.name.lower() not in named))

    def _state(self, table: str) -> TableState | None:
        with suppress(RetailmartError):
            return self.lake.state(table) if self.lake else None
        return None


def expect_none(problems: Iterable[str]) -> None:
    """Raise SettingsError with these problems, if there are any, before a run has done anything."""
    if found := list(problems):
        raise SettingsError(found, "Nothing was done; correct it and run again")


def names_read(project: Project, mart: Mart) -> frozenset[str]:
    """What a mart reads, by the project's names. Raises ValueError if it is not a SELECT."""
    tables = (name for table in project.tables.values() for name in table.names)
    own = {name.lower(): name for name in (*project.feeds, *project.marts, *tables)}
    return frozenset(own.get(name.lower(), name) for name in tables_in(mart.query))


def _of_mart(mart: Mart) -> _Text:
    return _Text(f"marts/{mart.name}.sql", mart.first_line, mart.query)


def _inputs_called(mart: Mart, alias: str, reads: Collection[str]) -> list[str]:
    """The inputs that a mart's query calls by this name, in any of its parts."""
    own = {name.lower(): name for name in reads}
    called = {
        str(node["table_name"]).lower()
        for node in nodes(tree_of(mart.query), into_queries=True)
        if node.get("type") == "BASE_TABLE"
        and str(node.get("alias") or node["table_name"]).lower() == alias.lower()
    }
    return [own[name] for name in sorted(called) if name in own]


def _named(columns: Columns, reads: Iterable[str]) -> frozenset[str]:
    """The names of all known columns of what is read."""
    return frozenset(f.name.lower() for name in reads for f in columns.get(name, ()))


def _volatile(name: str, arguments: int) -> str | None:
    """Why a function gives another value in each run; None if it does not."""
    if name in CLOCKS or (name == "age" and arguments == 1):
        return _CLOCK
    return _CHANCE if name in VOLATILE else None


def _place_in_feed(folder: Path, feed: Feed, location: Location) -> str:
    """The file and line of a part of a feed's definition."""
    for path in sorted(folder.glob(f"feeds/{feed.name}.y*ml")):
        label = path.relative_to(folder).as_posix()
        source = parse_yaml(path.read_text(encoding="utf-8-sig", errors="replace"), label, [])
        if source is not None:
            return source.at(location)
    return f"feeds/{feed.name}.yml"
