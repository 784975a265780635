"""feeds/*.yml: a kind of file that lands, its columns and rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from retailmart.project.documents import NAME, Document, Location, did_you_mean, read_document
from retailmart.project.types import ColumnType, parse_type


class Action(Enum):
    """What happens to a row, or to the run, when a rule is broken."""

    WARN = "warn"
    QUARANTINE = "quarantine"
    FAIL = "fail"


class Policy(Enum):
    """What becomes of a file, row or value that the schema does not foresee."""

    EVOLVE = "evolve"
    FREEZE = "freeze"
    DISCARD_ROW = "discard_row"
    DISCARD_VALUE = "discard_value"


def _as_policies(value: object) -> object:
    if not isinstance(value, str):
        return value
    words = [policy.value for policy in Policy]
    if value not in words:
        raise ValueError(f"{value!r} is unknown{did_you_mean(value, words)}")
    return dict.fromkeys(("table", "columns", "types"), value)


class SchemaDocument(Document):
    """What happens where files bring another schema: one word for all, or a word an axis."""

    table: Policy = Field(Policy.EVOLVE, description="The first file, where raw has no table yet.")
    columns: Policy | None = Field(
        None, description="A column the feed does not name; default: extra_columns, or dropped."
    )
    types: Policy = Field(Policy.DISCARD_ROW, description="A value that is not of its type.")
    date_to_timestamp: bool = Field(False, description="Whether a DATE may become a TIMESTAMP.")


def _as_column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class ColumnDocument(Document):
    """One column: `name: INT`, or a mapping with more."""

    type: str = Field(description="INT, BIGINT, STRING, DATE, TIMESTAMP, BOOLEAN, DECIMAL(p,s).")
    mandatory: bool = Field(False, description="In every header, and never empty.")
    aliases: list[str] = Field(default_factory=list, description="Other names senders use for it.")
    references: str | None = Field(
        None, description="table.column it should be found in; counted, never refused."
    )
    pattern: str | None = Field(
        None, description="Regular expression: where all of a text fits, its first group counts."
    )
    folder: int | None = Field(
        None, ge=1, description="The value is a folder's name; 1 is the first one below landing."
    )

    @field_validator("pattern")
    @classmethod
    def _has_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"{value!r} needs one group in (parentheses): what counts of a text")
        return value

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        return str(parse_type(value))

    @field_validator("references")
    @classmethod
    def _dotted(cls, value: str | None) -> str | None:
        if value is not None and value.count(".") != 1:
            raise ValueError(f"{value!r} should be table.column")
        return value


class RuleDocument(Document):
    """A rule holds when its expression is not false; a NULL breaks only `not_null`."""

    name: str
    action: Action
    check: str | None = Field(None, description="An SQL expression over the feed's columns.")
    column: str | None = None
    not_null: bool = False
    range: list[Any] | None = Field(None, description="[lowest, highest], either may be null.")
    allowed: list[Any] | None = Field(None, description="The values that may stand there.")
    message: str | None = Field(None, description="What to tell people when it is broken.")

    @model_validator(mode="after")
    def _one_kind(self) -> RuleDocument:
        kinds = [self.check is not None, self.not_null, self.range is not None, bool(self.allowed)]
        if sum(kinds) != 1:
            raise ValueError(f"rule {self.name!r} needs one of check, not_null, range, allowed")
        if self.check is None and self.column is None:
            raise ValueError(f"rule {self.name!r} needs the `column` it is about")
        if self.range is not None and len(self.range) != 2:
            raise ValueError(f"rule {self.name!r}: range is [lowest, highest]")
        return self


class FeedDocument(Document):
    """The file feeds/NAME.yml."""

    files: list[str] = Field(min_length=1, description="Patterns of file names, as in sales*.csv.")
    format: Literal["csv", "json"] = "csv"
    nested: Literal["flatten", "keep"] = Field(
        "flatten", description="JSON objects in a record: columns by dotted names, or JSON texts."
    )
    delimiter: str = Field(",", min_length=1, max_length=1)
    encoding: str = Field("utf-8", description="utf-8, cp1252, latin-1, utf-16, …")
    columns: dict[
        str,
        Annotated[
            ColumnDocument,
            BeforeValidator(_as_column, json_schema_input_type=str | ColumnDocument),
        ],
    ]
    nulls: list[str] = Field(
        default_factory=list, description="Texts that mean no value, except in STRING columns."
    )
    extra_columns: str | None = Field(
        None, description="Column that takes all further columns as one JSON object."
    )
    month: str | None = Field(None, description="The DATE column that tells a row's month.")
    balance: str | None = Field(None, description="The DECIMAL column that must balance.")
    rules: list[RuleDocument] = Field(default_factory=list)
    # By another name, as pydantic's own models have a `schema` already.
    schema_: Annotated[
        SchemaDocument,
        BeforeValidator(_as_policies, json_schema_input_type=Policy | SchemaDocument),
    ] = Field(
        default_factory=SchemaDocument,
        alias="schema",
        description="What happens where files bring other columns or types.",
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError as error:
            raise ValueError(f"{value!r} is no encoding; try utf-8, cp1252 or utf-16") from error
        return value

    @field_validator("delimiter")
    @classmethod
    def _separates(cls, value: str) -> str:
        if value in '"\r\n':
            raise ValueError(f"{value!r} cannot separate cells")
        return value


@dataclass(frozen=True)
class Column:
    """A column of a feed's raw table.

    `pattern` cuts the value out of the text; `folder` says that the value is a folder's name in
    the file's path, counted from 1 at landing. `evolved` tells that files brought the column and
    the feed does not name it, `delivered` under which names they did; `defined` is the feed's own
    type where raw holds a wider one.
    """

    name: str
    type: ColumnType
    mandatory: bool
    aliases: tuple[str, ...]
    references: tuple[str, str] | None
    pattern: str | None = None
    folder: int | None = None
    evolved: bool = False
    delivered: tuple[str, ...] = ()
    defined: ColumnType | None = None


@dataclass(frozen=True)
class SchemaPolicies:
    """What happens where files bring another schema. `columns` None: to the extras, or dropped."""

    table: Policy = Policy.EVOLVE
    columns: Policy | None = None
    types: Policy = Policy.DISCARD_ROW
    date_to_timestamp: bool = False


@dataclass(frozen=True)
class Rule:
    """`condition` is SQL that is false for a row which breaks the rule."""

    name: str
    action: Action
    condition: str
    message: str
    column: str | None


@dataclass(frozen=True)
class Feed:
    """A kind of file, and the raw table of the same name that its rows go to."""

    name: str
    files: tuple[str, ...]
    delimiter: str
    encoding: str
    columns: tuple[Column, ...]
    extra_columns: str | None
    month: str | None
    balance: str | None
    rules: tuple[Rule, ...]
    nulls: tuple[str, ...] = ()
    schema: SchemaPolicies = SchemaPolicies()
    format: str = "csv"
    nested: str = "flatten"

    def from_path(self, path: str) -> tuple[tuple[str, str], ...]:
        """The columns that a file's path gives, and their values; those it lacks are left out."""
        folders = path.split("/")[:-1]
        return tuple(
            (column.name, folders[column.folder - 1])
            for column in self.columns
            if column.folder is not None and column.folder <= len(folders)
        )

    def claims(self, path: str) -> bool:
        """Whether a file at `path` below landing is of this feed; letter case does not matter.

        A pattern without a slash speaks of the file's name in any folder.
        """
        name = path.rsplit("/", 1)[-1]
        return any(
            fnmatchcase((path if "/" in pattern else name).lower(), pattern.lower())
            for pattern in self.files
        )

    def rules_that(self, *actions: Action) -> tuple[Rule, ...]:
        """The rules with one of these actions, in the file's order."""
        return tuple(rule for rule in self.rules if rule.action in actions)


def read_feed(path: Path, folder: Path, problems: list[str]) -> Feed | None:
    """Read one feeds/NAME.yml; mistakes go to `problems`."""
    document = read_document(path, folder, "feed", FeedDocument, _mistakes, problems)
    return _feed(path.stem, document) if document else None


def _mistakes(data: object) -> Iterator[tuple[Location, str]]:
    """What is wrong between the parts of a feed's file.

    It works on the YAML as written: a mistake in one part must not hide those in others.
    """
    columns = data.get("columns") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(columns, Mapping):
        return
    given = {name: _plain(column) for name, column in columns.items()}
    yield from _column_mistakes(given)
    yield from _extra_mistakes(data.get("extra_columns"), given)
    yield from _format_mistakes(data)
    yield from _month_mistakes(data.get("month"), data.get("balance"), given)
    rules = data.get("rules")
    yield from _rule_mistakes(rules if isinstance(rules, list) else [], given)


def _plain(column: object) -> Mapping[str, Any]:
    column = _as_column(column)
    return column if isinstance(column, Mapping) else {}


def _column_mistakes(columns: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[Location, str]]:
    owners: dict[str, str] = {}
    for name, column in columns.items():
        place: Location = ("columns", name)
        if not NAME.fullmatch(name):
            yield place, f"column {name!r}: a name is letters, digits and _, letter first"
        aliases = column.get("aliases")
        for word in (name, *(aliases if isinstance(aliases, list) else [])):
            owner = owners.setdefault(_folded(str(word)), name)
            if owner != name:
                yield place, f"{str(word)!r} in a header would mean {owner!r} as well as {name!r}"


def _extra_mistakes(
    extra: object, columns: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Location, str]]:
    if not isinstance(extra, str):
        return
    place: Location = ("extra_columns",)
    if not NAME.fullmatch(extra):
        yield place, f"extra_columns: {extra!r}: a name is letters, digits and _, letter first"
    if extra.lower() in {name.lower() for name in columns}:
        yield place, f"extra_columns: {extra!r} is one of the columns already"


def _format_mistakes(data: Mapping[str, object]) -> Iterator[tuple[Location, str]]:
    if data.get("format") == "json":
        if "delimiter" in data:
            yield ("delimiter",), "delimiter: is for CSV; nothing separates the cells of JSON"
        if str(data.get("encoding", "utf-8")).lower() not in ("utf-8", "utf8"):
            yield ("encoding",), "encoding: JSON is always utf-8; leave it out"
    elif "nested" in data:
        yield ("nested",), "nested: is for JSON; add `format: json`, or leave it out"


def _month_mistakes(
    month: object, balance: object, columns: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Location, str]]:
    for key, column, kind in (("month", month, "DATE"), ("balance", balance, "DECIMAL")):
        if not isinstance(column, str):
            continue
        if column not in columns:
            yield (key,), f"{key}: there is no column {column!r}{did_you_mean(column, columns)}"
        elif _kind(columns[column]) not in (kind, None):
            yield (key,), f"{key}: {column!r} must be a {kind} column"
        elif key == "month" and not columns[column].get("mandatory"):
            words = "must be `mandatory: true`; a row without it is in no month"
            yield ("columns", column), f"month: {column!r} {words}"
    if balance and not month:
        yield ("balance",), "balance: needs `month` too, totals balance by month"


def _rule_mistakes(
    rules: list[Any], columns: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Location, str]]:
    names: set[str] = set()
    for number, rule in enumerate(rules):
        if not isinstance(rule, Mapping):
            continue
        name, column = str(rule.get("name")), rule.get("column")
        if name in names and "name" in rule:
            yield ("rules", number, "name"), f"rule {name!r} stands here twice"
        names.add(name)
        if isinstance(column, str) and column not in columns:
            hint = did_you_mean(column, columns)
            yield ("rules", number, "column"), f"rule {name}: there is no column {column!r}{hint}"
        kind = _kind(columns.get(str(column), {}))
        for key in ("range", "allowed"):
            values = rule.get(key)
            for value in values if isinstance(values, list) else []:
                if problem := _value_problem(value, kind, key):
                    yield ("rules", number, key), f"rule {name}, {key}: {problem}"


def _value_problem(value: object, kind: str | None, key: str) -> str | None:
    if isinstance(value, bool) and kind not in ("BOOLEAN", None):
        return f"YAML reads a bare yes, no, on or off as {value}; put it in quotes"
    if value is None and key == "allowed":
        return "an empty value breaks only not_null; leave it out"
    if isinstance(value, list | Mapping):
        return f"{value!r} is no single value"
    return None


def _kind(column: Mapping[str, Any]) -> str | None:
    """The name of a column's type, None where it is a mistake of its own."""
    try:
        return parse_type(str(column.get("type"))).name
    except ValueError:
        return None


def _folded(name: str) -> str:
    """A header's name without what senders vary: letter case and padding."""
    return " ".join(name.strip().casefold().split())


def _feed(name: str, document: FeedDocument) -> Feed:
    return Feed(
        name=name,
        files=tuple(document.files),
        delimiter=document.delimiter,
        encoding=document.encoding.lower(),
        columns=tuple(_column(key, column) for key, column in document.columns.items()),
        extra_columns=document.extra_columns,
        month=document.month,
        balance=document.balance,
        rules=tuple(_rule(rule, document.columns) for rule in document.rules),
        nulls=tuple(document.nulls),
        schema=SchemaPolicies(**dict(document.schema_)),
        format=document.format,
        nested=document.nested,
    )


def _column(name: str, document: ColumnDocument) -> Column:
    references = None
    if document.references:
        table, _, column = document.references.partition(".")
        references = (table, column)
    return Column(
        name,
        parse_type(document.type),
        document.mandatory,
        tuple(document.aliases),
        references,
        document.pattern,
        document.folder,
    )


def _rule(document: RuleDocument, columns: Mapping[str, ColumnDocument]) -> Rule:
    condition, message = _condition(document)
    return Rule(
        document.name, document.action, condition, document.message or message, document.column
    )


def _condition(rule: RuleDocument) -> tuple[str, str]:
    if rule.check is not None:
        return rule.check, f"does not hold: {rule.check}"
    column = '"' + str(rule.column).replace('"', '""') + '"'
    if rule.not_null:
        return f"{column} IS NOT NULL", f"{rule.column} is empty"
    if rule.range is not None:
        lowest, highest = rule.range
        parts = [f"{column} >= {_literal(lowest)}"] if lowest is not None else []
        parts += [f"{column} <= {_literal(highest)}"] if highest is not None else []
        return " AND ".join(parts) or "true", f"{rule.column} is not in {lowest} … {highest}"
    values = rule.allowed or []
    listed = ", ".join(_literal(value) for value in values)
    known = ", ".join(str(value) for value in values)
    return f"{column} IN ({listed})", f"{rule.column} is none of: {known}"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
