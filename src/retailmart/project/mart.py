"""marts/*.sql: one SELECT in DuckDB's SQL below a short header of `-- key: value` lines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pydantic import Field, model_validator

from retailmart.project.documents import Document, parse_yaml, validate
from retailmart.project.feed import NAME
from retailmart.project.settings import ExactVariable, Variable


class Refresh(Enum):
    """Which part of a mart a batch writes anew."""

    APPEND = "append"
    MONTHS = "months"
    FULL = "full"


class MartHeader(Document):
    """The header of marts/NAME.sql."""

    about: str | None = Field(None, description="What a row is, in one sentence.")
    refresh: Refresh = Field(
        description="append: rows of the batch; months: touched months anew; full: all anew."
    )
    partitions: list[str] = Field(
        default_factory=list, description="Folders; for append and months the month comes first."
    )
    key: list[str] = Field(default_factory=list, description="Columns that tell rows apart.")
    balance: dict[str, str] = Field(
        default_factory=dict, description="feed: column whose monthly sum must equal the feed's."
    )
    publish: bool | str = Field(False, description="true, or the name of the database's table.")
    variables: dict[str, ExactVariable] = Field(
        default_factory=dict, description="Defaults of getvariable('name'); settings override."
    )

    @model_validator(mode="after")
    def _consistent(self) -> MartHeader:
        if self.refresh is not Refresh.FULL and not self.partitions:
            raise ValueError(
                f"refresh: {self.refresh.value} needs `partitions` that begin with the month"
                " ('YYYY-MM'), as in [_month]"
            )
        if isinstance(self.publish, str) and not NAME.fullmatch(self.publish):
            raise ValueError(f"publish: {self.publish!r} is no table name")
        if self.publish and not self.key:
            raise ValueError("publish: needs `key`, the columns that tell rows apart")
        return self


@dataclass(frozen=True)
class Mart:
    """A mart as its user wrote it. `query` is the SELECT; `first_line` is where it begins."""

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

    @property
    def month(self) -> str | None:
        """The partition column that holds 'YYYY-MM', or None where all is rebuilt anyway."""
        return None if self.refresh is Refresh.FULL else self.partitions[0]

    def fingerprint(self, variables: Mapping[str, Variable]) -> str:
        """Changes when the mart would compute something else from the same rows."""
        used = {name: str(variables[name]) for name in self.variables if name in variables}
        shape = (self.refresh.value, self.partitions, self.key, self.publish_as)
        said = (self.query, shape, sorted(used.items()))
        return hashlib.sha256(repr(said).encode()).hexdigest()


def read_mart(path: Path, folder: Path, problems: list[str]) -> Mart | None:
    """Read one marts/NAME.sql; mistakes go to `problems`."""
    label = path.relative_to(folder).as_posix()
    if not NAME.fullmatch(path.stem):
        problems.append(f"{label}: a mart's file is named with letters, digits and _, letter first")
        return None
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    length = next((n for n, line in enumerate(lines) if not line.startswith("--")), len(lines))
    header = "\n".join(line.removeprefix("--").removeprefix(" ") for line in lines[:length])
    query = "\n".join(lines[length:]).strip().removesuffix(";").rstrip()
    if not query:
        problems.append(f"{label}: holds no SELECT below its header")
        return None
    source = parse_yaml(header, label, problems)
    document = validate(MartHeader, source, problems) if source else None
    return _mart(path.stem, query, length + 1, document) if document else None


def _mart(name: str, query: str, first_line: int, header: MartHeader) -> Mart:
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
    )
