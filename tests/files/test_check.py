"""Which files are loaded, how they are read, and what people are told of the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import CsvBroken
from retailmart.feeds.load_part import csv_shape
from retailmart.feeds.quarantine import places_of
from retailmart.files.check import check, check_content, clean
from retailmart.files.checked import CheckedFile, ErrorFolder, Layout, Refusal
from retailmart.files.discover import StagedCopy
from retailmart.files.header import read_header
from retailmart.files.records import Record
from retailmart.files.scan import Scan
from retailmart.files.staged import here, spans
from retailmart.project import Feed
from retailmart.project.feed import Column
from retailmart.project.types import ColumnType
from retailmart.storage import Entry, EntryKind
from tests.support.amount import tries
from tests.support.strict_csv import strict_records


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
            "lacks the columns customer_id, total_cost",
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
    engine = DuckDBEngine([], scratch, threads=1)
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
    assert (verdict.cleaned, verdict.records, len(verdict.malformed)) == (cleaned, 1, 0)
    assert (verdict.readable == verdict.delivered) == (not cleaned)


def test_flawed_records_stand_apart(scratch: Path) -> None:
    """They are counted, told by line and raw text, and not in what the engine reads."""
    content = b"a,b\n1,2\n\n3\n\xff,4\n5,6\n"
    verdict = checked(scratch, content, feed_of(column("a"), column("b")))
    assert isinstance(verdict, CheckedFile)
    assert verdict.records == 4
    told = [
        (malformed.line, malformed.raw, malformed.parse_error.rule)
        for malformed in verdict.malformed
    ]
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
    assert len(rows) + len(verdict.malformed) == verdict.records
    return rows


def cells(engine: DuckDBEngine, file: CheckedFile) -> list[tuple[str, ...]]:
    shape = csv_shape(file)
    delivered = engine.records({1: file.readable}, shape, numbered=True)
    texts = ", ".join(f"c{n}" for n in range(shape.columns))
    return engine.rows(f"SELECT {texts} FROM {delivered} ORDER BY _row")


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


def by_a_strict_reader(content: bytes, delimiter: str, width: int) -> list[tuple[str, ...]]:
    """The rows below the header that are sound and of the right width."""
    found = list(strict_records(content.decode("utf-8-sig"), delimiter))
    return [r.cells for r in found[1:] if r.cells is not None and len(r.cells) == width]


@settings(max_examples=tries(200, 2_000))
@given(data=st.data(), delimiter=st.sampled_from(",,;|\t"), width=st.integers(1, 3))
def test_the_engine_reads_what_a_strict_reader_reads(
    scratch: Path, engine: DuckDBEngine, data: st.DataObject, delimiter: str, width: int
) -> None:
    """Cell by cell and in order; where the two would differ, the file is written anew first."""
    names = ["a", "b", "c"][:width]
    content = f"{delimiter.join(names)}\n{data.draw(tables(delimiter, width))}".encode()
    feed = feed_of(*map(column, names), delimiter=delimiter)
    assert as_loaded(scratch, engine, content, feed) == by_a_strict_reader(
        content, delimiter, width
    )


def read_with_lines(
    folder: Path, engine: DuckDBEngine, content: str, feed: Feed
) -> list[tuple[int, tuple[str, ...]]]:
    """Each row's line and cells as a run would tell and load them."""
    verdict = checked(folder, content.encode(), feed)
    assert isinstance(verdict, CheckedFile), verdict
    rows = cells(engine, verdict)
    return [(place.line, row) for place, row in zip(places_of(verdict), rows, strict=True)]


PAIR = feed_of(column("a"), column("b"))
DIALECTS = {
    "preamble": (replace(PAIR, skip_lines=2), "Report of till\n,,\na,b\n1,2\n3,4\n", (4, 5)),
    "preamble with quotes": (replace(PAIR, skip_lines=1), '"open\na,b\n1,2\n3,4\n', (3, 4)),
    "preamble and blank lines": (replace(PAIR, skip_lines=2), "x\n\n\na,b\n1,2\n\n3,4\n", (5, 7)),
    "comments": (replace(PAIR, comment="#"), "# x\na,b\n1,2\n#,#\n3,4\n", (3, 5)),
    "a sign for comments, and none": (replace(PAIR, comment="--"), "a,b\n1,2\n3,4\n", (2, 3)),
    "told by sep=": (PAIR, "sep=;\na;b\n1;2\n3;4\n", (3, 4)),
    "told by quoted sep=": (PAIR, '\ufeff"sep=|"\r\na|b\r\n1|2\r\n3|4\r\n', (3, 4)),
    "no header": (replace(PAIR, header=False), "1,2\n3,4\n", (1, 2)),
    "no header, BOM": (replace(PAIR, header=False), "\ufeff1,2\n3,4\n", (1, 2)),
    "no header, odd": (replace(PAIR, header=False), '\n1,2\n\n"3","4"\n', (2, 4)),
    "no header, preamble": (
        replace(PAIR, header=False, skip_lines=1),
        "till 7\n1,2\n3,4\n",
        (2, 3),
    ),
    "second delimiter": (replace(PAIR, delimiters=(",", "\t")), "a\tb\n1\t2\n3\t4\n", (2, 3)),
    "second delimiter, no header": (
        replace(PAIR, delimiters=(",", ";"), header=False),
        "1;2\n3;4\n",
        (1, 2),
    ),
    "other quotes": (replace(PAIR, quote="'"), "a,b\n'1',2\n3,'4'\n", (2, 3)),
    "escapes": (replace(PAIR, escape="\\"), 'a,b\n"1",2\n\\3,"4"\n', (2, 3)),
    "other quotes that are none": (replace(PAIR, quote="'"), "a,b\n1,2\n3,4\n", (2, 3)),
    "no quotes at all": (replace(PAIR, quote=""), "a,b\n1,2\n3,4\n", (2, 3)),
}


@pytest.mark.parametrize("case", DIALECTS.values(), ids=DIALECTS.keys())
def test_a_feeds_dialect_is_read(
    scratch: Path, engine: DuckDBEngine, case: tuple[Feed, str, tuple[int, int]]
) -> None:
    """The same two rows, however the feed's files are written, each with its line in the file."""
    feed, content, lines = case
    found = read_with_lines(scratch, engine, content, feed)
    assert found == [(lines[0], ("1", "2")), (lines[1], ("3", "4"))]


def test_quotes_are_text_where_the_feed_has_none(scratch: Path, engine: DuckDBEngine) -> None:
    """With `quote: ""` or another sign, a double quote never opens anything."""
    for feed in (replace(PAIR, quote=""), replace(PAIR, quote="'")):
        rows = read_with_lines(scratch, engine, 'a,b\n"1,2"\n"3,4\n', feed)
        assert rows == [(2, ('"1', '2"')), (3, ('"3', "4"))]


@pytest.mark.parametrize("name", ["preamble", "told by sep=", "no header", "second delimiter"])
def test_a_regular_file_of_any_dialect_is_cut_into_parts(
    scratch: Path, engine: DuckDBEngine, name: str
) -> None:
    """Each part gives its own rows, and their lines are those of the whole file."""
    feed, content, lines = DIALECTS[name]
    whole = checked(scratch, content.encode(), feed)
    assert isinstance(whole, CheckedFile)
    assert not whole.cleaned
    at = content.encode().index(b"3")
    found = []
    for span in spans(replace(whole, cuts=((at, lines[1] - 1),)), lambda _size: 2):
        assert span is not None
        part = here(whole.part(span), scratch, engine)
        rows = cells(engine, part)
        assert len(rows) == part.records == 1
        found += [(p.line, row) for p, row in zip(places_of(part), rows, strict=True)]
    assert found == [(lines[0], ("1", "2")), (lines[1], ("3", "4"))]


def test_a_sheet_of_repaired_rows_is_plain_whatever_the_feed_says(
    scratch: Path, engine: DuckDBEngine
) -> None:
    """It has a header and no preamble, which the feed's own files need not have."""
    feed = replace(PAIR, header=False, skip_lines=3, quote="'", delimiters=(";", ","), comment="1")
    verdict = checked(scratch, b'_origin,a,b\n1#2,"x",y\n', feed)
    assert isinstance(verdict, CheckedFile)
    assert verdict.layout.is_replay
    assert cells(engine, verdict) == [("1#2", "x", "y")]


MANY = feed_of(column("day"), column("store"), column("total"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "day;store;total\n1;2;3\n",
            'separated by ; (set `delimiter: [",", ";"]` in feeds/things.yml: each file has one of',
        ),
        ("day\tstore\ttotal\n1\t2\t3\n", r'separated by tabs (set `delimiter: [",", "\t"]`'),
        ('"day"|"store"|"total"\n1|2|3\n', "separated by |"),
        ("2024-01-05,7,9.50\n2024-01-06,7,9.50\n", "seems to be a row (set `header: false`"),
        ("Report\n\nday,store,total\n1,2,3\n", "seems to be line 3 (set `skip_lines: 2`"),
        ("shop,till\n1,2\n", "lacks the columns day, store, total"),
    ],
)
def test_a_refused_file_names_the_likely_cause(scratch: Path, content: str, words: str) -> None:
    """What is wrong with the whole file is said, with the setting that fixes it."""
    verdict = checked(scratch, content.encode(), MANY)
    assert isinstance(verdict, Refusal)
    assert words in verdict.message
    assert "did you mean" not in verdict.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "Day,STORE,total\n1,2,3\n",
            "begins with a header, which feeds/things.yml says it has not",
        ),
        ("1;2;3\n4;5;6\n", 'seems to be separated by ; (set `delimiter: [",", ";"]`'),
    ],
)
def test_a_file_that_is_not_without_a_header_is_refused(
    scratch: Path, content: str, words: str
) -> None:
    """A header is never loaded as a row, and a line that is not cut at all is no row."""
    verdict = checked(scratch, content.encode(), replace(MANY, header=False))
    assert isinstance(verdict, Refusal)
    assert words in verdict.message


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("sales_1.txt", "sales*.txt", "csv"),
        ("a/sales_1.TSV.gz", "sales*", "csv"),
        ("sales_1.dat", "sales*.dat", "csv"),
        ("notes.txt", "sales*.txt", ErrorFolder.WRONG_TYPE),
        ("notes.csv", "sales*.txt", ErrorFolder.UNKNOWN),
        ("sales.xml", "sales*", ErrorFolder.WRONG_TYPE),
    ],
)
def test_other_endings_are_csv_where_a_feed_claims_them(
    scratch: Path, path: str, pattern: str, expected: str | ErrorFolder
) -> None:
    """A text that no feed claims is no CSV of anybody's."""
    content = b"a,b\n1,2\n"
    copy = scratch / "landed.csv"
    copy.write_bytes(content)
    scan = Scan()
    scan.feed(content)
    entry = Entry(path, path, EntryKind.FILE, len(content), 0, "1")
    shot = StagedCopy(entry, "0", copy, scan)
    found = check(shot, [replace(PAIR, files=(pattern,))])
    if isinstance(found, Refusal):
        assert found.folder is expected
    else:
        assert found.feed.format == expected
