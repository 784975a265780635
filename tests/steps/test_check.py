"""Which files are loaded, how they are read, and what people are told of the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retailmart.engines import CsvShape
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import CsvBroken
from retailmart.project import Feed
from retailmart.project.feed import Column
from retailmart.project.types import ColumnType
from retailmart.steps.check import (
    CheckedFile,
    ErrorFolder,
    Layout,
    Refusal,
    check_content,
    clean,
    read_header,
)
from retailmart.steps.records import Record
from retailmart.steps.scan import Scan


def column(name: str, *aliases: str, mandatory: bool = True) -> Column:
    return Column(name, ColumnType("STRING"), mandatory, aliases, None)


def feed_of(*columns: Column, delimiter: str = ",", encoding: str = "utf-8") -> Feed:
    """A feed that keeps further columns and does not go by month."""
    return Feed("things", ("*.csv",), delimiter, encoding, columns, "more", None, None, ())


FEED = feed_of(
    column("customer_id", "Customer ID", "Kunde"),
    column("total_cost"),
    column("note", mandatory=False),
)


def header(*cells: str, feed: Feed = FEED) -> Layout | Refusal:
    return read_header(Record(1, feed.delimiter.join(cells), cells), feed)


@pytest.mark.parametrize(
    ("cells", "columns"),
    [
        (("customer_id", "total_cost"), ("customer_id", "total_cost")),
        (("total_cost", "note", "customer_id"), ("total_cost", "note", "customer_id")),
        ((" CUSTOMER_ID\t", "Total_Cost "), ("customer_id", "total_cost")),
        (("customer  id", "total_cost"), ("customer_id", "total_cost")),
        (("KUNDE", "total_cost"), ("customer_id", "total_cost")),
        (
            ("customer_id", "total_cost", " Payment Mode "),
            ("customer_id", "total_cost", "Payment Mode"),
        ),
        (
            ("customer_id", "", "total_cost", " "),
            ("customer_id", "unnamed_2", "total_cost", "unnamed_4"),
        ),
        (("customer_id", "total_cost", "x", "X"), ("customer_id", "total_cost", "x", "X")),
    ],
    ids=[
        "plain",
        "order",
        "case and padding",
        "alias",
        "other alias",
        "extra",
        "unnamed",
        "case of extras",
    ],
)
def test_a_header_is_matched(cells: tuple[str, ...], columns: tuple[str, ...]) -> None:
    """Columns are found in any order, case and padding, under any of their names."""
    assert header(*cells) == Layout(columns)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (("customer_id",), "lacks the column total_cost"),
        (("note", "x"), "lacks the columns customer_id, total_cost"),
        (("custmer_id", "total_cost"), "lacks the column customer_id; did you mean 'custmer_id'?"),
        (("customer_id", "total_cost", "Kunde"), "its header names customer_id more than once"),
        (("customer_id", "total_cost", "x", "x"), "its header names x more than once"),
        (("customer_id", "total_cost", "y", "y", "x", "x"), "its header names x, y more than once"),
        (("1", "1"), "lacks the columns customer_id, total_cost"),
        (
            ("customer_id;total_cost",),
            "lacks the columns customer_id, total_cost; it seems to be separated by ;"
            " (set `delimiter` of the feed)",
        ),
        (
            ("customer_id", "total_cost\0"),
            "its header is broken: the row holds NUL bytes; the file was damaged on its way",
        ),
    ],
)
def test_a_header_is_refused(cells: tuple[str, ...], words: str) -> None:
    """The message says what is missing or twice, and what was probably meant."""
    assert header(*cells) == Refusal(ErrorFolder.BAD_SCHEMA, words)


def test_an_unknown_name_far_from_all_is_no_hint() -> None:
    """Where nothing is near, no list of other names is poured out."""
    verdict = header("customer_id", "abc", "xyz")
    assert verdict == Refusal(ErrorFolder.BAD_SCHEMA, "lacks the column total_cost")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for contents."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def engine(scratch: Path) -> Iterator[DuckDBEngine]:
    """The default engine, which may read the contents."""
    engine = DuckDBEngine([scratch], scratch / "spill", threads=1)
    yield engine
    engine.close()


def checked(folder: Path, content: bytes, feed: Feed) -> CheckedFile | Refusal:
    path = folder / "content.csv"
    path.write_bytes(content)
    scan = Scan()
    scan.feed(content)
    return check_content(path, scan, feed, path.name)


@pytest.mark.parametrize(
    ("content", "cleaned"),
    [
        (b"a,b\n1,2\n", False),
        (b"a,b\r\n1,2", False),
        (b'a,b\n"1","2, 3"\n', False),
        ("\ufeffa,b\n1,é\n".encode(), False),
        (b"\na,b\n1,2\n", True),
        (b"a,b\n1,2\n\n", True),
        (b"a,b\r\n\r\n1,2\r\n", True),
        (b'a,b,"c\nd"\n1,2,3\n', True),
        (b"a,b\r1,2\r", True),
        (b'a,b\n"1" ,2\n', True),
    ],
)
def test_only_odd_files_are_written_anew(scratch: Path, content: bytes, cleaned: bool) -> None:
    """A regular file is read where it lies; one record is counted in each of these."""
    verdict = checked(scratch, content, feed_of(column("a"), column("b")))
    assert isinstance(verdict, CheckedFile)
    assert (verdict.cleaned, verdict.records, len(verdict.flawed)) == (cleaned, 1, 0)
    assert (verdict.readable == verdict.delivered) == (not cleaned)


def test_flawed_records_stand_apart(scratch: Path) -> None:
    """They are counted, told by line and raw text, and not in what the engine reads."""
    content = b"a,b\n1,2\n\n3\n\xff,4\n5,6\n"
    verdict = checked(scratch, content, feed_of(column("a"), column("b")))
    assert isinstance(verdict, CheckedFile)
    assert verdict.records == 4
    told = [(flawed.line, flawed.raw, flawed.flaw.rule) for flawed in verdict.flawed]
    assert told == [(4, "3", "columns"), (5, r"\xff,4", "encoding")]
    kept = list(csv.reader(io.StringIO(verdict.readable.read_text(), newline="")))
    assert kept[1:] == [["1", "2"], ["5", "6"]]


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("cp1252", b"a,b\n\x80,\xe9\n"),
        ("utf-16", "a,b\n€,é\n".encode("utf-16")),
        ("utf-16-le", "a,b\n€,é\n".encode("utf-16-le")),
    ],
)
def test_a_feeds_own_encoding_is_read(
    scratch: Path, engine: DuckDBEngine, encoding: str, content: bytes
) -> None:
    """Where the feed says so, other encodings are turned into what the engine reads."""
    feed = feed_of(column("a"), column("b"), encoding=encoding)
    assert as_loaded(scratch, engine, content, feed) == [("€", "é")]


def as_loaded(
    folder: Path, engine: DuckDBEngine, content: bytes, feed: Feed
) -> list[tuple[str, ...]]:
    """The cells the engine gives of what `check` lets through, as load reads it."""
    verdict = checked(folder, content, feed)
    if isinstance(verdict, Refusal):
        return []
    try:
        rows = cells(engine, verdict)
    except CsvBroken:
        again = clean(verdict.delivered, feed, verdict.layout)
        assert isinstance(again, CheckedFile)
        verdict, rows = again, cells(engine, again)
    assert len(rows) + len(verdict.flawed) == verdict.records
    return rows


def cells(engine: DuckDBEngine, file: CheckedFile) -> list[tuple[str, ...]]:
    delimiter = "," if file.cleaned else file.feed.delimiter
    shape = CsvShape(len(file.layout.columns), delimiter, file.quoted, file.cleaned)
    rows = engine.rows(f"SELECT * FROM {engine.numbered_csv(file.readable, shape)} ORDER BY _row")
    return [tuple(row[:-1]) for row in rows]


PIECES = st.sampled_from(
    [
        *',,;|\t\n\n\r  ab1é\\\'#"""',
        '""',
        "\r\n",
        "\u00a0",
        "\u2028",
        "\x85",
        "\x0b",
        "\x1c",
        "\ufeff",
        "🫖",
    ]
)
MESS = st.lists(PIECES, max_size=12).map("".join)


@st.composite
def tables(draw: st.DrawFn, delimiter: str, width: int) -> str:
    """Rows of about the right width, some cells quoted, some a mess, or a mess altogether."""
    if draw(st.integers(0, 4)) == 0:
        return draw(MESS)
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row = []
        for _ in range(width):
            text = draw(MESS if draw(st.booleans()) else st.sampled_from(["a", "1", "", " "]))
            quoted = '"' + text.replace('"', '""') + '"'
            bare = text.replace(delimiter, "").replace("\n", "").replace("\r", "")
            row.append(draw(st.sampled_from([quoted, bare, bare, f" {quoted}", f"{quoted} "])))
        rows.append(delimiter.join(row))
    return end.join(rows) + draw(st.sampled_from(["", end]))


def by_python(content: bytes, delimiter: str, width: int) -> list[tuple[str, ...]]:
    """The rows Python's csv finds below the header, those of the right width and whole."""
    lines = io.StringIO(content.decode("utf-8-sig"), newline="").readlines()
    found: Sequence[list[str]] = list(csv.reader(lines, delimiter=delimiter))
    # One line more joins the last record only where its quote is open.
    more = list(csv.reader([*lines, "x"], delimiter=delimiter))
    whole = found if len(more) > len(found) else found[:-1]
    rows = [tuple(cells) for cells in whole if cells]
    return [cells for cells in rows[1:] if len(cells) == width]


@settings(max_examples=2000, deadline=None, derandomize=True, database=None)
@given(data=st.data(), delimiter=st.sampled_from(",,;|\t"), width=st.integers(1, 3))
def test_the_engine_reads_what_python_reads(
    scratch: Path, engine: DuckDBEngine, data: st.DataObject, delimiter: str, width: int
) -> None:
    """Cell by cell and in order; where the two would differ, the file is written anew first."""
    names = ["a", "b", "c"][:width]
    content = f"{delimiter.join(names)}\n{data.draw(tables(delimiter, width))}".encode()
    feed = feed_of(*map(column, names), delimiter=delimiter)
    assert as_loaded(scratch, engine, content, feed) == by_python(content, delimiter, width)
