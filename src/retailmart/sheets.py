"""Tables that people open in a spreadsheet: CSV and XLSX, written whole and read as text.

A cell that a spreadsheet would take for a formula is defused with an apostrophe in front, and
`armed` removes it again: a text comes back as it went out.
"""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from retailmart.errors import MissingExtra, RetailmartError, SettingsError

# Full-width characters begin a formula in Chinese and Japanese spreadsheets.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_PLAIN_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", re.ASCII)
_WORKBOOKS = (".xlsx", ".xlsm")
_MOST_ROWS = 1_048_576
# What a cell of a workbook can hold: this many characters, and none of these.
LONGEST_CELL = 32_000
_LOST = re.compile("\r|_x[0-9A-Fa-f]{4}_")
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_DELIMITERS = ",;\t|"
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def defused(cell: str) -> str:
    """A cell's text in a form that no spreadsheet runs as a formula."""
    return f"'{cell}" if _is_charged(cell) else cell


def armed(cell: str) -> str:
    """The text that `defused` was given."""
    return cell[1:] if cell.startswith("'") and _is_charged(cell[1:]) else cell


def _is_charged(cell: str) -> bool:
    if cell.startswith("'"):
        return True
    begins = cell.startswith(_FORMULA) or cell.lstrip().startswith(_FORMULA)
    return begins and not _PLAIN_NUMBER.fullmatch(cell)


def seen(text: str) -> str:
    """A text for display: short enough for a cell, control characters shown as `\\xNN`."""
    shown = _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text[:LONGEST_CELL])
    return shown if len(text) <= LONGEST_CELL else f"{shown[:LONGEST_CELL]}…"


def is_holdable(cell: str, path: Path) -> bool:
    """Whether a sheet of this name returns a text as it was."""
    lost = is_workbook(path) and _LOST.search(cell)
    return len(cell) <= LONGEST_CELL and not lost and not _UNSEEN.search(cell)


def is_workbook(path: Path) -> bool:
    """Whether a name says that the file is a workbook."""
    return path.suffix.lower() in _WORKBOOKS


class CellError(str):
    """What a formula that cannot be computed shows, such as #REF!."""

    __slots__ = ()


@dataclass(frozen=True)
class SheetRow:
    """A row of a sheet: its number from 1, the header's included, and its cells as found."""

    number: int
    cells: tuple[Any, ...]


@dataclass(frozen=True)
class Sheet:
    """A table as it was found in a file."""

    columns: tuple[str, ...]
    rows: tuple[SheetRow, ...]


def write_sheet(
    path: Path, rows: Iterable[Sequence[str]], *, delimiter: str = ",", encoding: str = "utf-8"
) -> int:
    """Write rows, the header's first, as the file's name says. Returns how many follow it.

    The file appears as a whole or not at all. Raises RetailmartError if it exists already or cannot
    take the rows; delimiter and encoding are for CSV.
    """
    if path.exists():
        raise RetailmartError(
            f"{path} is there already, and may hold somebody's work", "Name another file"
        )
    if not path.parent.is_dir():
        raise RetailmartError(f"the folder {path.parent} is not there", "Create it first")
    partial = path.with_name(f".{path.name}.part")
    try:
        if is_workbook(path):
            count = _write_workbook(partial, rows)
        elif path.suffix.lower() == ".csv":
            count = _write_csv(partial, rows, delimiter, encoding)
        else:
            raise SettingsError([f"{path} is no .csv or .xlsx"], "Name a file of one of these")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write_csv(path: Path, rows: Iterable[Sequence[str]], delimiter: str, encoding: str) -> int:
    # Excel recognizes UTF-8 only by its byte order mark.
    encoding = "utf-8-sig" if encoding in ("utf-8", "utf8") else encoding
    count = -1
    with path.open("w", encoding=encoding, errors="backslashreplace", newline="") as text:
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def _write_workbook(path: Path, rows: Iterable[Sequence[str]]) -> int:
    openpyxl = _openpyxl()
    from openpyxl.cell import WriteOnlyCell

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("quarantine")
    sheet.freeze_panes = "A2"

    def as_text(text: str) -> Any:
        cell = WriteOnlyCell(sheet, text or None)
        # As text: 007 keeps its zeros, and what is typed here is not turned into a date.
        cell.number_format = "@"
        if text:
            cell.data_type = "s"
        return cell

    count = 0
    # Closed whatever happens: it writes to its own file as it goes.
    with closing(sheet):
        for row in rows:
            count += 1
            if count > _MOST_ROWS:
                raise RetailmartError(
                    f"a workbook holds no more than {_MOST_ROWS:,} rows", "Write a .csv file"
                )
            sheet.append([as_text(text) for text in row])
    book.save(path)
    return count - 1


def read_sheet(path: Path, wanted: str, encodings: Sequence[str] = ()) -> Sheet:
    """Read the table of a file whose header names `wanted`.

    CSV may have any usual delimiter, and be in UTF-8, UTF-16 with its mark or one of `encodings`.
    Raises RetailmartError if there is no such table.
    """
    if not path.is_file():
        raise RetailmartError(f"there is no file {path}")
    if is_workbook(path):
        found = _sheet_of_workbook(path, wanted)
    else:
        tables = _tables_of_csv(path, encodings)
        found = next((sheet for table in tables if (sheet := _sheet(table, wanted))), None)
    if found is None:
        raise RetailmartError(
            f"{path} has no column {wanted}, which tells where each row came from",
            "Repair what `retailmart quarantine export` wrote, and keep that column",
        )
    return found


def _sheet(table: Iterator[SheetRow], wanted: str) -> Sheet | None:
    header = next(table, None)
    names = [text_of(cell).strip() for cell in header.cells] if header else []
    if wanted not in (name.casefold() for name in names):
        return None
    while names and not names[-1]:
        names.pop()
    rows = (SheetRow(row.number, _cut(row.cells, len(names))) for row in table)
    return Sheet(tuple(names), tuple(rows))


def _cut(cells: Sequence[Any], width: int) -> tuple[Any, ...]:
    """As many cells as the header has, and more if those say something."""
    cells = [*cells, *[None] * (width - len(cells))]
    while len(cells) > width and cells[-1] in (None, ""):
        cells.pop()
    return tuple(cells)


def _tables_of_csv(path: Path, encodings: Sequence[str]) -> Iterator[Iterator[SheetRow]]:
    content = path.read_bytes()
    marked = next((name for mark, name in _BOMS.items() if content.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", *encodings]:
        try:
            text = content.decode(encoding)
        except UnicodeError:
            continue
        for delimiter in _DELIMITERS:
            yield _rows_of_csv(text, delimiter, path)


def _rows_of_csv(text: str, delimiter: str, path: Path) -> Iterator[SheetRow]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for number, cells in enumerate(reader, 1):
            yield SheetRow(number, tuple(cells))
    except csv.Error as error:
        raise RetailmartError(f"{path} cannot be read as CSV: {error}") from error


def _sheet_of_workbook(path: Path, wanted: str) -> Sheet | None:
    openpyxl = _openpyxl()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decorations that openpyxl does not keep
            with closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
                tables = (_rows_of_workbook(sheet) for sheet in book.worksheets)
                return next((sheet for table in tables if (sheet := _sheet(table, wanted))), None)
    except Exception as error:  # a damaged zip or XML fails in a dozen ways
        raise RetailmartError(
            f"{path} is no workbook that can be read: {error}", "Save it again as .xlsx or .csv"
        ) from error


def _rows_of_workbook(sheet: Any) -> Iterator[SheetRow]:
    for number, row in enumerate(sheet.iter_rows(), 1):
        values = (CellError(c.value) if c.data_type == "e" else c.value for c in row)
        yield SheetRow(number, tuple(values))


def _openpyxl() -> Any:
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "xlsx",
            f"Excel files need the package {error.name}, which is not installed",
            "or use a .csv file",
        ) from error
    return openpyxl


def text_of(cell: Any, *, is_moment: bool = False) -> str:
    """What a till would have written for a cell that a spreadsheet has typed.

    `is_moment` means that the column holds times: midnight is one, too.
    """
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        # Spreadsheets count to 15 digits and show no more; the rest is noise.
        return f"{Decimal(f'{cell:.15g}'):f}"
    if isinstance(cell, datetime):
        moment = cell + timedelta(microseconds=500)
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        if moment.time() == time() and not is_moment:
            return moment.date().isoformat()
        return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    if isinstance(cell, date | time):
        return cell.isoformat()
    return str(cell)
