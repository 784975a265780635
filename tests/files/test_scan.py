"""What one pass over the bytes tells, wherever the chunks are cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from retailmart.files import scan
from retailmart.files.scan import LONGEST_RECORD, Scan, has_plain_quotes

REGULAR = {
    "plain": b"a,b\n1,2\n",
    "no last line end": b"a,b\n1,2",
    "CRLF": b"a,b\r\n1,2\r\n",
    "CRLF, no last line end": b"a,b\r\n1,2",
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
}


def scan_of(content: bytes, size: int) -> Scan:
    found = Scan()
    for start in range(0, len(content), size):
        found.feed(content[start : start + size])
    return found


@pytest.mark.parametrize("content", [pytest.param(c, id=i) for i, c in REGULAR.items()])
def test_regular_files_are_left_to_the_engine(content: bytes) -> None:
    """Nothing odd is seen in one piece or in halves, and each line is counted."""
    for cut in range(1, len(content)):
        found = Scan()
        found.feed(content[:cut])
        found.feed(content[cut:])
        assert found.is_regular, cut
        assert found.lines == 2
    assert scan_of(content, LONGEST_RECORD).is_regular


@pytest.mark.parametrize("content", [pytest.param(c, id=i) for i, c in ODD.items()])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_odd_files_are_not(content: bytes, size: int) -> None:
    """What readers may take differently is seen across every seam."""
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
        found = scan_of(content, size)
        assert (found.lines, found.newlines, found.pairs, found.returns) == (4, 3, 3, 3)
        assert found.quotes == 4
    assert scan_of(content, 100).head == content[:16]


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (b'a,b\n"1","2, 3"\n', True),
        (b'"a","b"\r\n"5"" pan","""x"""\r\n', True),
        (b'\xef\xbb\xbf"a",b\n"",""', True),
        (b'\xef\xbb\xbf"a,b",c\n"",""', False),
        (b'\xef\xbb\xbf"a""b",c\n"",""', False),
        (b'a,b\n"1",2\n3,""""\n', True),
        (b'a,b\n1,"2\n', False),
        (b'a,b\n1,"2\n3"\n', False),
        (b'a,b\n"1" ,2\n', False),
        (b'a,b\n1,"2"  ', False),
        (b'a,b\n1, "2"\n', False),
        (b'a;b\n1;"2"\n', False),
        (b'a,b\nsay "hi" now,2\n', False),
        (b'a,b\nx","y\n', False),
        (b'a,b\n"1"2,3\n', False),
        (b'a,b\n1,2\n\xef\xbb\xbf"1",3\n', False),
    ],
)
def test_plain_quotes_are_those_that_all_readers_see_alike(
    tmp_path: Path, content: bytes, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand around a cell of one line or twice within it, wherever the pieces are cut."""
    path = tmp_path / "content.csv"
    path.write_bytes(content)
    assert has_plain_quotes(path, ",") == plain
    monkeypatch.setattr(scan, "_AT_ONCE", 1)
    assert has_plain_quotes(path, ",") == plain


def test_an_empty_file_has_no_lines() -> None:
    """Nothing fed is nothing counted."""
    assert Scan().lines == 0
