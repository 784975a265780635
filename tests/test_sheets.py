"""What goes out to a spreadsheet comes back as the same text, and can do no harm there."""

from __future__ import annotations

import sys
import zipfile
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retailmart.errors import RetailmartError, SettingsError
from retailmart.sheets import (
    LONGEST_CELL,
    armed,
    defused,
    is_holdable,
    read_sheet,
    seen,
    text_of,
    write_sheet,
)

_CHARGED = st.text(alphabet="=+-@'\t\r\n ＝12.ae", max_size=8)


@given(st.one_of(st.text(), _CHARGED))
def test_a_defused_cell_comes_back_as_it_was(cell: str) -> None:
    """Whatever a cell says, and however many apostrophes it begins with."""
    assert armed(defused(cell)) == cell


@given(st.one_of(st.text(), _CHARGED))
def test_no_defused_cell_begins_a_formula(cell: str) -> None:
    """But for plain numbers, what a spreadsheet runs has an apostrophe before it."""
    shown = defused(cell)
    if shown.strip()[:1] in set("=@"):
        raise AssertionError(shown)
    if shown.lstrip()[:1] in set("+-"):
        float(shown)


@pytest.mark.parametrize("cell", ["-5", "+12.50", "-.5", "12", "tea", "", "a=b", "1-2"])
def test_numbers_and_words_stay_as_they_are(cell: str) -> None:
    """People repair numbers, not texts that look like numbers."""
    assert defused(cell) == cell


@pytest.mark.parametrize("cell", ["=1+1", "@x", "-", "-1-1", "+A1", "\t1", "\r=x", " =x", "＝x"])
def test_what_could_be_a_formula_is_defused(cell: str) -> None:
    """An apostrophe in front makes it a text."""
    assert defused(cell) == f"'{cell}"


def test_an_apostrophe_of_peoples_own_stays() -> None:
    """Only what `defused` has put there is taken off."""
    assert armed("'tis") == "'tis"
    assert armed("'5") == "'5"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (12, "12"),
        (12.1, "12.1"),
        (12.100000000000001, "12.1"),
        (0.1 + 0.2, "0.3"),
        (5.0, "5"),
        (1e20, "100000000000000000000"),
        (-0.5, "-0.5"),
        (True, "true"),
        (date(2024, 2, 28), "2024-02-28"),
        (datetime(2024, 2, 28), "2024-02-28"),
        (datetime(2024, 2, 28, 18, 30), "2024-02-28T18:30:00"),
        (datetime(2024, 2, 28, 18, 29, 59, 999999), "2024-02-28T18:30:00"),
        (datetime(2024, 2, 28, 18, 30, 0, 250000), "2024-02-28T18:30:00.250"),
        (time(18, 30), "18:30:00"),
        ("007", "007"),
    ],
)
def test_what_a_spreadsheet_typed_becomes_what_a_till_writes(cell: Any, text: str) -> None:
    """Dates are ISO, decimals have no float noise, texts stay."""
    assert text_of(cell) == text


def test_midnight_is_a_time_where_times_are_meant() -> None:
    """A column of times would not take a bare date."""
    assert text_of(datetime(2024, 2, 28), is_moment=True) == "2024-02-28T00:00:00"


ROWS = [
    ["_origin", "name", "price"],
    ["1#3", 'café, "x"\ny', "12.50"],
    ["1#4", "'=1+1", "007"],
    ["1#5", "", "2024-02-31"],
    ["1#6", "#N/A", "=oops"],
]


@pytest.mark.parametrize("name", ["out.csv", "out.xlsx", "OUT.XLSX"])
def test_a_sheet_gives_back_what_was_written(tmp_path: Path, name: str) -> None:
    """All cells are texts, in both kinds of file."""
    assert write_sheet(tmp_path / name, ROWS) == 4
    sheet = read_sheet(tmp_path / name, "_origin")
    assert sheet.columns == tuple(ROWS[0])
    assert [[text_of(cell) for cell in row.cells] for row in sheet.rows] == ROWS[1:]
    assert [row.number for row in sheet.rows] == [2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_however_it_was_saved(tmp_path: Path, delimiter: str, encoding: str) -> None:
    """Spreadsheets save in their country's way; the header tells which."""
    write_sheet(tmp_path / "out.csv", ROWS, delimiter=delimiter, encoding=encoding)
    sheet = read_sheet(tmp_path / "out.csv", "_origin", ["cp1252"])
    assert [list(row.cells) for row in sheet.rows] == ROWS[1:]


def test_a_workbook_holds_texts_and_runs_nothing(tmp_path: Path) -> None:
    """Even a cell that slipped through as =… is a text, and what is typed there stays one."""
    write_sheet(tmp_path / "out.xlsx", ROWS)
    book = openpyxl.load_workbook(tmp_path / "out.xlsx")
    cells = [cell for row in book.worksheets[0].iter_rows() for cell in row]
    assert {cell.data_type for cell in cells if cell.value is not None} == {"s"}
    assert {cell.number_format for cell in cells} == {"@"}


def test_a_workbook_saved_by_hand_is_read(tmp_path: Path) -> None:
    """Typed cells, blank columns and rows, and a sheet before ours."""
    book = openpyxl.Workbook()
    book.worksheets[0].append(["notes"])
    sheet = book.create_sheet("work")
    sheet.append(["_Origin", "day", "price", None])
    sheet.append(["1#3", datetime(2024, 2, 28), 12.5, None])
    sheet.append([None, None, None, None])
    sheet.append(["1#4", "#N/A", 3, "beside"])
    book.save(tmp_path / "out.xlsx")
    found = read_sheet(tmp_path / "out.xlsx", "_origin")
    assert found.columns == ("_Origin", "day", "price")
    cells = [[text_of(cell) for cell in row.cells] for row in found.rows]
    assert cells == [["1#3", "2024-02-28", "12.5"], ["", "", ""], ["1#4", "#N/A", "3", "beside"]]


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    """It may be a sheet that somebody has half repaired."""
    path = tmp_path / "out.csv"
    path.write_text("work")
    with pytest.raises(RetailmartError, match="is there already"):
        write_sheet(path, ROWS)
    assert path.read_text() == "work"


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """A sheet appears as a whole or not at all."""
    with pytest.raises(SettingsError, match=r"no \.csv or \.xlsx"):
        write_sheet(tmp_path / "out.ods", ROWS)
    with pytest.raises(RetailmartError, match="is not there"):
        write_sheet(tmp_path / "no" / "out.csv", ROWS)

    def failing() -> Any:
        yield ROWS[0]
        raise ValueError("broke off")

    for name in ("out.csv", "out.xlsx"):
        with pytest.raises(ValueError, match="broke off"):
            write_sheet(tmp_path / name, failing())
    assert list(tmp_path.iterdir()) == []


def test_a_workbook_has_room_for_so_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than a workbook takes are told before anybody finds some missing."""
    monkeypatch.setattr("retailmart.sheets._MOST_ROWS", 4)
    with pytest.raises(RetailmartError, match="no more than 4 rows"):
        write_sheet(tmp_path / "out.xlsx", ROWS)
    assert write_sheet(tmp_path / "out.xlsx", ROWS[:4]) == 3


def test_without_openpyxl_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CSV goes without it."""
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(SettingsError) as told:
        write_sheet(tmp_path / "out.xlsx", ROWS)
    assert "pip install '.[xlsx]'" in str(told.value)
    assert write_sheet(tmp_path / "out.csv", ROWS) == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"_origin,a\n1#2,x\n"])
def test_a_damaged_workbook_is_told(tmp_path: Path, content: bytes) -> None:
    """No traceback for a file that only has the name of a workbook."""
    (tmp_path / "in.xlsx").write_bytes(content)
    with pytest.raises(RetailmartError, match="no workbook that can be read"):
        read_sheet(tmp_path / "in.xlsx", "_origin")


def test_a_workbook_with_damaged_rows_is_told(tmp_path: Path) -> None:
    """The zip is whole and its sheet is not."""
    write_sheet(tmp_path / "in.xlsx", ROWS)
    with zipfile.ZipFile(tmp_path / "in.xlsx") as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with zipfile.ZipFile(tmp_path / "in.xlsx", "w") as book:
        for name, part in parts.items():
            book.writestr(name, part[:-300] if name.endswith("sheet1.xml") else part)
    with pytest.raises(RetailmartError, match="no workbook that can be read"):
        read_sheet(tmp_path / "in.xlsx", "_origin")


def test_a_sheet_without_the_wanted_column_is_told(tmp_path: Path) -> None:
    """What lacks it was never exported."""
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RetailmartError, match="has no column _origin"):
        read_sheet(tmp_path / "in.csv", "_origin")
    (tmp_path / "in.csv").write_bytes(b"caf\xe9\n")
    with pytest.raises(RetailmartError, match="has no column _origin"):
        read_sheet(tmp_path / "in.csv", "_origin")
    with pytest.raises(RetailmartError, match="there is no file"):
        read_sheet(tmp_path / "nowhere.csv", "_origin")


def test_texts_for_eyes_are_short_and_printable() -> None:
    """Control characters are shown, and no cell is longer than a workbook takes."""
    assert seen("a\x00b\x1b") == "a\\x00b\\x1b"
    assert len(seen("x" * 100_000)) == LONGEST_CELL + 1


@pytest.mark.parametrize("cell", ["a\x00", "\x1b[2J", "x" * (LONGEST_CELL + 1)])
def test_what_no_sheet_holds(cell: str, tmp_path: Path) -> None:
    """Such a row goes out with its raw text for eyes only."""
    assert not is_holdable(cell, tmp_path / "out.csv")
    assert not is_holdable(cell, tmp_path / "out.xlsx")


@pytest.mark.parametrize("cell", ["a\r\nb", "_x0041_"])
def test_what_workbooks_change(cell: str, tmp_path: Path) -> None:
    """XML drops returns, and Excel reads its own escapes."""
    assert is_holdable(cell, tmp_path / "out.csv")
    assert not is_holdable(cell, tmp_path / "out.xlsx")


@settings(max_examples=25)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_holdable_cells_come_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    """In a workbook and in a CSV, written defused."""
    folder = tmp_path_factory.mktemp("any")
    for name in ("out.csv", "out.xlsx"):
        path = folder / name
        held = [cell for cell in cells if is_holdable(cell, path)]
        write_sheet(path, [["_origin", *"abcde"[: len(held)]], ["1#2", *map(defused, held)]])
        (row,) = read_sheet(path, "_origin").rows
        assert [armed(text_of(cell)) for cell in row.cells[1:]] == held
