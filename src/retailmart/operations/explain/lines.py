"""The line of each row in the file that brought it: the archived file is read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retailmart.engines.duckdb.tracing import KEY, TracingEngine
from retailmart.errors import CsvBroken, RetailmartError
from retailmart.feeds.load_part import numbered
from retailmart.feeds.quarantine import delivered, places_of, seek
from retailmart.feeds.rows import RowSql
from retailmart.files.archive import kept_for
from retailmart.files.check import clean
from retailmart.files.checked import CheckedFile, LandedCopy, Refusal
from retailmart.files.records import readable
from retailmart.files.staged import CheckCopy
from retailmart.lake.layout import ORIGIN
from retailmart.ledger.values import LedgerFile
from retailmart.operations.explain.trace import rows_of
from retailmart.project.feed import Feed
from retailmart.project.settings import Days
from retailmart.tables import ROW, quoted

_CHOSEN: Final = "rows that were chosen"


@dataclass(frozen=True)
class Line:
    """Where a row is in its file: the line, from 1 (in JSON the record), and its text there."""

    line: int
    raw: str


@dataclass(frozen=True)
class LineFinder:
    """Finds lines in archived files. `copies` are where each file's content is."""

    engine: TracingEngine
    scratch: Path
    copies: Mapping[int, Sequence[LandedCopy]]
    keep: Days

    def find(
        self, feed: Feed, file: LedgerFile, keys: Mapping[int, str | None]
    ) -> dict[int, Line] | str:
        """The lines of the rows with these keys, which `rows of FEED` shows; or why there are none.

        `keys` also gives the refused row that each row repairs, if it does. Of equal rows any is as
        good as another: each gets a line of its own.
        """
        checked = self._checked(feed, file)
        if isinstance(checked, str):
            return checked
        if checked.layout.is_replay:
            return _repaired(checked, keys)
        try:
            return self._found(feed, file, checked, keys)
        except CsvBroken:
            cleaned = clean(checked.delivered, feed, checked.layout)
            if isinstance(cleaned, Refusal):
                return cleaned.message
            return self._found(feed, file, cleaned, keys)

    def _checked(self, feed: Feed, file: LedgerFile) -> CheckedFile | str:
        work = CheckCopy(feed, file.path, self.scratch)
        found = (work(self.engine, copy) for copy in self.copies.get(file.file_id, ()))
        try:
            checked = next((one for one in found if one is not None), None)
        except RetailmartError as error:
            return error.message
        if checked is None:
            return f"is no longer in the archive{kept_for(self.keep)}"
        if isinstance(checked, Refusal):
            return f"would be refused now: {checked.message}"
        return checked

    def _found(
        self, feed: Feed, file: LedgerFile, checked: CheckedFile, keys: Iterable[int]
    ) -> dict[int, Line]:
        engine, sql = self.engine, RowSql(feed, True, careful=True)
        columns = [column.name for column in feed.columns]
        columns += [feed.extra_columns] if feed.extra_columns else []
        names = ", ".join(map(quoted, columns))
        key = quoted(KEY)
        engine.hold(_CHOSEN, keys)
        wanted = (
            f"SELECT {key}, {names}, row_number() OVER (PARTITION BY {names} ORDER BY {key}) AS n"
            f" FROM {quoted(rows_of(feed.name))}"
            f" WHERE {key} IN (SELECT {key} FROM {quoted(_CHOSEN)})"
        )
        records = numbered(engine, {file.file_id: checked})
        same = " AND ".join(f"w.{n} IS NOT DISTINCT FROM a.{n}" for n in map(quoted, columns))
        # Only records like the wanted rows are counted off: sorting all of them takes longer.
        alike = (
            f"SELECT a.{ROW}, {names} FROM {sql.typed(records, checked.layout)} a"
            f" SEMI JOIN ({wanted}) w ON {same} WHERE NOT ({sql.refused(checked.layout)})"
        )
        accepted = (
            f"SELECT {ROW}, {names}, row_number() OVER (PARTITION BY {names} ORDER BY {ROW}) AS n"
            f" FROM ({alike})"
        )
        found = engine.rows(
            f"SELECT a.{ROW}, w.{key} FROM ({wanted}) w JOIN ({accepted}) a"
            f" ON {same} AND w.n = a.n ORDER BY a.{ROW}"
        )
        engine.forget(records)
        lines = _lines(checked, [row for row, _ in found])
        return {row_key: lines[row] for row, row_key in found}


def _lines(checked: CheckedFile, rows: Sequence[int]) -> dict[int, Line]:
    """The lines of some records by their numbers, which ascend."""
    is_regular = checked.json is None and not checked.cleaned
    if not is_regular or checked.lines - checked.skip != checked.records:
        places = places_of(checked)
        found = ((row, seek(places, row)) for row in rows)
        return {row: Line(place.line, place.raw) for row, place in found}
    # Each line is a record: they need not be cut into cells.
    wanted, lines = set(rows), {}
    encoding = checked.feed.encoding
    with checked.delivered.open(encoding=encoding, errors="surrogateescape", newline="") as text:
        for row, line in enumerate(text, 1 - checked.skip):
            if row in wanted:
                lines[row] = Line(row + checked.skip, readable(line.rstrip("\r\n")))
    return lines


def _repaired(checked: CheckedFile, keys: Mapping[int, str | None]) -> dict[int, Line]:
    """The lines of a repaired sheet, by the refused rows that they name."""
    by_origin = {origin: key for key, origin in keys.items()}
    place = checked.layout.columns.index(ORIGIN)
    lines = {}
    for record, parse_error in delivered(checked):
        if parse_error is None and (key := by_origin.get(record.cells[place].strip())) is not None:
            lines[key] = Line(record.line, readable(record.raw))
    return lines
