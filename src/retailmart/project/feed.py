"""feeds/*.yml: a kind of landing file, its columns and rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from fnmatch import fnmatchcase
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from retailmart.project.documents import NAME, Document, Location, did_you_mean, read_document
from retailmart.project.types import ColumnType, parse_type
from retailmart.project.writing import (
    NUMBERS,
    PLAIN,
    Marks,
    MarksDocument,
    as_list,
    as_sent,
    default_problem,
    format_mistakes,
    mark_mistakes,
    marks_of,
    plain_text,
)

# The export form of NULL in MySQL and PostgreSQL; they double a backslash in texts.
_EXPORTED_NULL = r"\N"
_MARKS = ("decimal", "thousands", "currency", "parentheses")

# File name endings of each format, with or without gzip's.
ENDINGS = {"csv": (".csv", ".txt", ".tsv", ".dat"), "json": (".json", ".jsonl", ".ndjson")}
_CSV_ONLY = {"quote", "escape", "header", "skip_lines", "comment", "max_record_lines"}


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
    names = [policy.value for policy in Policy]
    if value not in names:
        raise ValueError(f"{value!r} is unknown{did_you_mean(value, names)}")
    return dict.fromkeys(("table", "columns", "types"), value)


class SchemaDocument(Document):
    """What happens if files bring another schema: one word for all axes, or a word for each."""

    table: Policy = Field(
        Policy.EVOLVE, description="What the first file does, if the feed has no raw table yet."
    )
    columns: Policy | None = Field(
        None,
        description="A column that the feed does not name. Without it, the value goes to"
        " `extra_columns`, or is dropped.",
    )
    types: Policy = Field(
        Policy.DISCARD_ROW, description="A value that is not of its column's type."
    )
    date_to_timestamp: bool = Field(False, description="Whether a DATE may become a TIMESTAMP.")


def _as_nulls(value: object) -> object:
    if isinstance(value, list) and None in value:
        raise ValueError("YAML reads a bare null or NULL as nothing; put it in quotes")
    return value


Nulls = Annotated[list[str], BeforeValidator(_as_nulls)]


def _as_column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class ColumnDocument(MarksDocument):
    """One column: `name: INT`, or a mapping with more."""

    type: str = Field(
        description="INT, BIGINT, STRING, DATE, TIMESTAMP, BOOLEAN, DOUBLE or DECIMAL(p,s)."
    )
    mandatory: bool = Field(
        False, description="Whether every header must have it, and no value may be empty."
    )
    aliases: list[str] = Field(
        default_factory=list, description="Other names that senders use for it."
    )
    references: str | None = Field(
        None,
        description="The `table.column` that should contain the value. Unknown values are counted,"
        " and their rows are kept.",
    )
    pattern: str | None = Field(
        None,
        description="A regular expression. If it fits the whole text, its first group counts.",
    )
    folder: int | None = Field(
        None,
        ge=1,
        description="The value is the name of this folder in the file's path; 1 is the first below"
        " landing.",
    )
    format: str | list[str] | None = Field(
        None,
        description="How a DATE or TIMESTAMP is written, as in `%m/%d/%Y`; or several formats.",
    )
    nulls: Nulls | None = Field(
        None,
        description="Texts that mean no value in this column, instead of the feed's; also if it is"
        " STRING.",
    )
    default: Any = Field(None, description="The value of all rows of a file that lacks the column.")

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
    """A row breaks a rule if its expression is false; a NULL breaks only `not_null`.

    A rule has one of `check`, `not_null`, `range` and `allowed`.
    """

    name: str = Field(description="Its name in messages and in the quarantine.")
    action: Action = Field(
        description="What happens if a row breaks it. warn: it is counted; quarantine: the row is"
        " kept out; fail: the run stops with exit code 3."
    )
    check: str | None = Field(
        None, description="An SQL expression over the feed's columns, without a SELECT."
    )
    column: str | None = Field(
        None, description="The column that `not_null`, `range` or `allowed` is about."
    )
    not_null: bool = Field(False, description="true: the column must have a value.")
    range: list[Any] | None = Field(
        None, description="[lowest, highest] value of the column; either may be null."
    )
    allowed: list[Any] | None = Field(None, description="The values that the column may have.")
    message: str | None = Field(None, description="What people read if a row breaks it.")

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


class FeedDocument(MarksDocument):
    """The file feeds/NAME.yml: a kind of file that lands, its columns and rules."""

    files: list[str] = Field(
        min_length=1, description="Patterns of file names, as in `sales*.csv`."
    )
    format: Literal["csv", "json"] = Field("csv", description="What the files are.")
    nested: Literal["flatten", "keep"] = Field(
        "flatten",
        description="What becomes of JSON objects in a record. flatten: columns with dotted names;"
        " keep: JSON texts.",
    )
    delimiter: str | list[str] = Field(
        ",",
        description="The character between cells. Of a list, each file has the one that its header"
        " fits.",
    )
    quote: str = Field(
        '"', max_length=1, description='The character around quoted cells; "" if there is none.'
    )
    escape: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="The character before a quote, a delimiter or itself, such as \\ in MySQL's"
        " files.",
    )
    header: bool = Field(
        True,
        description="false: files have no header; their columns come in the order of `columns`.",
    )
    skip_lines: int = Field(0, ge=0, le=1000, description="How many lines stand before the header.")
    comment: str | None = Field(
        None, min_length=1, description="Lines that begin with it are not rows."
    )
    max_record_lines: int = Field(
        1000,
        ge=1,
        description="A row that spans more lines has an open quote: its first line is quarantined.",
    )
    encoding: str = Field("utf-8", description="As in utf-8, cp1252, latin-1 or utf-16.")
    columns: dict[
        str,
        Annotated[
            ColumnDocument,
            BeforeValidator(_as_column, json_schema_input_type=str | ColumnDocument),
        ],
    ] = Field(description="Each column by its name: a type alone, or a mapping with more.")
    nulls: Nulls = Field(
        default_factory=list,
        description="Texts that mean no value, except in STRING columns; \\N does there, too.",
    )
    string_nulls: Nulls = Field(
        default_factory=list, description="Texts that mean no value in STRING columns."
    )
    records: str | None = Field(
        None, description="JSON: the key of the list of records, if an object is around it."
    )
    empty: Literal["refused", "allowed"] = Field(
        "refused",
        description="Whether a file without a row is refused, or counts as a delivery of no rows.",
    )
    all_refused: Literal["warn", "fail"] = Field(
        "warn", description="fail: a run ends with exit code 5 if all rows of a file were refused."
    )
    extra_columns: str | None = Field(
        None, description="The column that takes all further columns of a file, as one JSON object."
    )
    month: str | None = Field(
        None,
        description="The DATE or TIMESTAMP column that decides a row's month; of a TIMESTAMP, its"
        " date in UTC.",
    )
    balance: str | None = Field(
        None, description="The DECIMAL column whose sums must be equal in the files, raw and marts."
    )
    rules: list[RuleDocument] = Field(
        default_factory=list, description="What must hold for each row."
    )
    # Renamed, because pydantic's own models already have a `schema`.
    schema_: Annotated[
        SchemaDocument,
        BeforeValidator(_as_policies, json_schema_input_type=Policy | SchemaDocument),
    ] = Field(
        default_factory=SchemaDocument,
        alias="schema",
        description="What happens if files bring other columns or types.",
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
    def _separates(cls, value: str | list[str]) -> str | list[str]:
        for one in [value] if isinstance(value, str) else value:
            if len(one) != 1 or one in '"\r\n':
                raise ValueError(f"{one!r} cannot separate cells; one character does")
        if not value:
            raise ValueError("name at least one delimiter")
        return value

    @field_validator("quote", "escape", "comment")
    @classmethod
    def _is_sign(cls, value: str | None) -> str | None:
        if value is not None and ("\r" in value or "\n" in value):
            raise ValueError(f"{value!r} is a line end")
        return value


@dataclass(frozen=True)
class Column:
    """A column of a feed's raw table.

    `pattern` extracts the value from the text. `folder` is the position of the folder in the file's
    path that gives the value, counted from 1 at landing. `evolved` says that files added the column
    and the feed does not name it; `delivered` are its names in those files. `defined` is the feed's
    own type if raw holds a wider one. `formats` and `marks` say how senders write the value;
    `nulls` are texts for a missing value, if the feed does not decide that. A file without the
    column gets `default`.
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
    formats: tuple[str, ...] = ()
    marks: Marks = PLAIN
    nulls: tuple[str, ...] | None = None
    default: str | None = None

    @property
    def is_expected(self) -> bool:
        """Whether a file must have it."""
        return self.mandatory and self.default is None

    def as_sent(self, text: str) -> str:
        """Rewrite a value from plain form to the form that this column's senders use."""
        return as_sent(text, self.defined or self.type, self.formats, self.marks)


@dataclass(frozen=True)
class SchemaPolicies:
    """What happens to files with another schema. Without `columns`: to the extras, or dropped."""

    table: Policy = Policy.EVOLVE
    columns: Policy | None = None
    types: Policy = Policy.DISCARD_ROW
    date_to_timestamp: bool = False


@dataclass(frozen=True)
class Rule:
    """A rule; its `condition` is SQL that is false for a row which breaks the rule.

    A row for which it cannot be computed, for example where a product has too many digits, also
    breaks it.
    """

    name: str
    action: Action
    condition: str
    message: str
    column: str | None

    @property
    def broken(self) -> str:
        """SQL that is true if a row breaks the rule. It fails where the rule cannot be computed."""
        return f"coalesce(NOT ({self.condition}), false)"

    @property
    def tried(self) -> str:
        """SQL that is true if a row keeps the rule, and NULL if that cannot be computed.

        It takes many times as long. The random branch is always taken. Without it the optimizer
        would compute an expression that occurs twice before both, outside TRY.
        """
        keeps = f"coalesce(CAST(({self.condition}) AS BOOLEAN), true)"
        return f"CASE WHEN random() >= 0 THEN TRY({keeps}) END"


@dataclass(frozen=True)
class Feed:
    """A kind of file, and the raw table of the same name for its rows.

    `delimiters` are those that its files may have. `delimiter` is that of a probed file, or the
    first.
    """

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
    string_nulls: tuple[str, ...] = ()
    records: str | None = None
    takes_empty: bool = False
    fails_all_refused: bool = False
    delimiters: tuple[str, ...] = ()
    quote: str = '"'
    escape: str | None = None
    header: bool = True
    skip_lines: int = 0
    comment: str | None = None
    max_record_lines: int = 1000

    def nulls_of(self, column: Column) -> tuple[str, ...]:
        """The texts that mean a missing value in a column."""
        if column.nulls is not None:
            return column.nulls
        return self.string_nulls if column.type.name == "STRING" else self.nulls

    @property
    def is_plain(self) -> bool:
        """Whether cells are quoted as in RFC 4180."""
        return self.quote == '"' and self.escape is None

    def from_path(self, path: str) -> tuple[tuple[str, str], ...]:
        """The columns and values in a file's path; columns that it lacks are left out."""
        folders = path.split("/")[:-1]
        return tuple(
            (column.name, folders[column.folder - 1])
            for column in self.columns
            if column.folder is not None and column.folder <= len(folders)
        )

    def matches(self, path: str) -> bool:
        """Whether a file at `path` below landing matches this feed; letter case is ignored.

        A pattern without a slash matches the file's name in any folder.
        """
        name = path.rsplit("/", 1)[-1]
        return any(
            fnmatchcase((path if "/" in pattern else name).lower(), pattern.lower())
            for pattern in self.files
        )

    def rules_that(self, *actions: Action) -> tuple[Rule, ...]:
        """The rules with one of these actions, in the file's order."""
        return tuple(rule for rule in self.rules if rule.action in actions)


def matched_twice(feeds: Iterable[Feed], paths: Iterable[str]) -> list[str]:
    """A problem for each pair of feeds that match one file, with the first such file.

    The format in a file's name decides between feeds of two formats.
    """
    known = list(feeds)
    found: dict[tuple[str, str], str] = {}
    for path in paths:
        claiming = [feed for feed in known if feed.matches(path)]
        for one, other in combinations(claiming, 2):
            if one.format == other.format:
                found.setdefault((one.name, other.name), path)
    return [
        f"feeds/{one}.yml: files: feed {one} and feed {other} both match {path}; a file is of one"
        " feed"
        for (one, other), path in found.items()
    ]


def overlapping(feeds: Iterable[Feed]) -> list[str]:
    """A problem for each pair of feeds of which one's pattern is within one of the other's."""
    found: dict[frozenset[str], str] = {}
    for one, other in permutations(feeds, 2):
        for pattern in one.files if one.format == other.format else ():
            # Stands for the stars' text: no pattern contains these characters.
            if other.matches(pattern.replace("*", "\0\1")):
                message = (
                    f"feeds/{one.name}.yml: files: feed {one.name} and feed {other.name} both match"
                    f" all files of {pattern!r}; a file is of one feed"
                )
                found.setdefault(frozenset((one.name, other.name)), message)
    return list(found.values())


def read_feed(path: Path, folder: Path, problems: list[str]) -> Feed | None:
    """Read one feeds/NAME.yml; mistakes go to `problems`."""
    document = read_document(path, folder, "feed", FeedDocument, _mistakes, problems)
    return _feed(path.stem, document) if document else None


def _mistakes(data: object) -> Iterator[tuple[Location, str]]:
    """Find conflicts between the parts of a feed's file.

    It works on the YAML as written: a mistake in one part must not hide those in others.
    """
    columns = data.get("columns") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(columns, Mapping):
        return
    given = {name: _plain(column) for name, column in columns.items()}
    yield from _column_mistakes(given)
    yield from _extra_mistakes(data.get("extra_columns"), given)
    yield from _format_mistakes(data)
    yield from _writing_mistakes(data, given)
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
        for key in sorted(_CSV_ONLY & data.keys()):
            yield (key,), f"{key}: is for CSV; leave it out"
        if str(data.get("encoding", "utf-8")).lower() not in ("utf-8", "utf8"):
            yield ("encoding",), "encoding: JSON is always utf-8; leave it out"
        return
    delimiter = data.get("delimiter", ",")
    for key in ("quote", "escape"):
        if data.get(key) in (delimiter if isinstance(delimiter, list) else [delimiter]):
            yield (key,), f"{key}: {data[key]!r} separates cells already"
    for key in ("nested", "records"):
        if key in data:
            yield (key,), f"{key}: is for JSON; add `format: json`, or leave it out"


def _writing_mistakes(
    data: Mapping[str, object], columns: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Location, str]]:
    feed = {key: data.get(key) for key in _MARKS}
    for problem in mark_mistakes({}, feed):
        yield (problem.partition(":")[0],), problem
    yield from _null_mistakes(data, ())
    for name, column in columns.items():
        place: Location = ("columns", name)
        kind = _kind(column)
        if kind is None:
            continue
        yield from _null_mistakes(column, place)
        own = {key: column[key] for key in _MARKS if column.get(key) is not None}
        for key in own if kind not in NUMBERS else ():
            yield (*place, key), f"{name}, {key}: is for numbers, not for {kind}"
        problems = [*(mark_mistakes(own, feed) if own else ())]
        if column.get("format") is not None:
            problems += format_mistakes(column["format"], kind)
        if column.get("default") is not None:
            problems += _default_mistakes(column)
        for problem in problems:
            yield (*place, problem.partition(":")[0]), f"{name}, {problem}"


def _null_mistakes(data: Mapping[str, object], place: Location) -> Iterator[tuple[Location, str]]:
    for key in ("nulls", "string_nulls"):
        if "\x85" in as_list(data.get(key)):
            message = r'"\N" is a control character to YAML; write it as "\\N" or \N without quotes'
            yield (*place, key), f"{key}: {message}"


def _default_mistakes(column: Mapping[str, Any]) -> Iterator[str]:
    value = column["default"]
    if column.get("folder") is not None:
        yield "default: a file's folder always says something; leave it out"
    elif problem := default_problem(value, parse_type(str(column.get("type")))):
        yield f"default: {value!r} {problem}"


def _month_mistakes(
    month: object, balance: object, columns: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Location, str]]:
    kinds = {"month": ("DATE", "TIMESTAMP"), "balance": ("DECIMAL",)}
    for key, column in (("month", month), ("balance", balance)):
        if not isinstance(column, str):
            continue
        if column not in columns:
            yield (key,), f"{key}: there is no column {column!r}{did_you_mean(column, columns)}"
        elif _kind(columns[column]) not in (*kinds[key], None):
            message = f"must be a {' or '.join(kinds[key])} column"
            if key == "month":
                message += "; give it that type, with `format` if it is written in another way"
            yield (key,), f"{key}: {column!r} {message}"
        elif key == "month" and not columns[column].get("mandatory"):
            message = "must be `mandatory: true`; a row without it is in no month"
            yield ("columns", column), f"month: {column!r} {message}"
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
    """The name of a column's type; None if it is itself a mistake."""
    try:
        return parse_type(str(column.get("type"))).name
    except ValueError:
        return None


def _folded(name: str) -> str:
    """A header's name without what senders vary: letter case and padding."""
    return " ".join(name.strip().casefold().split())


def _feed(name: str, document: FeedDocument) -> Feed:
    given = document.delimiter
    delimiters = (given,) if isinstance(given, str) else tuple(given)
    return Feed(
        name=name,
        files=tuple(document.files),
        delimiter=delimiters[0],
        encoding=document.encoding.lower(),
        columns=tuple(_column(key, column, document) for key, column in document.columns.items()),
        extra_columns=document.extra_columns,
        month=document.month,
        balance=document.balance,
        rules=tuple(_rule(rule, document.columns) for rule in document.rules),
        nulls=tuple(document.nulls),
        schema=SchemaPolicies(**dict(document.schema_)),
        format=document.format,
        nested=document.nested,
        string_nulls=_string_nulls(document),
        records=document.records,
        takes_empty=document.empty == "allowed",
        fails_all_refused=document.all_refused == "fail",
        delimiters=delimiters,
        quote=document.quote,
        escape=None if document.escape == document.quote else document.escape,
        header=document.header,
        skip_lines=document.skip_lines,
        comment=document.comment,
        max_record_lines=document.max_record_lines,
    )


def _string_nulls(document: FeedDocument) -> tuple[str, ...]:
    exported = [text for text in document.nulls if text == _EXPORTED_NULL]
    return tuple(dict.fromkeys([*document.string_nulls, *exported]))


def _column(name: str, document: ColumnDocument, feed: FeedDocument) -> Column:
    references = None
    if document.references:
        table, _, column = document.references.partition(".")
        references = (table, column)
    kind = parse_type(document.type)
    made = Column(
        name,
        kind,
        document.mandatory,
        tuple(document.aliases),
        references,
        document.pattern,
        document.folder,
        formats=tuple(as_list(document.format)),
        marks=marks_of(document, feed) if kind.name in NUMBERS else PLAIN,
        nulls=None if document.nulls is None else tuple(document.nulls),
    )
    default = plain_text(document.default)
    return made if default is None else replace(made, default=made.as_sent(default))


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
