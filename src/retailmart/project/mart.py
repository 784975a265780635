"""marts/*.sql: one SELECT in DuckDB's SQL below a short header of `-- key: value` lines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator

from retailmart.project.by_date import ByDate
from retailmart.project.chart import Chart, charts_of
from retailmart.project.documents import (
    NAME,
    Document,
    Location,
    Source,
    is_named,
    parse_yaml,
    validate,
)
from retailmart.project.lexer import takes_all_columns, variables_of, words_of
from retailmart.project.settings import ExactVariable, Variable

# How a query can begin, after comments; the engine's parser checks the rest.
_SELECT = re.compile(
    r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*(?:SELECT|WITH|FROM|VALUES)\b",
    re.IGNORECASE | re.DOTALL,
)

AS_OF = "as_of"
# Texts that look like a number or a boolean, or like the quoted form of such a text.
_LIKE_ANOTHER = re.compile(r"'.*|\".*|[-+.\dEe]+|True|False|None", re.DOTALL)

_FOLDER = re.compile(r"\w[\w -]*")


class Refresh(Enum):
    """Which part of a mart a batch rebuilds."""

    APPEND = "append"
    MONTHS = "months"
    FULL = "full"


class MartHeader(Document):
    """The header of marts/NAME.sql: lines `-- key: value` above the SELECT."""

    about: str | None = Field(None, description="What a row is, in one sentence.")
    refresh: Refresh = Field(
        description="What a run builds. append: new rows are added; months: affected months are"
        " built again; full: everything is built again."
    )
    partitions: list[str] = Field(
        default_factory=list,
        description="The columns that become folders in the lake; for append and months the month"
        " is first.",
    )
    key: list[str] = Field(
        default_factory=list, description="The columns that identify a row; needed to publish."
    )
    balance: dict[str, str] = Field(
        default_factory=dict,
        description="`feed: column`; the column's sum by month must be that of the feed's"
        " `balance`.",
    )
    agrees: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="`mart: {column: column}`; these columns, summed by the other mart's key, must"
        " be the other mart's columns.",
    )
    publish: bool | str = Field(
        False,
        description="true, or the name of its table in the database; false: in the lake only.",
    )
    variables: dict[str, ExactVariable] = Field(
        default_factory=dict,
        description="Defaults of what the query reads with getvariable('name'), or of a day with"
        " variable_on('name', day); `variables` in retailmart.yml overrides them.",
    )
    split_by: list[str] = Field(
        default_factory=list,
        description="Columns that cut a large month on Spark: rows with different values are never"
        " combined.",
    )
    snapshot: bool = Field(
        False,
        description="true: a run exports it as plain Parquet under its date, in business_insights.",
    )

    chart: list[Chart] | None = Field(
        None,
        description="What the report shows: a chart, a list of them, or false for nothing; without"
        " it, the report chooses.",
    )

    @field_validator("chart", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return charts_of(value)

    @field_validator("publish", mode="before")
    @classmethod
    def _is_no_section(cls, value: object) -> object:
        if isinstance(value, Mapping):
            raise ValueError(
                "is true, false or the table's name; how the tables of all marts are created, as in"
                " publish: {collation: database}, belongs into retailmart.yml"
            )
        return value


@dataclass(frozen=True)
class Mart:
    """A mart as its user wrote it. `query` is the SELECT; `first_line` is its line.

    `charts` are what the report shows of it; None lets the report choose.
    """

    name: str
    query: str
    first_line: int
    refresh: Refresh
    partitions: tuple[str, ...]
    key: tuple[str, ...]
    balance: Mapping[str, str]
    publish_as: str | None
    variables: Mapping[str, Variable]
    about: str | None
    snapshot: bool = False
    split_by: tuple[str, ...] = ()
    agrees: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    charts: tuple[Chart, ...] | None = None
    header: Source = field(default=Source("", {}), compare=False, repr=False)

    @property
    def month(self) -> str | None:
        """The partition column that holds 'YYYY-MM', or None if everything is rebuilt anyway."""
        return None if self.refresh is Refresh.FULL else self.partitions[0]

    @cached_property
    def words(self) -> frozenset[str]:
        """The words and names of its query in lower case, without comments and texts."""
        return words_of(self.query)

    @cached_property
    def reads_variables(self) -> frozenset[str]:
        """The variables that its query reads, in lower case."""
        return variables_of(self.query)

    @cached_property
    def takes_all_columns(self) -> bool:
        """Whether its query may read columns of its inputs without naming them."""
        return takes_all_columns(self.query)

    @property
    def looks_at_as_of(self) -> bool:
        """Whether its result changes with the day, without any new row."""
        return AS_OF in self.reads_variables

    def fingerprint(
        self, variables: Mapping[str, Variable], functions: Mapping[str, str] | None = None
    ) -> str:
        """A text that changes if the mart would compute something else from the same rows.
        `functions` are the user's functions that it may call: name → digest of their source.
        """
        used = {
            name: _said(value)
            for name, value in variables.items()
            if name in self.variables or name.lower() in self.reads_variables
        }
        shape = (self.refresh.value, self.partitions, self.key, self.publish_as)
        said: tuple[object, ...] = (self.query, shape, sorted(used.items()))
        if functions:
            said = (*said, sorted(functions.items()))
        return hashlib.sha256(repr(said).encode()).hexdigest()


def _said(value: Variable) -> str:
    """A variable's value as a text that differs from any value of another type."""
    if isinstance(value, ByDate):
        return repr([(day.isoformat(), _said(one)) for day, one in value.values])
    if isinstance(value, str) and _LIKE_ANOTHER.fullmatch(value):
        return repr(value)
    return str(value)


def read_mart(path: Path, folder: Path, problems: list[str]) -> Mart | None:
    """Read one marts/NAME.sql; mistakes go to `problems`."""
    label = path.relative_to(folder).as_posix()
    if not is_named(path, label, "mart", problems):
        return None
    lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    length = next((n for n, line in enumerate(lines) if not line.startswith("--")), len(lines))
    header = "\n".join(line.removeprefix("--").removeprefix(" ") for line in lines[:length])
    below = "\n".join(lines[length:])
    first_line = length + 1 + below[: len(below) - len(below.lstrip())].count("\n")
    query = below.strip().removesuffix(";").rstrip()
    if "--" in query.rpartition("\n")[2]:
        query += "\n"  # a comment in the last line must not swallow the text after the query
    wrong = []
    if not query:
        wrong.append(f"{label}: holds no SELECT below its header")
    elif not _SELECT.match(query):
        word = query.split(maxsplit=1)[0]
        wrong.append(f"{label}:{first_line}: a mart is one SELECT; this begins with {word!r}")
    source = parse_yaml(header, label, problems)
    document = validate(MartHeader, source, problems) if source else None
    if source:
        wrong += [f"{source.at(place)}: {message}" for place, message in _mistakes(source.data)]
    problems += wrong
    if source is None or document is None or wrong:
        return None
    return _mart(path.stem, query, first_line, document, source)


def _mistakes(data: object) -> Iterator[tuple[Location, str]]:
    """Find conflicts between the keys of a header as written."""
    if not isinstance(data, Mapping):
        return
    refresh, publish = data.get("refresh"), data.get("publish")
    if refresh in (Refresh.APPEND.value, Refresh.MONTHS.value) and not data.get("partitions"):
        yield (
            ("refresh",),
            f"refresh: {refresh} needs `partitions` that begin with the month ('YYYY-MM'), as in"
            " [_month]",
        )
    if refresh == Refresh.FULL.value and data.get("balance"):
        yield ("balance",), "balance: is proven by month; it needs refresh: append or months"
    yield from _partition_mistakes(data.get("partitions"))
    yield from _split_mistakes(refresh, data.get("split_by"))
    if isinstance(publish, str) and not NAME.fullmatch(publish):
        yield ("publish",), f"publish: {publish!r} is no table name"
    if isinstance(publish, str) and publish.lower().startswith("retailmart_"):
        yield ("publish",), f"publish: {publish!r}: names with retailmart_ are the ledger's"
    if publish and not data.get("key"):
        yield ("publish",), "publish: needs `key`, the columns that tell rows apart"


def _partition_mistakes(partitions: object) -> Iterator[tuple[Location, str]]:
    for index, name in enumerate(partitions if isinstance(partitions, list) else ()):
        if isinstance(name, str) and not _FOLDER.fullmatch(name):
            yield (
                ("partitions", index),
                f"partitions: {name!r} becomes a part of folders' names, which may hold letters,"
                " digits, _ and - only; name the column otherwise in the SELECT, with AS",
            )


def _split_mistakes(refresh: object, split_by: object) -> Iterator[tuple[Location, str]]:
    if not isinstance(split_by, list) or not split_by:
        return
    if refresh == Refresh.FULL.value:
        yield ("split_by",), "split_by: cuts a month; it needs refresh: append or months"
    names = [str(name).lower() for name in split_by]  # SQL ignores letter case
    for index, name in enumerate(names):
        if not name.strip():
            yield ("split_by", index), "split_by: an empty text is not a column"
        elif name in names[:index]:
            yield ("split_by", index), f"split_by: {split_by[index]!r} is listed twice"


def _mart(name: str, query: str, first_line: int, header: MartHeader, source: Source) -> Mart:
    publish_as = header.publish if isinstance(header.publish, str) else None
    return Mart(
        name=name,
        query=query,
        first_line=first_line,
        refresh=header.refresh,
        partitions=tuple(header.partitions),
        key=tuple(header.key),
        balance=header.balance,
        publish_as=publish_as or (name if header.publish else None),
        variables=header.variables,
        about=header.about,
        agrees=header.agrees,
        snapshot=header.snapshot,
        split_by=tuple(header.split_by),
        charts=None if header.chart is None else tuple(header.chart),
        header=source,
    )
