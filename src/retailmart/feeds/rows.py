"""SQL of a feed's rows: typed columns from cells, what is accepted, and why a row is refused.

Text builders only: nothing here runs a query.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from retailmart.engines import Relation
from retailmart.feeds.casts import (
    attempt,
    expected,
    is_declared,
    likely_causes,
    plain,
    plain_or_as_it_is,
    typed,
)
from retailmart.feeds.evolve import unknown
from retailmart.files.checked import Layout
from retailmart.lake.layout import FURTHER, MONTH, ORIGIN
from retailmart.project.feed import Action, Column, Feed, Policy
from retailmart.project.types import ColumnType
from retailmart.project.writing import PLAIN
from retailmart.tables import FILE_ID, Field, quoted, text_literal


def raw_fields(feed: Feed) -> tuple[Field, ...]:
    """The columns of a feed's raw table, lineage included."""
    fields = [Field(column.name, column.type) for column in feed.columns]
    if feed.extra_columns:
        fields.append(Field(feed.extra_columns, ColumnType("STRING")))
    fields += [Field(FILE_ID, ColumnType("INT")), Field(ORIGIN, ColumnType("STRING"))]
    if feed.month:
        fields.append(Field(MONTH, ColumnType("STRING")))
    return tuple(fields)


def raw_partitions(feed: Feed) -> tuple[str, ...]:
    """The columns by which a feed's raw table is partitioned."""
    return (MONTH,) if feed.month else ()


@dataclass(frozen=True)
class Violation:
    """A reason to send a row to quarantine: `condition` is SQL over the typed columns."""

    column: str | None
    rule: str
    message: str
    condition: str


@dataclass(frozen=True)
class RowSql:
    """The SQL of one feed's rows. `has_table` says whether the lake has its raw table.

    With `careful`, a rule that can't be computed for a row refuses that row; otherwise the query
    fails.
    """

    feed: Feed
    has_table: bool
    careful: bool = False

    def accepted(self, relation: Relation, layout: Layout) -> str:
        """The raw table's columns. A refused row has no month, so that no file takes it.

        A WHERE would mean the same, but engines push it below the casts and compute them twice.
        """
        feed = self.feed
        names = [quoted(column.name) for column in feed.columns]
        if feed.extra_columns:
            names.append(quoted(feed.extra_columns))
        names += [FILE_ID, ORIGIN]
        source, refused = self.typed(relation, layout), self.refused(layout)
        if not feed.month:
            return f"SELECT {', '.join(names)} FROM {source} WHERE NOT ({refused})"
        month = f"left(CAST({quoted(feed.month)} AS VARCHAR), 7)"
        names.append(f"CASE WHEN NOT ({refused}) THEN {month} END AS {MONTH}")
        return f"SELECT {', '.join(names)} FROM {source}"

    def typed(self, relation: Relation, layout: Layout) -> str:
        """A relation of typed columns, together with the texts they came from (`_t0`, `_t1`, …).

        Texts in a form that the feed declares also have their plain form there (`_p0`, …).
        """
        columns = list(enumerate(self.feed.columns))
        said = [self._text(column, layout) for column in self.feed.columns]
        texts = [f"{said[n]} AS _t{n}" for n, _ in columns]
        for n, column in columns:
            if is_declared(column):
                said[n] = self._plain(column, said[n], layout)
                texts.append(f"{said[n]} AS _p{n}")
        tried = [f"{attempt(said[n], column.type)} AS _a{n}" for n, column in columns]
        parts = [f"{self._value(c, n)} AS {quoted(c.name)}" for n, c in columns]
        extra = f", {self._extras(layout)} AS _extra, {_origin(layout)} AS {ORIGIN}"
        if strange := self._strange(layout):
            cases = " ".join(f"WHEN {given} THEN {text_literal(name)}" for name, given in strange)
            extra += f", CASE {cases} END AS _strange"
        if self.feed.extra_columns:
            parts.append(f"_extra AS {quoted(self.feed.extra_columns)}")
        inner = f"SELECT * EXCLUDE ({_cells(layout)}), {', '.join(texts + tried)}{extra}"
        tries = ", ".join(f"_a{n}" for n, _ in columns)
        outer = f"SELECT * EXCLUDE ({tries}, _extra), {', '.join(parts)}"
        return f"({outer} FROM ({inner} FROM {relation}))"

    def _text(self, column: Column, layout: Layout) -> str:
        """What a cell says: cut out of its text by the column's pattern; NULL for its null words.

        If a file lacks the column, all its cells say the default.
        """
        from_path = dict(layout.from_path)
        if column.name in from_path:
            return text_literal(from_path[column.name])
        if column.name not in layout.columns:
            return "NULL::VARCHAR" if column.default is None else text_literal(column.default)
        text = f"c{layout.columns.index(column.name)}"
        if said := self.feed.nulls_of(column):
            nulls = ", ".join(map(text_literal, said))
            text = f"CASE WHEN trim({text}) NOT IN ({nulls}) THEN {text} END"
        if column.pattern is not None:
            pattern = text_literal(column.pattern)
            cut = f"regexp_extract({text}, {pattern}, 1)"
            text = f"CASE WHEN regexp_full_match({text}, {pattern}) THEN {cut} ELSE {text} END"
        return text

    def _plain(self, column: Column, text: str, layout: Layout) -> str:
        """The plain form of a cell's text in the declared form; JSON's own numbers are plain."""
        if self.feed.format == "json" and column.marks != PLAIN:
            if layout.is_replay:
                return plain_or_as_it_is(text, column)
            if layout.is_json and column.name in layout.columns:
                json_text = f"j{layout.columns.index(column.name)}"
                return (
                    f"CASE WHEN {json_text} LIKE '\"%' THEN {plain(text, column)} ELSE {text} END"
                )
        return plain(text, column)

    def _value(self, column: Column, number: int) -> str:
        """The value of a cell. A DATE that was widened to TIMESTAMP still accepts days."""
        text = said_by(column, number)
        value = typed(text, f"_a{number}", column.type, doubts=self.doubts(column))
        kinds = (column.defined.name, column.type.name) if column.defined else None
        if column.defined is None or kinds != ("DATE", "TIMESTAMP"):
            return value
        day = typed(text, attempt(text, column.defined), column.defined)
        return f"coalesce({value}, CAST({day} AS TIMESTAMPTZ))"

    def doubts(self, column: Column) -> bool:
        """Whether a point before three digits may also separate thousands.

        Files with decimal commas have other delimiters than a comma. So if the feed has such a
        delimiter, a file may have decimal commas.
        """
        declared = column.marks.decimal or column.marks.thousands
        is_exact = column.type.name in ("INT", "BIGINT", "DECIMAL") and column.type.scale < 3
        delimiters = {self.feed.delimiter, *self.feed.delimiters}
        return is_exact and not declared and delimiters != {","}

    @property
    def is_closed(self) -> bool:
        """Whether there is no raw table yet, and the feed's schema does not allow one."""
        return not self.has_table and self.feed.schema.table is not Policy.EVOLVE

    def _strange(self, layout: Layout) -> list[tuple[str, str]]:
        """The columns that no row may have a value in, each with SQL for whether one has.

        The further columns of a repaired sheet come as one; it adds no columns.
        """
        policy = self.feed.schema.columns
        nowhere = policy is Policy.EVOLVE and not self.feed.extra_columns
        if layout.is_replay and (policy is Policy.DISCARD_ROW or nowhere):
            cell = f"nullif(c{layout.columns.index(FURTHER)}, '')"
            further = f"json_extract_string({cell}, '$.*')"
            says = f"len(list_filter({further}, lambda x: trim(x) <> '')) > 0"
            return [(f"a column that feeds/{self.feed.name}.yml does not name", says)]
        if policy is not Policy.DISCARD_ROW:
            return []
        cells = unknown(self.feed, layout)
        return [(name, f"trim(c{position}) <> ''") for position, name in cells]

    def _extras(self, layout: Layout) -> str:
        if self.feed.schema.columns not in (None, Policy.EVOLVE):
            return "NULL::VARCHAR"
        if layout.is_replay:
            return f"nullif(c{layout.columns.index(FURTHER)}, '')"
        known = {column.name for column in self.feed.columns}
        further = [(n, name) for n, name in enumerate(layout.columns) if name not in known]
        if layout.is_json:
            return _object(further)
        pairs = [f"{text_literal(name)}, c{position}" for position, name in further]
        return f"CAST(json_object({', '.join(pairs)}) AS VARCHAR)" if pairs else "NULL::VARCHAR"

    def violations(self, layout: Layout) -> list[Violation]:
        """Everything that sends a row to quarantine, in the order in which it is reported."""
        violations = []
        if self.is_closed:
            said = f"feeds/{self.feed.name}.yml says `table: {self.feed.schema.table.value}`"
            words = f"there is no raw table yet, and {said} under `schema`"
            return [Violation(None, "schema", words, "true")]
        for strange, _ in self._strange(layout):
            named = None if layout.is_replay else strange
            words = f"has a value in {strange}" + (
                "" if layout.is_replay else f", which feeds/{self.feed.name}.yml does not name"
            )
            condition = f"_strange = {text_literal(strange)}"
            violations.append(Violation(named, "schema", words, condition))
        for number, column in enumerate(self.feed.columns):
            name, text = quoted(column.name), f"_t{number}"
            if column.mandatory:
                empty = f"coalesce(trim({text}), '') = ''"
                message = f"{column.name} is empty"
                violations.append(Violation(column.name, "mandatory", message, empty))
            if self._refuses_mismatches(column) and layout.gives(column.name):
                wrong = f"{name} IS NULL AND trim({text}) <> ''"
                message = f"{column.name} should be {expected(column.type, column)}"
                violations.append(Violation(column.name, "type", message, wrong))
                for words, likely in likely_causes(column, text):
                    violations.append(
                        Violation(column.name, "type", words, f"{wrong} AND {likely}")
                    )
        for rule in self.feed.rules_that(Action.QUARANTINE):
            broken = f"NOT {rule.tried}" if self.careful else rule.broken
            violations.append(Violation(rule.column, rule.name, rule.message, broken))
            if self.careful:
                words = f"{rule.message} (the rule cannot be computed for this row)"
                lost = f"{rule.tried} IS NULL"
                violations.append(Violation(rule.column, rule.name, words, lost))
        return violations

    def refused(self, layout: Layout) -> str:
        """One condition for all violations, in its cheapest form: a typed value proves its text."""
        if self.is_closed:
            return "true"
        parts = ["_strange IS NOT NULL"] if self._strange(layout) else []
        for number, column in enumerate(self.feed.columns):
            if column.mandatory:
                parts.append(f"{quoted(column.name)} IS NULL")
            elif self._refuses_mismatches(column) and layout.gives(column.name):
                # A text is NULL if it is one of the feed's nulls, for which no row is refused.
                said = f"coalesce(trim(_t{number}) <> '', false)"
                parts.append(f"({quoted(column.name)} IS NULL AND {said})")
        for rule in self.feed.rules_that(Action.QUARANTINE):
            parts.append(f"NOT coalesce({rule.tried}, false)" if self.careful else rule.broken)
        return " OR ".join(parts) or "false"

    def _refuses_mismatches(self, column: Column) -> bool:
        """Whether a value that is not of the column's type sends its row to quarantine."""
        discards = self.feed.schema.types is Policy.DISCARD_VALUE and not column.mandatory
        return column.type.name != "STRING" and not discards


def said_by(column: Column, number: int) -> str:
    """Where `typed` has the plain form of what a column's cell says."""
    return f"_p{number}" if is_declared(column) else f"_t{number}"


def _object(members: Sequence[tuple[int, str]]) -> str:
    """One JSON object of the cells in these positions that are there, their values as delivered.

    It is put together as text: to the engine's own functions, numbers are floats.
    """
    if not members:
        return "NULL::VARCHAR"
    keys = [(n, text_literal(f"{json.dumps(name, ensure_ascii=False)}:")) for n, name in members]
    inner = f"concat_ws(',', {', '.join(f'{key} || j{n}' for n, key in keys)})"
    return f"nullif('{{' || {inner} || '}}', '{{}}')"


def _origin(layout: Layout) -> str:
    return f"c{layout.columns.index(ORIGIN)}" if layout.is_replay else "NULL::VARCHAR"


def _cells(layout: Layout) -> str:
    return ", ".join(f"c{position}" for position in range(len(layout.columns)))
