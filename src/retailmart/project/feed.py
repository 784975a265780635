"""feeds/*.yml: a kind of file that lands, its columns and rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from retailmart.project.documents import Document, did_you_mean, parse_yaml, validate
from retailmart.project.types import ColumnType, parse_type

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class Action(Enum):
    """What happens to a row, or to the run, when a rule is broken."""

    WARN = "warn"
    QUARANTINE = "quarantine"
    FAIL = "fail"


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
    format: Literal["csv"] = "csv"
    delimiter: str = Field(",", min_length=1, max_length=1)
    encoding: str = Field("utf-8", description="utf-8, cp1252, latin-1, utf-16, …")
    columns: dict[str, Annotated[ColumnDocument, BeforeValidator(_as_column)]]
    extra_columns: str | None = Field(
        None, description="Column that takes all further columns as one JSON object."
    )
    month: str | None = Field(None, description="The DATE column that tells a row's month.")
    balance: str | None = Field(None, description="The DECIMAL column that must balance.")
    rules: list[RuleDocument] = Field(default_factory=list)

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError as error:
            raise ValueError(f"{value!r} is no encoding; try utf-8, cp1252 or utf-16") from error
        return value

    @model_validator(mode="after")
    def _names_columns(self) -> FeedDocument:
        for name in self.columns:
            if not NAME.fullmatch(name):
                raise ValueError(f"column {name!r}: a name is letters, digits and _, letter first")
        asked = {"month": self.month, "balance": self.balance}
        asked |= {f"rule {rule.name}": rule.column for rule in self.rules}
        for place, column in asked.items():
            if column is not None and column not in self.columns:
                hint = did_you_mean(column, self.columns)
                raise ValueError(f"{place}: there is no column {column!r}{hint}")
        if self.month and self.columns[self.month].type != "DATE":
            raise ValueError(f"month: {self.month!r} must be a DATE column")
        if self.balance and not self.columns[self.balance].type.startswith("DECIMAL"):
            raise ValueError(f"balance: {self.balance!r} must be a DECIMAL column")
        if self.balance and not self.month:
            raise ValueError("balance: needs `month` too, totals balance by month")
        return self


@dataclass(frozen=True)
class Column:
    """A column of a feed's raw table."""

    name: str
    type: ColumnType
    mandatory: bool
    aliases: tuple[str, ...]
    references: tuple[str, str] | None


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
    label = path.relative_to(folder).as_posix()
    if not NAME.fullmatch(path.stem):
        problems.append(f"{label}: a feed's file is named with letters, digits and _, letter first")
        return None
    source = parse_yaml(path.read_text(encoding="utf-8-sig", errors="replace"), label, problems)
    document = validate(FeedDocument, source, problems) if source else None
    return _feed(path.stem, document) if document else None


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
    )


def _column(name: str, document: ColumnDocument) -> Column:
    references = None
    if document.references:
        table, _, column = document.references.partition(".")
        references = (table, column)
    return Column(
        name, parse_type(document.type), document.mandatory, tuple(document.aliases), references
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
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
