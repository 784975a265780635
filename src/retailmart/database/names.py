"""The names that a kind of database can hold, known without a connection."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_ASCII = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def as_it_is(name: str) -> str:
    """For databases in which letter case tells names apart."""
    return name


def without_case(name: str) -> str:
    """For databases in which letter case does not matter."""
    return name.lower()


def without_ascii_case(name: str) -> str:
    """For databases in which the case of the letters A to Z alone does not matter."""
    return name.translate(_ASCII)


@dataclass(frozen=True)
class Names:
    """What one kind of database makes of the names of columns, tables and schemas.

    `fold` returns the same text for two columns that are one to the database. `longest` is in
    characters, or in bytes of UTF-8 with `in_bytes`. The database itself has `own_columns` in each
    table; tables and schemas that begin with one of `own_prefixes`, and `own_schemas`, are its own.
    """

    title: str
    fold: Callable[[str], str]
    longest: int | None = None
    in_bytes: bool = False
    is_plain: bool = False
    own_columns: frozenset[str] = frozenset()
    own_prefixes: tuple[str, ...] = ()
    own_schemas: frozenset[str] = frozenset()

    def wrong_columns(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Columns that no table can have, or not beside the others: the name and why."""
        first: dict[str, str] = {}
        for name in names:
            other = first.setdefault(self.fold(name), name)
            if other != name:
                yield name, f"{self.title} takes it for the column {other!r}"
            elif why := self._wrong(name):
                yield name, why
            elif self.fold(name) in self.own_columns:
                yield name, f"{self.title} has a column of this name in each table itself"

    def wrong_table(self, name: str) -> str | None:
        """Why a table cannot have this name."""
        if self._is_own(name):
            return f"{self.title} keeps this name for tables of its own"
        return self._wrong(name)

    def wrong_schema(self, name: str | None) -> str | None:
        """Why nothing can be published in this schema, or in this database on a server."""
        if name and (name.lower() in self.own_schemas or self._is_own(name)):
            return f"{name!r} is where {self.title} keeps its own tables"
        return None

    def _is_own(self, name: str) -> bool:
        return name.lower().startswith(self.own_prefixes)

    def _wrong(self, name: str) -> str | None:
        if "\0" in name:
            return f"{self.title} has no names with the character NUL"
        size, unit = (len(name.encode()), "bytes") if self.in_bytes else (len(name), "letters")
        if self.longest is not None and size > self.longest:
            return f"it has {size} {unit}, and names have at most {self.longest} in {self.title}"
        if self.is_plain and name.endswith(" "):
            return f"names do not end with a space in {self.title}"
        if self.is_plain and any(ord(letter) > 0xFFFF for letter in name):
            return f"{self.title} has no names with letters such as {name!r}"
        return None
