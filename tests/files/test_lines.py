"""Every physical line of a mutated file is accounted for, by a judge that only knows lines."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import CsvBroken
from retailmart.feeds.load_part import csv_shape
from retailmart.feeds.quarantine import places_of
from retailmart.files.check import check_content, clean
from retailmart.files.checked import CheckedFile
from retailmart.files.scan import Scan
from retailmart.project import Feed
from retailmart.project.feed import Column
from retailmart.project.types import ColumnType
from tests.support.amount import SEED, tries
from tests.support.strict_csv import physical_lines, strict_records

COUNT = tries(400, 20_000)
WIDTH = 4
# What is put in, most of it about quotes and line ends, and what else may happen to a byte.
MUTATIONS = (
    *('"', '"', '"', '""', '"""', '","', '",', ',"', '"\n', '\n"', '"\r\n', '" ', ' "', '\\"'),
    *("\n", "\r\n", "\r", "\n\n", "\n\r", ",", " ", "#", "é", "\t"),
)
WORDS = ("tea", "12.50", "2024-01-05", "", "a b", "x" * 40, "24 TV", "'", "\\", "é")
QUOTED = ('5"" pan', "a,b", "two\nlines", "two\r\nlines", "", '""', "\n\n", 'say ""hi""', "x")


# What may stand before a file's header, and how many lines of it the feed is told of.
LEADS = (
    *[("", 0)] * 6,
    ("\ufeff", 0),
    ("sep=,\n", 0),
    ('\ufeff"sep=,"\n', 0),
    ('Report "of\n,,,,,\n', 2),
    ('\ufeff"a"",b"\n', 1),
    ('"sep=,"\n"\n""\n', 2),
)


def feed(skip_lines: int = 0) -> Feed:
    """A feed that takes any text, so that only the shape of a line can be wrong."""
    columns = tuple(Column(f"c{n}", ColumnType("STRING"), n == 0, (), None) for n in range(WIDTH))
    plain = Feed("things", ("*.csv",), ",", "utf-8", columns, "more", None, None, ())
    return replace(plain, skip_lines=skip_lines)


def a_file(chance: random.Random) -> str:
    """A sound file of some rows, in one style of line ends, mostly with quoted cells."""
    end = chance.choice(("\n", "\n", "\n", "\r\n", "\r\n", "\r"))
    share = chance.choice((0, 0.2, 0.2, 0.5, 1))
    quoted = QUOTED if chance.random() < 0.4 else [text for text in QUOTED if "\n" not in text]
    blank = chance.choice((0, 0, 0.05))
    rows = [",".join(f"c{n}" for n in range(WIDTH))]
    for _ in range(chance.randint(1, 12)):
        cells = (
            f'"{chance.choice(quoted)}"' if chance.random() < share else chance.choice(WORDS)
            for _ in range(WIDTH)
        )
        rows.append(",".join(cells))
        rows += [""] * (chance.random() < blank)
    return end.join(rows) + (end if chance.random() < 0.8 else "")


def mutated(chance: random.Random) -> str:
    """A file with up to four places changed behind its header."""
    text = a_file(chance)
    head = len(physical_lines(text)[0])
    for _ in range(chance.choice((0, 1, 1, 1, 1, 2, 3))):
        marks = [n for n in range(head, len(text)) if text[n] in '"\r\n']
        anywhere = chance.randint(head, len(text))
        at = (
            chance.choice(marks) + chance.randint(0, 1)
            if marks and chance.random() < 0.7
            else (anywhere)
        )
        gone = chance.choice((0, 0, 1, 1, 2))
        put = chance.choice((*MUTATIONS, "", "", ""))
        text = text[:at] + put + text[at + gone :]
    return text


@dataclass(frozen=True)
class ScratchLake:
    """Reads files as a run does, without a run."""

    engine: DuckDBEngine
    scratch: Path

    def checked(self, text: str, kind: Feed) -> CheckedFile | None:
        path = self.scratch / "content.csv"
        content = text.encode()
        path.write_bytes(content)
        scan = Scan()
        scan.feed(content)
        found = check_content(path, scan, kind, path.name)
        return found if isinstance(found, CheckedFile) else None

    def rows(self, file: CheckedFile) -> tuple[CheckedFile, list[tuple[str, ...]]]:
        try:
            found = self._rows(file)
            if len(found) == file.records - len(file.malformed):
                return file, found
        except CsvBroken:
            pass
        cleaned = clean(file.delivered, file.feed, file.layout)
        assert isinstance(cleaned, CheckedFile)
        return cleaned, self._rows(cleaned)

    def _rows(self, file: CheckedFile) -> list[tuple[str, ...]]:
        delivered = self.engine.records({1: file.readable}, csv_shape(file), numbered=True)
        texts = ", ".join(f"c{n}" for n in range(len(file.layout.columns)))
        return self.engine.rows(f"SELECT {texts} FROM {delivered} ORDER BY _row")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchLake]:
    """An engine that may read the files."""
    scratch = tmp_path_factory.mktemp("lines")
    engine = DuckDBEngine([], scratch, threads=1)
    yield ScratchLake(engine, scratch)
    engine.close()


def lines_of(text: str) -> int:
    """How many lines a record's text takes."""
    return len(physical_lines(f"{text}."))


def not_blank(text: str) -> int:
    """How many lines of a file say something, be it one quote."""
    return sum(bool(line.rstrip("\r\n")) for line in physical_lines(text))


def blank_within(text: str) -> int:
    """How many lines within a record are blank: not its first and last, in which quotes stand."""
    return sum(not line.rstrip("\r\n") for line in physical_lines(f"{text}.")[1:-1])


def assert_accounted_for(bench: ScratchLake, text: str, lead: tuple[str, int] = LEADS[0]) -> None:
    end = physical_lines(text)[0].removeprefix("c0,c1,c2,c3")
    before = lead[0].replace("\n", end)
    begin = lines_of(before) - 1
    checked = bench.checked(before + text, feed(lead[1]))
    if checked is None:
        assert not any(line.rstrip("\r\n") for line in physical_lines(text)[1:])
        return
    file, rows = bench.rows(checked)
    # The judge: lines that say something = the header's + those of loaded and of refused records.
    loaded = [",".join(cells) for cells in rows]
    refused = [malformed.raw for malformed in file.malformed]
    told = sum(lines_of(record) - blank_within(record) for record in loaded + refused)
    assert not_blank(text) == 1 + told
    assert file.records == len(loaded) + len(refused)
    # Each stands where it says, and no line is in two of them.
    lines = physical_lines(text)
    taken = {1}
    stands = [(malformed.line - begin, malformed.raw) for malformed in file.malformed]
    stands += [(place.line - begin, place.raw) for place in places_of(file)]
    for line, raw in stands:
        own = range(line, line + lines_of(raw))
        assert not taken & set(own)
        taken |= set(own)
        assert "".join(lines[own.start - 1 : own.stop - 1]).rstrip("\r\n") == raw
    # And a reader that goes sign by sign finds the same rows.
    strict = list(strict_records(text))[1:]
    sound = [record.cells for record in strict if record.cells and len(record.cells) == WIDTH]
    assert rows == sound
    assert len(strict) == file.records


@pytest.mark.parametrize("part", range(4))
def test_lines_are_loaded_or_refused_or_blank(bench: ScratchLake, part: int) -> None:
    """No line is lost or counted twice, whatever became of quotes and line ends."""
    for number in range(part, COUNT, 4):
        chance = random.Random(f"{SEED} {number}")
        text, lead = mutated(chance), chance.choice(LEADS)
        try:
            assert_accounted_for(bench, text, lead)
        except AssertionError as error:
            raise AssertionError(f"file {number}: {lead} {text!r}") from error


def test_two_open_quotes_far_apart_take_in_nothing(bench: ScratchLake) -> None:
    """All lines between them are rows, with delimiters and well-formed quotes in them."""
    between = ['a,"b ""c""",d,e', "1,2,3,4", '"a","b","c","d"'] * 1000
    text = "\n".join(["c0,c1,c2,c3", '1,"open,2,3', *between, '4,5,6,end"', '7,"8,9,10'])
    assert_accounted_for(bench, text)
    checked = bench.checked(text, feed())
    assert checked is not None
    assert [malformed.line for malformed in checked.malformed] == [2, 3004]
