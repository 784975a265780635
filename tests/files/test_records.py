"""Records with their line and raw text, read strictly."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from retailmart.files import records as module
from retailmart.files.records import Record, parse_error_of, readable, records
from retailmart.files.scan import LONGEST_RECORD
from retailmart.project import Feed
from retailmart.project.feed import Column
from retailmart.project.types import ColumnType
from tests.support.amount import SEED
from tests.support.strict_csv import strict_records


def feed(delimiter: str = ",", encoding: str = "utf-8") -> Feed:
    """A feed of one column."""
    column = Column("a", ColumnType("STRING"), True, (), None)
    return Feed("things", ("*.csv",), delimiter, encoding, (column,), None, None, None, ())


def read(folder: Path, content: bytes, kind: Feed | None = None) -> list[Record]:
    path = folder / "content.csv"
    path.write_bytes(content)
    return list(records(path, kind or feed()))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_record_knows_its_line_and_text(tmp_path: Path, end: bytes) -> None:
    """Blank lines are no records but count as lines; a quoted line end joins lines."""
    lines = [b"a,b", b"", b'1,"x', b'y"', b"", b"", b"2,z", b""]
    found = read(tmp_path, end.join(lines))
    assert [record.line for record in found] == [1, 3, 7]
    joined = b'1,"x' + end + b'y"'
    assert [record.raw for record in found] == ["a,b", joined.decode(), "2,z"]
    assert found[1].cells == ("1", f"x{end.decode()}y")
    assert not any(record.parse_error for record in found)


def test_a_mark_is_no_text(tmp_path: Path) -> None:
    """A UTF-8 byte order mark does not stick to the first name."""
    assert read(tmp_path, b'\xef\xbb\xbf"a",b\n')[0].cells == ("a", "b")


@pytest.mark.parametrize(
    ("kind", "content", "cells"),
    [
        (feed(";"), b"a;b,c\n", ("a", "b,c")),
        (feed("\t"), b"a\tb\n", ("a", "b")),
        (feed(encoding="cp1252"), b"\x80,\xe9\n", ("€", "é")),
        (feed(encoding="utf-16"), "a,é\n".encode("utf-16"), ("a", "é")),
    ],
    ids=["semicolon", "tab", "cp1252", "utf-16"],
)
def test_delimiter_and_encoding_are_the_feeds(
    tmp_path: Path, kind: Feed, content: bytes, cells: tuple[str, ...]
) -> None:
    """The feed says how its files are written."""
    assert read(tmp_path, content, kind)[0].cells == cells


@pytest.mark.parametrize(
    ("content", "rule", "words"),
    [
        (b"1,2,3", "columns", "the row has 3 values, the header 2"),
        (b"1", "columns", "the row has 1 values, the header 2"),
        (b'"1,2', "quote", "never closed"),
        (b'1,"2', "quote", "never closed"),
        (b'1,x"y,"z', "quote", "never closed"),
        (b'1,"2"z', "quote", "text follows a closing quote"),
        (b'1,"2\\"z"', "quote", "set `escape:"),
        (b'1,"2\n",3', "columns", "a quote is opened"),
        (b"1,\x002", "nul_byte", "NUL"),
        (b"1,\xff", "encoding", "not UTF-8"),
        (b"1,\xc3", "encoding", "not UTF-8"),
        (b"1," + b"x" * LONGEST_RECORD, "too_long", "longer than"),
        (b"1," + "🫖".encode() * (LONGEST_RECORD // 4), "too_long", "longer than"),
        (b'1,"' + (b"x" * 2000 + b"\n") * 900 + b'"', "too_long", "longer than"),
    ],
)
def test_a_flawed_record_is_told(tmp_path: Path, content: bytes, rule: str, words: str) -> None:
    """What cannot be a row of two cells has its rule and words."""
    *_, record = read(tmp_path, content)
    parse_error = parse_error_of(record, 2)
    assert parse_error is not None
    assert parse_error.rule == rule
    assert words in parse_error.message


@pytest.mark.parametrize(
    "content",
    [b"1,2", b'"1","2"', b'1,x"y', b'1,"2" ', b'1, "2"', b" ,\t", "é,🫖".encode()],
)
def test_a_sound_record_has_no_flaw(tmp_path: Path, content: bytes) -> None:
    """Two cells are a row, however they are written."""
    [record] = read(tmp_path, content)
    assert parse_error_of(record, 2) is None


def test_a_record_of_the_longest_length_is_a_row(tmp_path: Path) -> None:
    """The limit itself is still allowed, in bytes."""
    text = "é" * ((LONGEST_RECORD - 2) // 2)
    [record] = read(tmp_path, f"1,{text}".encode())
    assert len(record.raw.encode()) == LONGEST_RECORD
    assert parse_error_of(record, 2) is None


@pytest.mark.parametrize(
    "line",
    [
        "x" * 5 * LONGEST_RECORD,
        '"' + "x" * 5 * LONGEST_RECORD + '"',
        'x"' * 3 * LONGEST_RECORD,
        '"' + "x," * 3 * LONGEST_RECORD + '\n"',
    ],
    ids=["plain", "quoted", "stray quotes", "quoted delimiters"],
)
def test_what_follows_a_huge_line_is_read(tmp_path: Path, line: str) -> None:
    """A line of any length is one record; its quotes open and close as they were written."""
    found = read(tmp_path, f"a,b\n{line},2\n3,4\n".encode())
    assert [record.cells for record in (found[0], found[-1])] == [("a", "b"), ("3", "4")]
    assert len(found) == 3
    parse_error = parse_error_of(found[1], 2)
    assert parse_error is not None
    assert parse_error.rule == "too_long"


def malformed_lines(found: list[Record]) -> list[int]:
    return [record.line for record in found if record.parse_error]


@pytest.mark.parametrize(
    ("lines", "malformed"),
    [
        (['1,"open', "2,x", "3,y"], [1]),
        (['1,"open', "2,x", '3,"open', "4,y"], [1, 3]),
        (['1,"open', "2,x", '3,"5"" pan"', "4,y"], [1]),
        (['1,"24""', "2,x", '3,"32" HD"', "4,y"], [1, 3]),
        (['1,"two', 'lines","bad" x', "3,y"], [1, 2]),
        (['1,"two', 'lines","three', 'more"', "4,y"], []),
        (['1,"two', 'lines" ,x', "3,y"], [1]),
        (['"', '"', '"'], [3]),
    ],
)
def test_only_lines_with_a_flaw_are_kept_out(
    tmp_path: Path, lines: list[str], malformed: list[int]
) -> None:
    """Behind a quote that does not close properly, reading goes on at the next line."""
    found = read(tmp_path, "\n".join(lines).encode())
    assert malformed_lines(found) == malformed
    assert all(record.raw == lines[record.line - 1] for record in found if record.parse_error)


@pytest.mark.parametrize("size", [4, 5, 6])
def test_a_record_spans_no_more_lines_than_it_may(tmp_path: Path, size: int) -> None:
    """Of a longer one, its first line is kept out, and the others are read as they stand."""
    kind = replace(feed(), max_record_lines=5)
    lines = ['1,"open', *(f"{n},x" for n in range(size - 2)), 'end"', "z,z"]
    found = read(tmp_path, "\n".join(lines).encode(), kind)
    assert malformed_lines(found) == ([1] if size > 5 else [])
    assert len(found) == (2 if size <= 5 else size + 1)


def test_a_quote_that_swallows_too_much_is_a_flaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: past the limit an open quote keeps its line out, and no more."""
    monkeypatch.setattr(module, "_LONGEST_SPAN", 1000)
    found = read(tmp_path, b'a,b\n1,2\n3,"x\n' + b"4,5\n" * 900 + b'6,"\n')
    assert malformed_lines(found) == [3, 904]
    assert len(found) == 904


@pytest.mark.parametrize("line", ['1,"x', 'x","y', '"",""",', '1,"""', '"a\n"'])
def test_many_open_quotes_are_read_in_no_time(tmp_path: Path, line: str) -> None:
    """No line is looked at again and again, whatever is open before it."""
    start = time.process_time()
    read(tmp_path, (line + "\n").encode() * 20_000)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("seed", range(20))
def test_records_are_those_of_a_strict_reader(tmp_path: Path, seed: int) -> None:
    """Messes of quotes and line ends are cut like a reader cuts them that goes sign by sign."""
    chance = random.Random(f"{SEED} {seed}")
    for _ in range(100):
        pieces = chance.choices(
            ['"', '""', ",", "\n", "\r\n", "\r", " ", "a", ',"', '",', '"\n'], k=30
        )
        content = "".join(pieces)
        kind = replace(feed(), max_record_lines=1000)
        found = [(r.line, r.raw, r.cells or None) for r in read(tmp_path, content.encode(), kind)]
        assert found == [(r.line, r.raw, r.cells) for r in strict_records(content)], content


MYSQL = replace(feed("\t"), escape="\\")


@pytest.mark.parametrize(
    ("kind", "content", "cells"),
    [
        (MYSQL, '1\t"24\\" TV"', ("1", '24" TV')),
        (MYSQL, '1\t"a\\\nb"', ("1", "a\nb")),
        (MYSQL, "1\ta\\\tb", ("1", "a\tb")),
        (MYSQL, "\\N\tC:\\\\x", ("", "C:\\x")),
        (MYSQL, 'a\\nb\t""', ("a\nb", "")),
        (MYSQL, '"x""y"\t', ('x"y', "")),
        (replace(feed(), escape="^"), '"a^"b","^n"', ('a"b', "n")),
        (replace(feed(), quote="'"), "'it''s','a,b'", ("it's", "a,b")),
        (replace(feed(), quote=""), '"a,b"', ('"a', 'b"')),
    ],
)
def test_a_feeds_own_signs(
    tmp_path: Path, kind: Feed, content: str, cells: tuple[str, ...]
) -> None:
    """The feed says what stands around a cell, and what before a sign that means itself."""
    [record] = read(tmp_path, f"{content}\n".encode(), kind)
    assert (record.cells, record.parse_error) == (cells, None)


def test_an_escaped_line_end_outside_quotes_is_a_flaw(tmp_path: Path) -> None:
    """Only quoted cells may span lines."""
    found = read(tmp_path, b"1\ta\\\n2\tb\n", MYSQL)
    assert malformed_lines(found) == [1]
    assert found[1].cells == ("2", "b")


def test_lines_that_are_no_records_count_as_lines(tmp_path: Path) -> None:
    """Told delimiters, a preamble, comments and blank lines are skipped and numbered."""
    kind = replace(feed(";"), skip_lines=2, comment="#")
    content = b'sep=;\nReport "of\n\n# exported\na;b\n#\n1;"#2\n#3"\n\n4;5\n'
    found = read(tmp_path, content, kind)
    assert [(r.line, r.cells) for r in found] == [
        (5, ("a", "b")),
        (7, ("1", "#2\n#3")),
        (10, ("4", "5")),
    ]


def test_a_line_end_cut_in_two_is_one(tmp_path: Path) -> None:
    """CR and LF are one end, also where the part of a huge line that is kept ends between them."""
    for size in range(2 * LONGEST_RECORD - 2, 2 * LONGEST_RECORD + 2):
        found = read(tmp_path, b"x" * size + b"\r\ny\r\n")
        assert [record.line for record in found] == [1, 2]


def test_text_of_another_encoding_is_an_error(tmp_path: Path) -> None:
    """UTF-16 cut in the middle of a character is no text at all."""
    with pytest.raises(UnicodeError):
        read(tmp_path, "a,b\n".encode("utf-16")[:-1], feed(encoding="utf-16"))


def test_raw_text_can_be_stored(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are shown as such."""
    [record] = read(tmp_path, b"caf\xe9,2")
    assert readable(record.raw) == r"caf\xe9,2"
