"""Which columns of a relation or query may hold the column that a mart is split by.

All of it errs on one side: a column that is unknown, or is computed, may hold it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Rows:
    """What a relation or query gives. `cut`: each part gets only some of its rows.

    `columns` are the known names in lower case, each with whether it may hold the split column.
    `complete`: there are no other columns; else `others` says whether those may hold it.
    `ordered`: `columns` are all, in their order. `tied`: depths of the outer queries whose row
    decides which value of the split column all these rows have. `needs_cut`: a part without rows
    of the relations that are cut gives none.
    """

    cut: bool
    columns: tuple[tuple[str, bool], ...] = ()
    complete: bool = False
    ordered: bool = False
    others: bool = False
    tied: frozenset[int] = frozenset()
    needs_cut: bool = False

    @property
    def may_hold(self) -> bool:
        """Whether any column may hold the split column."""
        return any(holds for _, holds in self.columns) or (not self.complete and self.others)

    def has(self, name: str) -> bool | None:
        """Whether there is such a column; None if that is not known."""
        if any(known == name for known, _ in self.columns):
            return True
        return False if self.complete else None

    def holds(self, name: str) -> bool:
        """Whether a column may hold the split column."""
        if self.has(name):
            return any(holds for known, holds in self.columns if known == name)
        return not self.complete and self.others

    def with_columns(self, more: Rows) -> Rows:
        """The same with another's columns after its own."""
        return replace(
            self,
            columns=self.columns + more.columns,
            complete=self.complete and more.complete,
            ordered=self.ordered and more.ordered,
            others=self.others or more.others,
        )

    def renamed(self, names: Sequence[str]) -> Rows:
        """The same with other names for the first columns, as in `AS t(a, b)`."""
        if not names:
            return self
        if not self.ordered:
            return replace(self, columns=(), complete=False, others=self.may_hold)
        new = tuple(
            (name.lower(), holds) for name, (_, holds) in zip(names, self.columns, strict=False)
        )
        return replace(self, columns=new + self.columns[len(new) :])


@dataclass
class Leaf:
    """One source in FROM. `equal` and `joined` are columns that conditions make equal to the
    split column: its own, or another source's.
    """

    alias: str
    label: str
    rows: Rows
    hidden: bool = False
    equal: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)

    def holds(self, name: str) -> bool:
        return self.rows.holds(name) or name in self.equal or name in self.joined

    def without(self, excluded: Collection[str]) -> Rows:
        """What a star gives of it, as far as the columns are known."""
        known = [name for name, _ in self.rows.columns]
        more = set() if self.rows.complete else (self.equal | self.joined) - set(known)
        names = [name for name in [*known, *sorted(more)] if name not in excluded]
        return replace(self.rows, columns=tuple((name, self.holds(name)) for name in names))

    @property
    def may_hold(self) -> bool:
        return self.rows.may_hold or bool(self.equal or self.joined)


def together(found: Sequence[Rows], by_name: bool) -> Rows:
    """What UNION, EXCEPT or INTERSECT gives: a column must hold the split column in all parts."""
    cut = any(rows.cut for rows in found)
    columns: tuple[tuple[str, bool], ...] = ()
    if by_name and all(rows.complete for rows in found):
        names = dict.fromkeys(name for rows in found for name, _ in rows.columns)
        columns = tuple((name, all(rows.holds(name) for rows in found)) for name in names)
        return Rows(cut, columns, complete=True)
    if not by_name and all(rows.ordered for rows in found):
        listed = zip(*(rows.columns for rows in found), strict=False)
        columns = tuple((each[0][0], all(holds for _, holds in each)) for each in listed)
        return Rows(cut, columns, complete=True, ordered=True)
    return Rows(cut, others=all(rows.may_hold for rows in found))
