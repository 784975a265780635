"""Records with their line and raw text, as Python's csv cuts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from retailmart.project import Feed
from retailmart.project.feed import Column
from retailmart.project.types import ColumnType
from retailmart.steps import records as module
from retailmart.steps.records import Record, UnclosedQuote, flaw_of, readable, records
from retailmart.steps.scan import LONGEST_RECORD


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
    assert not any(record.unclosed for record in found)


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
        (b'"1\n,2', "quote", "never closed"),
        (b'1,"2', "quote", "never closed"),
        (b'1,x"y,"z', "quote", "never closed"),
        (b'1,"2\n",3', "columns", "a quote is opened"),
        (b"1,\x002", "nul_byte", "NUL"),
        (b"1,\xff", "encoding", "not UTF-8"),
        (b"1,\xc3", "encoding", "not UTF-8"),
        (b"1," + b"x" * LONGEST_RECORD, "too_long", "longer than"),
        (b"1," + "🫖".encode() * (LONGEST_RECORD // 4), "too_long", "longer than"),
        (b'1,"' + b"\n" * LONGEST_RECORD + b'"', "too_long", "longer than"),
    ],
)
def test_a_flawed_record_is_told(tmp_path: Path, content: bytes, rule: str, words: str) -> None:
    """What cannot be a row of two cells has its rule and words."""
    *_, record = read(tmp_path, content)
    flaw = flaw_of(record, 2)
    assert flaw is not None
    assert flaw.rule == rule
    assert words in flaw.message


@pytest.mark.parametrize(
    "content",
    [b"1,2", b'"1","2"', b'1,x"y', b'1,"2"z', b" ,\t", b'1,"', "é,🫖".encode()],
)
def test_a_sound_record_has_no_flaw(tmp_path: Path, content: bytes) -> None:
    """Two cells are a row, however they are written; a quote that only ends the file is open."""
    [record] = read(tmp_path, content)
    assert (flaw_of(record, 2) is None) == (content != b'1,"')


def test_a_record_of_the_longest_length_is_a_row(tmp_path: Path) -> None:
    """The limit itself is still allowed, in bytes."""
    text = "é" * ((LONGEST_RECORD - 2) // 2)
    [record] = read(tmp_path, f"1,{text}".encode())
    assert len(record.raw.encode()) == LONGEST_RECORD
    assert flaw_of(record, 2) is None


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
    flaw = flaw_of(found[1], 2)
    assert flaw is not None
    assert flaw.rule == "too_long"


def test_a_quote_that_swallows_too_much_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: past the limit an open quote is an error that names its line."""
    monkeypatch.setattr(module, "_SWALLOWED", 1000)
    with pytest.raises(UnclosedQuote) as caught:
        read(tmp_path, b'a,b\n1,2\n3,"x\n' + b"4,5\n" * 1000)
    assert caught.value.line == 3


def test_text_of_another_encoding_is_an_error(tmp_path: Path) -> None:
    """UTF-16 cut in the middle of a character is no text at all."""
    with pytest.raises(UnicodeError):
        read(tmp_path, "a,b\n".encode("utf-16")[:-1], feed(encoding="utf-16"))


def test_raw_text_can_be_stored(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are shown as such."""
    [record] = read(tmp_path, b"caf\xe9,2")
    assert readable(record.raw) == r"caf\xe9,2"
