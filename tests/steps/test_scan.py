"""What one pass over the bytes tells, wherever the chunks are cut."""

from __future__ import annotations

import pytest

from retailmart.steps.scan import LONGEST_RECORD, Scan

REGULAR = {
    "plain": b"a,b\n1,2\n",
    "no last line end": b"a,b\n1,2",
    "CRLF": b"a,b\r\n1,2\r\n",
    "CRLF, no last line end": b"a,b\r\n1,2",
    "quoted cells": b'a,b\n"1","2, 3"\n',
    "doubled quotes": b'a,b\n"5"" pan","""x"""\n',
    "words beside quotes": b'a,b\nsay "hi" now,2\n',
    "UTF-8": "a,b\n€,ü🫖\n".encode(),
    "blanks": b"a,b\n 1 , 2 \n",
}
ODD = {
    "lone CR": b"a,b\r1,2\r",
    "CR at the end": b"a,b\n1,2\r",
    "mixed line ends": b"a,b\r\n1,2\n",
    "NUL": b"a,b\n1,\x002\n",
    "latin-1": b"a,b\n1,\xe9\n",
    "UTF-8 cut at the end": b"a,b\n1,\xc3",
    "odd quotes": b'a,b\n1,"2\n',
    "quoted newline": b'a,b\n1,"2\n3"\n',
    "blank after a quote": b'a,b\n"1" ,2\n',
    "blanks after the last quote": b'a,b\n1,"2"  ',
    "blank before a quote": b'a,b\n1, "2"\n',
    "blank before the first quote": b'a,b\n "1",2\n',
    "blanks around other delimiters": b'a;b\n1;"2"  ;3\n',
}


def scan_of(content: bytes, size: int) -> Scan:
    scan = Scan()
    for start in range(0, len(content), size):
        scan.feed(content[start : start + size])
    return scan


@pytest.mark.parametrize("content", [pytest.param(c, id=i) for i, c in REGULAR.items()])
def test_regular_files_are_left_to_the_engine(content: bytes) -> None:
    """Nothing odd is seen in one piece or in halves, and each line is counted."""
    for cut in range(1, len(content)):
        if b'"' in content and b" " in content[cut - 1 : cut + 1]:
            continue  # a blank at a quote, split by a chunk's end, may be doubted
        scan = Scan()
        scan.feed(content[:cut])
        scan.feed(content[cut:])
        assert scan.is_regular, cut
        assert scan.lines == 2
    assert scan_of(content, LONGEST_RECORD).is_regular


@pytest.mark.parametrize("content", [pytest.param(c, id=i) for i, c in ODD.items()])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_odd_files_are_not(content: bytes, size: int) -> None:
    """What the engine and Python's csv may read differently is seen across every seam."""
    assert not scan_of(content, size).is_regular


@pytest.mark.parametrize("before", [0, 1, LONGEST_RECORD // 2, LONGEST_RECORD - 1])
@pytest.mark.parametrize("over", [0, 1])
def test_a_long_line_is_seen_across_chunks(before: int, over: int) -> None:
    """A line is long from one byte over the limit on, wherever it begins in a chunk."""
    content = b"x" * before + b"\n" + b"y" * (LONGEST_RECORD + over) + b"\nz\n"
    assert scan_of(content, LONGEST_RECORD).long == bool(over)


def test_lines_and_quotes_are_counted() -> None:
    """The counts are of the whole file, whatever the chunks."""
    content = b'\xef\xbb\xbfa,b\r\n"1","2\r\n"\r\nlast'
    for size in (1, 4, 100):
        scan = scan_of(content, size)
        assert (scan.lines, scan.newlines, scan.pairs, scan.returns) == (4, 3, 3, 3)
        assert (scan.quotes, scan.quoted_newlines) == (4, 1)
    assert scan_of(content, 100).head == content[:16]


def test_an_empty_file_has_no_lines() -> None:
    """Nothing fed is nothing counted."""
    assert Scan().lines == 0
