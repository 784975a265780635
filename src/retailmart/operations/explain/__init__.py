"""Explain a number of a mart: its rule, its rows down to delivered lines, and the check.

The mart's own query says what a row is made of: it is asked again over relations whose rows have
keys (`marts.tracing`), at the pinned moment and for the month that the row is of. Nothing is
written but temporary files.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from retailmart.engines.duckdb.tracing import TracingEngine
from retailmart.errors import MartNotBuilt, RetailmartError
from retailmart.feeds.quarantine import Item
from retailmart.files.archive import archived_copies
from retailmart.files.checked import LandedCopy
from retailmart.lake import Lake
from retailmart.lake.layout import (
    MONTH,
    ORIGIN,
    VALID_FROM,
    VALID_TO,
    mart_table,
)
from retailmart.ledger.values import LedgerFile, definition_of
from retailmart.marts.definitions import fingerprints
from retailmart.marts.tracing import Traced, Untraceable
from retailmart.operations.as_repaired import held, open_items
from retailmart.operations.explain.adding import of_aggregate, same, together
from retailmart.operations.explain.asked import Asked
from retailmart.operations.explain.history import History
from retailmart.operations.explain.lines import Line, LineFinder
from retailmart.operations.explain.missing import Missing, missing_rows
from retailmart.operations.explain.trace import (
    BaseRows,
    MadeRow,
    Tracing,
    condition,
    rows_of,
    text_of,
)
from retailmart.operations.explain.values import (
    Addend,
    Check,
    Compared,
    Correction,
    Delivery,
    Explanation,
    UsedRow,
)
from retailmart.operations.verify.pin import Pinned, pin
from retailmart.operations.verify.rebuild import plan
from retailmart.project import Mart, Project
from retailmart.project.documents import did_you_mean
from retailmart.report import number_of
from retailmart.session import PRIVATE, LedgerView, open_lake, store_at, view_ledger
from retailmart.tables import FILE_ID, quoted

__all__ = ["Explanation", "explain"]

# So many rows are listed, and so many of a mart without a key are explained together.
_LISTED, _TOGETHER = 10_000, 100
_COMPARED, _FILES = 20, 200
# So many files are left out one by one where rows can't be told apart.
_LEFT_OUT = 30


def explain(
    project: Project, mart: str, key: Mapping[str, object], *, column: str | None = None
) -> Explanation:
    """Why a mart's number is what it is. `key` are values, or texts of them, by column.

    `column` is by default the one that the mart is balanced by, or else its first sum or count. If
    the mart has no row of this key, `is_there` is False and the refused rows that would make one
    are told. Raises RetailmartError for an unknown mart or column, a key that leaves several rows,
    or a mart that is defined otherwise than it was built; MartNotBuilt before the first run.
    """
    found = project.marts.get(mart)
    if found is None:
        raise RetailmartError(
            f"there is no mart {mart!r}{did_you_mean(mart, project.marts)}",
            "List them with: retailmart marts",
        )
    lake = open_lake(project)
    pinned = view_ledger(project, lambda view: pin(lake, view.ledger, project, 0))
    if mart_table(mart) not in pinned.tables:
        raise MartNotBuilt(f"{mart} is not built yet", "Build it with: retailmart run")
    settings = project.settings
    scratch = project.folder / PRIVATE / f"explain-{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    engine = TracingEngine([lake.place], scratch, settings.memory_limit, settings.threads)
    try:
        # Those that it reads may call one, too.
        if any(project.functions.used_in(one.query) for one in project.marts.values()):
            engine.add_functions(project.functions)
        engine.set_variables({**project.variables, "as_of": pinned.last_moment})
        return _Explaining(project, found, lake, pinned, engine, scratch).explanation(key, column)
    finally:
        engine.close()
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True)
class _Known:
    """What the ledger says: files by key, their runs, where their content is, corrections."""

    files: Mapping[int, LedgerFile]
    deliveries: Mapping[int, Delivery]
    copies: Mapping[int, Sequence[LandedCopy]]
    corrections: tuple[Correction, ...]


@dataclass
class _Explaining:
    """One explanation. `limits` collects how far it goes."""

    project: Project
    mart: Mart
    lake: Lake
    pinned: Pinned
    engine: TracingEngine
    scratch: Path
    limits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        today = fingerprints(self.project, self.pinned.last_moment)
        definitions = {name: definition_of(said) for name, said in today.items()}
        work = plan(self.engine, self.lake, self.project, self.pinned, definitions, None)
        name = self.mart.name
        for why in (work.unavailable.get(name), work.left_out.get(name)):
            if why is not None:
                raise RetailmartError(
                    f"{name} can't be explained: {why}", "Build it again with: retailmart run"
                )
        self.tracing = Tracing(self.engine, self.project, self.pinned, work)
        self.asked = Asked(self.tracing, self.mart)

    def explanation(self, key: Mapping[str, object], column: str | None) -> Explanation:
        """All of it."""
        chosen = self.asked.chosen(key)
        rows = self.asked.rows(chosen)
        matches = len(rows)
        if matches > 1 and self.mart.key:
            lacking = [name for name in self.mart.key if name not in chosen]
            raise RetailmartError(
                f"{number_of(matches, 'row')} of {self.mart.name} have this key",
                f"Add {' and '.join(map(self.asked.option, lacking))}; see the rows with:"
                f" retailmart show {self.mart.name}",
            )
        if matches > _TOGETHER:
            self.limits.append(
                f"{matches:,} rows of {self.mart.name} have these values; the first"
                f" {_TOGETHER} are explained, name more columns for fewer"
            )
        name = self.asked.column(column)
        if not rows:
            return self._of_nothing(chosen, name)
        return self._of_rows(chosen, name, rows[:_TOGETHER], matches)

    # rows that are there

    def _of_rows(
        self, chosen: Mapping[str, Any], name: str, rows: list[dict[str, Any]], matches: int
    ) -> Explanation:
        try:
            query = self.tracing.of(self.mart, name)
        except Untraceable as why:
            return self._untraceable(chosen, name, rows, matches, str(why))
        base = BaseRows(_LISTED)
        made: list[MadeRow] = []
        groups = self._groups(chosen, rows)
        keys: dict[str | None, frozenset[int]] = {}
        for month, where in groups.items():
            most = (
                sum(self.asked.month(row) == month for row in rows) if not self.mart.key else None
            )
            found = self.tracing.made(self.mart, query, month, where, most)
            made += found
            keys[month] = frozenset().union(*(one.keys for one in found))
            try:
                self.tracing.descend(self.mart, month, keys[month], base)
            except Untraceable as why:
                self.limits.append(f"another mart that it reads can't be followed further: {why}")
        if not made:
            self.limits.append("the query gives no such row from what the lake holds now")
        number = together(name, rows)
        check = self._check(name, query, rows, made, groups, keys)
        months = self._months(base, groups)
        known, missing = self._asked(chosen, query, base, months, number)
        used, addends = self._used(base, made, known, self._lines(base, known))
        compared = self._compared(name, query, rows[0], made) if len(made) == matches == 1 else None
        if compared is not None and compared.agrees:
            check = replace(check, agrees=True)
        return Explanation(
            mart=self.mart.name,
            about=self.mart.about,
            key=dict(chosen),
            column=name,
            number=number,
            row=rows[0] if matches == 1 else {},
            matches=matches,
            explained=len(rows),
            as_of=self.tracing.work.moments[self.mart.name],
            query=self.mart.query,
            variables=self._variables(),
            used={table: len(keys) for table, keys in base.keys.items()},
            rows=used,
            addends=addends,
            deliveries=self._deliveries(base, known, made),
            through=base.through,
            compares=query.compares,
            compared=compared,
            refused=missing.cells,
            repaired=missing.repaired,
            unreadable=missing.unreadable,
            corrections=known.corrections,
            check=check,
            limits=tuple(self.limits),
        )

    def _groups(
        self, chosen: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
    ) -> dict[str | None, str]:
        """The months of rows, and the condition that finds them in what the query makes."""
        if self.mart.key:
            own = {name: rows[0][name] for name in self.mart.key}
            return {self.asked.month(rows[0]): condition(own, self.asked.kinds)}
        where = condition(chosen, self.asked.kinds)
        return dict.fromkeys((self.asked.month(row) for row in rows), where)

    def _check(
        self,
        name: str,
        query: Traced,
        rows: Sequence[Mapping[str, Any]],
        made: Sequence[MadeRow],
        groups: Mapping[str | None, str],
        keys: Mapping[str | None, frozenset[int]],
    ) -> Check:
        """Add the addends up, and ask the mart's query over the rows alone."""
        number = together(name, rows)
        addends = [amount for one in made for _, amount in one.addends]
        added = of_aggregate(query.adds, addends) if query.adds and made else None
        again = [
            row
            for month, where in groups.items()
            for row in self.tracing.again(self.mart, month, keys[month], where)
        ][: len(rows)]
        rerun = together(name, again) if again else None
        differing: list[str] = []
        if len(rows) == 1 and len(again) == 1:
            differing = [n for n in self.asked.kinds if not same(again[0].get(n), rows[0][n])]
        if made and not same(together(name, [one.values for one in made]), number):
            self.limits.append(
                "the mart's query over all of today's rows gives another number"
                f" ({text_of(together(name, [one.values for one in made]))}):"
                " find out with: retailmart verify"
            )
        added_agrees = None if query.adds is None else same(added, number)
        rerun_agrees = None if not again else same(rerun, number)
        return Check(
            query.adds,
            len(addends),
            added,
            added_agrees,
            rerun,
            rerun_agrees,
            tuple(differing),
            bool(added_agrees or rerun_agrees),
        )

    def _compared(
        self, name: str, query: Traced, row: Mapping[str, Any], made: Sequence[MadeRow]
    ) -> Compared | None:
        """The fewest rows of the mart, by the first columns of its key, from which it comes out.

        `made` is the row as the query makes it of all rows.
        """
        if not query.compares:
            return None
        by = list(self.mart.key)
        month = self.asked.month(row)
        while by:
            by.pop()
            own = {one: row[one] for one in by}
            where = condition(own, self.asked.kinds)
            if not by:
                break
            others = self.asked.rows(own)
            found = self.tracing.made(self.mart, query, month, where)
            keys = frozenset[int]().union(*(one.keys for one in found))
            key_of_row = condition({one: row[one] for one in self.mart.key}, self.asked.kinds)
            again = self.tracing.again(self.mart, month, keys, key_of_row)
            if len(again) == 1 and same(again[0][name], row[name]):
                return Compared(tuple(by), own, len(others), tuple(others[:_COMPARED]), True)
        agrees = same(made[0].values[name], row[name])
        return Compared((), {}, sum(file.rows for file in self.asked.state.files), (), agrees)

    def _months(self, base: BaseRows, groups: Mapping[str | None, str]) -> frozenset[str] | None:
        """The months of the delivered rows; None where they have none."""
        if None not in groups:
            return frozenset(str(month) for month in groups)
        found = {str(row[MONTH]) for _, row in base.rows.values() if row.get(MONTH)}
        return frozenset(found) or None

    # what the ledger and the archive say

    def _asked(
        self,
        chosen: Mapping[str, Any],
        query: Traced,
        base: BaseRows,
        months: frozenset[str] | None,
        number: Any,
    ) -> tuple[_Known, Missing]:
        feeds = self.tracing.feeds_below(self.mart)
        ids = {int(row[FILE_ID]) for _, row in base.rows.values() if row.get(FILE_ID)}
        archive = store_at(self.project, self.project.settings.archive)

        def read(view: LedgerView) -> tuple[_Known, dict[str, tuple[Item, ...]]]:
            ledger, history = view.ledger, History(view.ledger)
            files = {file.file_id: file for file in ledger.files.among(ids)}
            some = list(files.values())[:_FILES]
            known = _Known(
                files,
                {file_id: history.delivery(file) for file_id, file in files.items()},
                {f.file_id: list(archived_copies(ledger, archive, f.sha256)) for f in some},
                tuple(history.corrections(list(files.values()), feeds, months)),
            )
            return known, open_items(self.engine, ledger, self.pinned, feeds)

        known, items = view_ledger(self.project, read)
        if len(known.files) > _FILES:
            self.limits.append(
                f"the number is of {number_of(len(known.files), 'file')}; lines are looked up in"
                f" the first {_FILES}"
            )
        missing = missing_rows(self.tracing, self.asked, chosen, query, items, number, self.limits)
        return known, missing

    def _lines(self, base: BaseRows, known: _Known) -> dict[int, Line]:
        finder = LineFinder(
            self.engine, self.scratch, known.copies, self.project.settings.keep.archive
        )
        by_file: dict[tuple[str, int], dict[int, str | None]] = {}
        for key, (name, row) in base.rows.items():
            if name in self.project.feeds:
                by_file.setdefault((name, int(row[FILE_ID])), {})[key] = row.get(ORIGIN)
        lines: dict[int, Line] = {}
        shown: set[str] = set()
        for (name, file_id), keys in by_file.items():
            file = known.files.get(file_id)
            if file is None or file_id not in known.copies:
                continue
            if name not in shown:
                shown.add(name)
                self._show_raw(name)
            found = finder.find(held(self.project.feeds[name], self.pinned), file, keys)
            if isinstance(found, str):
                self.limits.append(f"{file.shown}: the lines are not known: it {found}")
                continue
            lines |= found
            if lost := len(keys) - len(found):
                self.limits.append(
                    f"{file.shown}: {number_of(lost, 'row')} can't be found again in the archived"
                    " file"
                )
        return lines

    def _show_raw(self, name: str) -> None:
        state = self.tracing.work.inputs.raw(name)[1]
        numbers = range(len(state.files))
        self.engine.keyed(rows_of(name), state, self.tracing.tag(name), numbers)

    def _used(
        self,
        base: BaseRows,
        made: Sequence[MadeRow],
        known: _Known,
        lines: Mapping[int, Line],
    ) -> tuple[tuple[UsedRow, ...], tuple[Addend, ...]]:
        rows: list[UsedRow] = []
        places: dict[int, int] = {}

        def order(key: int) -> tuple[str, int, int, int]:
            name, row = base.rows[key]
            line = lines.get(key)
            return name, int(row.get(FILE_ID) or 0), line.line if line else 0, key

        for key in sorted(base.rows, key=order):
            name, row = base.rows[key]
            places[key] = len(rows)
            delivery = known.deliveries.get(int(row.get(FILE_ID) or 0))
            line = lines.get(key)
            rows.append(
                UsedRow(
                    name,
                    row,
                    delivery.file if delivery else None,
                    line.line if line else None,
                    line.raw if line else None,
                    delivery.run if delivery else None,
                    row.get(ORIGIN),
                    row.get(VALID_FROM),
                    row.get(VALID_TO),
                )
            )
        addends = [
            Addend(amount, tuple(sorted(places[k] for k in base.under(keys) if k in places)))
            for one in made
            for keys, amount in one.addends
        ]
        addends.sort(key=lambda one: one.rows)
        if sum(len(keys) for keys in base.keys.values()) > len(rows):
            self.limits.append(f"the first {number_of(len(rows), 'row')} are listed")
        return tuple(rows), tuple(addends[:_LISTED])

    def _deliveries(
        self, base: BaseRows, known: _Known, made: Sequence[MadeRow]
    ) -> tuple[Delivery, ...]:
        """The files, each with how many rows the number has of it, and what they add to it."""
        rows: dict[int, int] = {}
        for _, row in base.rows.values():
            if row.get(FILE_ID):
                rows[int(row[FILE_ID])] = rows.get(int(row[FILE_ID]), 0) + 1
        amounts: dict[int, Any] = {}
        for one in made:
            for keys, amount in one.addends:
                files = {
                    int(base.rows[key][1][FILE_ID])
                    for key in base.under(keys)
                    if key in base.rows and base.rows[key][1].get(FILE_ID)
                }
                if len(files) == 1 and isinstance(amount, Decimal | int):
                    (file,) = files
                    amounts[file] = amounts.get(file, Decimal(0)) + amount
        return tuple(
            replace(known.deliveries[file], rows=count, amount=amounts.get(file))
            for file, count in sorted(rows.items())
            if file in known.deliveries
        )

    # what can't be traced, and what is not there

    def _untraceable(
        self,
        chosen: Mapping[str, Any],
        name: str,
        rows: list[dict[str, Any]],
        matches: int,
        why: str,
    ) -> Explanation:
        """As far as it goes: the query again over the month, and without each file in turn."""
        self.limits.append(f"the query's rows can't be told apart: {why}")
        groups = self._groups(chosen, rows)
        month, where = next(iter(groups.items()))
        number = together(name, rows)
        reads = self.tracing.work.reads[self.mart.name]
        self.tracing.show_rows(self.mart, month)
        again = self.tracing.without_file(self.mart, month, "", 0, where)
        rerun = together(name, again) if again else None
        counts: dict[int, tuple[str, int]] = {}
        for feed in sorted(reads & self.project.feeds.keys()):
            found = self.engine.rows(
                f"SELECT {FILE_ID}, count(*) FROM {quoted(rows_of(feed))} GROUP BY 1 ORDER BY 1"
            )
            counts |= {int(file): (feed, int(count)) for file, count in found}
        amounts: dict[int, Any] = {}
        if len(counts) <= _LEFT_OUT and isinstance(number, Decimal | int):
            for file, (feed, _) in counts.items():
                left = self.tracing.without_file(self.mart, month, feed, file, where)
                rest = together(name, left) if left else 0
                amounts[file] = number - (rest or 0)
            self.limits.append(
                "the amount of a file is by how much the number is less without the file"
            )

        def read(view: LedgerView) -> list[Delivery]:
            history = History(view.ledger)
            return [history.delivery(file) for file in view.ledger.files.among(counts)]

        deliveries = tuple(
            replace(one, rows=counts[one.file_id][1], amount=amounts.get(one.file_id))
            for one in view_ledger(self.project, read)
            if amounts.get(one.file_id, 1)
        )
        agrees = same(rerun, number)
        empty = self._of_nothing(chosen, name, refused=False)
        return replace(
            empty,
            number=number,
            row=rows[0] if matches == 1 else {},
            matches=matches,
            explained=len(rows),
            deliveries=deliveries,
            check=Check(rerun=rerun, rerun_agrees=agrees, agrees=agrees),
            limits=tuple(self.limits),
        )

    def _of_nothing(
        self, chosen: Mapping[str, Any], name: str, *, refused: bool = True
    ) -> Explanation:
        """The answer where the mart has no such row."""
        missing, corrections = Missing(), tuple[Correction, ...]()
        if refused:
            month = self.mart.month
            months = frozenset([str(chosen[month])]) if month and chosen.get(month) else None
            try:
                query = self.tracing.of(self.mart, name)
                known, missing = self._asked(chosen, query, BaseRows(0), months, None)
                corrections = known.corrections
            except Untraceable as why:
                self.limits.append(f"whether refused rows would count is not known: it {why}")
        return Explanation(
            mart=self.mart.name,
            about=self.mart.about,
            key=dict(chosen),
            column=name,
            number=None,
            row={},
            matches=0,
            explained=0,
            as_of=self.tracing.work.moments[self.mart.name],
            query=self.mart.query,
            variables=self._variables(),
            used={},
            rows=(),
            addends=(),
            deliveries=(),
            through={},
            compares=(),
            compared=None,
            refused=missing.cells,
            repaired=missing.repaired,
            unreadable=missing.unreadable,
            corrections=corrections,
            check=Check(),
            limits=tuple(self.limits),
        )

    def _variables(self) -> dict[str, Any]:
        """The variables that the query reads, with their values."""
        values: dict[str, Any] = {
            name.lower(): value for name, value in self.project.variables.items()
        }
        values["as_of"] = self.tracing.work.moments[self.mart.name]
        return {name: values.get(name) for name in sorted(self.mart.reads_variables)}
