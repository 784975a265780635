"""Hostile files: each in its place with words people understand, every record accounted for.

A strict reader of the tests' own and `decimal` judge what a file holds; nothing of the package
helps.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.feeds.load import load
from retailmart.feeds.load_part import FileToLoad
from retailmart.files.check import check_content
from retailmart.files.checked import CheckedFile, Refusal
from retailmart.files.scan import Scan
from retailmart.lake import Lake
from retailmart.lake.layout import quarantine_table
from retailmart.lake.places import LocalPlace
from retailmart.ledger.values import FileState, LedgerFile
from retailmart.project import Feed, load_project
from retailmart.report import FileLine, RunReport
from retailmart.storage import printable
from retailmart.template import write_project
from tests.support.amount import tries
from tests.support.backends import LocalBackend, shop_tables
from tests.support.hostile_files import (
    COLUMNS,
    GOOD,
    LACKING,
    MEGABYTE,
    NAMES,
    REFUSED,
    TAKEN,
    Judgement,
    Refused,
    Taken,
    judge,
    known,
    row,
    text,
)
from tests.support.shop import AS_OF, HEADER, Shop, keep_only, sale
from tests.support.strict_csv import strict_records


@dataclass(frozen=True)
class Aftermath:
    """A shop after one run over a good file and many hostile ones."""

    shop: Shop
    report: RunReport

    @cached_property
    def refused(self) -> list[tuple[str, int, str | None, str, str, str]]:
        """All quarantined rows."""
        return self.shop.refused()

    @cached_property
    def totals(self) -> dict[str, Decimal]:
        """What customer_mart holds of each file."""
        with self.shop.open().ledger() as ledger:
            paths = {f.file_id: f.path for f in ledger.files.in_state(FileState.LOADED)}
        mart = self.shop.open().mart("customer_mart")
        sums = mart.aggregate("_file_id, sum(total_cost)").fetchall()
        return {paths[file_id]: total for file_id, total in sums}

    def line(self, name: str) -> FileLine:
        [line] = [line for line in self.report.files if line.path == name]
        return line

    def assert_good_is_counted(self) -> None:
        good = self.line("sales_good.csv")
        assert (good.state, good.records, good.loaded) == ("loaded", 2, 2)
        assert self.totals["sales_good.csv"] == Decimal("100.01")

    def assert_conserved(self, name: str, content: bytes) -> Judgement:
        judged, line = judge(content), self.line(name)
        assert line.records == judged.records
        assert (line.loaded, line.quarantined) == (judged.good.total(), judged.bad.total())
        assert self.totals.get(name, Decimal(0)) == judged.money
        refused = [r for r in self.refused if r[0] == name]
        assert sorted(r[1] for r in refused) == sorted(line for line, _ in judged.bad.elements())
        return judged


def new_shop(folder: Path) -> Shop:
    """A shop for several tests, whose sales files need not be named so."""
    write_project(folder, sample=False, stories=["tills"])
    keep_only(folder, marts=["customer_mart"])
    LocalBackend(folder).execute_in_shop(*shop_tables())
    feed = folder / "feeds" / "sales.yml"
    patterns = '["sales*.csv", "*s_*.csv", "*s_*.csv.gz"]'
    feed.write_text(re.sub(r"files: .*", f"files: {patterns}", feed.read_text()))
    return Shop(folder)


def unpacked(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def named(content: str) -> bytes:
    """Every name has content of its own: equal content would be a duplicate."""
    return text(row(content.encode().hex()), row("bad", "x"))


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """One run over all files that must be refused."""
    shop = new_shop(tmp_path_factory.mktemp("refused"))
    shop.drop("sales_good.csv", GOOD)
    for case in REFUSED.values():
        shop.drop(case.name, case.content)
    return Aftermath(shop, shop.run())


@pytest.fixture(scope="module")
def takings(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """One run over all files that are loaded but for their bad records."""
    shop = new_shop(tmp_path_factory.mktemp("taken"))
    shop.drop("sales_good.csv", GOOD)
    for case in TAKEN.values():
        shop.drop(case.name, case.content)
    return Aftermath(shop, shop.run())


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    """One run over good files with hostile names, a refused twin beside each."""
    shop = new_shop(tmp_path_factory.mktemp("names"))
    shop.drop("sales_good.csv", GOOD)
    for name in NAMES.values():
        shop.drop(name, named(name))
        shop.drop(name + ".txt", b"refused")
    return Aftermath(shop, shop.run())


@pytest.mark.parametrize("case", [pytest.param(c, id=i) for i, c in REFUSED.items()])
def test_a_file_is_refused_with_a_reason(refusals: Aftermath, case: Refused) -> None:
    """The file lies unchanged in its error folder, the reason beside it and in the report."""
    line = refusals.line(case.name)
    assert (line.state, line.records, line.loaded) == ("refused", None, None)
    assert case.words in str(line.message)
    assert len(str(line.message)) < 300
    place = refusals.shop.folder / "archive" / "error_files" / case.folder / case.name
    assert place.read_bytes() == case.content
    reason = place.with_name(place.name + ".reason.txt").read_text()
    assert reason == f"{case.name} {line.message}\n"
    assert not (refusals.shop.folder / "landing" / case.name).exists()


def test_refused_files_leave_nothing_in_the_marts(refusals: Aftermath) -> None:
    """Beside all the refused files the good one is counted, alone, and nothing is quarantined."""
    refusals.assert_good_is_counted()
    assert refusals.shop.refused() == []
    rows = refusals.shop.mart("customer_mart", "total_cost")
    assert rows == [(Decimal("0.01"),), (Decimal("100.00"),)]


@pytest.mark.parametrize("case", [pytest.param(c, id=i) for i, c in TAKEN.items()])
def test_bad_records_are_quarantined(takings: Aftermath, case: Taken) -> None:
    """Each bad record lies in quarantine with its place and raw text; all others are counted."""
    assert takings.line(case.name).state == "loaded"
    content = unpacked(case.content)
    judged = takings.assert_conserved(case.name, content)
    refused = sorted(r[1:] for r in takings.refused if r[0] == case.name)
    assert [(line, column, rule) for line, column, rule, *_ in refused] == sorted(case.bad)
    assert case.words in "; ".join(message for *_, message, _ in refused)
    for (line, raw), (told_line, *_, told_raw) in zip(sorted(judged.bad), refused, strict=True):
        assert line == told_line
        assert told_raw[: 2 * MEGABYTE] == raw[: 2 * MEGABYTE]


def test_taken_files_add_up(takings: Aftermath) -> None:
    """The mart's total is the sum of all that Python judges good, and no file is missing."""
    takings.assert_good_is_counted()
    files = [GOOD.encode(), *(unpacked(case.content) for case in TAKEN.values())]
    [total] = takings.shop.open().mart("customer_mart").sum("total_cost").fetchall()
    assert total[0] == sum(judge(content).money for content in files)
    assert takings.report.count("loaded") == len(files)


@pytest.mark.parametrize("name", [pytest.param(n, id=i) for i, n in NAMES.items()])
def test_a_files_name_is_only_a_name(names: Aftermath, name: str) -> None:
    """Whatever is in a name, the file is loaded, its bad row told, and it is archived under it."""
    names.assert_conserved(name, named(name))
    [batch] = names.report.batches
    archive = names.shop.folder / "archive"
    assert (archive / batch.archived_to / name).read_bytes() == named(name)
    refused = archive / "error_files" / "wrong_file_types" / f"{name}.txt"
    assert refused.read_bytes() == b"refused"
    assert refused.with_name(refused.name + ".reason.txt").read_text().startswith(f"{name}.txt is")


def test_names_lead_nowhere_else(names: Aftermath) -> None:
    """Nothing is written above or beside the project's own folders; landing is empty."""
    names.assert_good_is_counted()
    folder = names.shop.folder
    own = {"feeds", "tables", "marts", "landing", "archive", "lake", ".retailmart", ".schema"}
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= own
    assert not list(folder.parent.rglob("*up.csv.csv")) + list(folder.parent.glob("*.csv*"))
    assert [p for p in (folder / "landing").rglob("*") if not p.is_dir()] == []
    processed = [path for path in names.shop.archived() if path.startswith("processed/")]
    assert len(processed) == len(NAMES) + 1


def test_links_pipes_and_nameless_bytes_are_refused(shop: Shop, tmp_path: Path) -> None:
    """Links are moved, never followed; a FIFO is never read; a name of odd bytes is told."""
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "sales_secret.csv"
    secret.write_text(GOOD)
    landing = shop.folder / "landing"
    shop.drop("sales_good.csv", GOOD)
    (landing / "sales_link.csv").symlink_to(secret)
    (landing / "sales_dangling.csv").symlink_to(tmp_path / "nowhere")
    (landing / "folder").symlink_to(outside)
    (landing / "sales_loop.csv").symlink_to("sales_loop.csv")
    os.mkfifo(landing / "sales_pipe.csv")
    odd = os.fsencode(landing) + b"/sales_\xff.csv"
    Path(os.fsdecode(odd)).write_bytes(text(row("odd")))
    report = shop.run()
    after = Aftermath(shop, report)
    after.assert_good_is_counted()
    for name in ("sales_link.csv", "sales_dangling.csv", "folder", "sales_loop.csv"):
        assert "is a link" in str(after.line(name).message)
        moved = shop.folder / "archive" / "error_files" / "wrong_file_types" / name
        assert moved.is_symlink()
    assert "pipe or device" in str(after.line("sales_pipe.csv").message)
    assert "not UTF-8; rename it" in str(
        after.line(printable(os.fsdecode(b"sales_\xff.csv"))).message
    )
    assert secret.read_text() == GOOD
    assert report.count("refused") == 6
    assert list(landing.iterdir()) == []


def test_half_uploads_wait(shop: Shop) -> None:
    """Files under an upload's name, and one that still grows, stay until a later run."""
    shop.drop("sales_good.csv", GOOD)
    half = ["sales_1.csv.part", "sales_2.csv.tmp", "sales_3.csv.crdownload", "sales_4.filepart"]
    for name in half:
        shop.drop(name, text(row(name)))
    growing = shop.drop("sales_growing.csv", HEADER + "\n")
    full = threading.Event()

    def upload() -> None:
        with growing.open("a") as file:
            while not full.wait(0.01):
                file.write(sale(price="1.00") + "\n")
                file.flush()

    sender = threading.Thread(target=upload)
    sender.start()
    try:
        report = shop.run()
    finally:
        full.set()
        sender.join()
    assert report.waiting == (*half, "sales_growing.csv")
    Aftermath(shop, report).assert_good_is_counted()
    (shop.folder / "landing" / half[0]).rename(shop.folder / "landing" / "sales_1.csv")
    later = Aftermath(shop, shop.run())
    assert later.report.waiting == tuple(half[1:])
    later.assert_conserved("sales_1.csv", text(row(half[0])))
    later.assert_conserved("sales_growing.csv", growing_archived(shop).read_bytes())


def growing_archived(shop: Shop) -> Path:
    [path] = (shop.folder / "archive").rglob("sales_growing.csv")
    return path


def test_a_name_of_the_longest_length_is_refused(shop: Shop) -> None:
    """A refused file whose name leaves no room for .reason.txt does not stop the run."""
    shop.drop("sales_good.csv", GOOD)
    shop.drop("sales_" + "x" * 240 + ".csv", LACKING)
    report = shop.run()
    Aftermath(shop, report).assert_good_is_counted()
    assert report.count("refused") == 1


def test_each_refused_file_keeps_its_own_reason(shop: Shop) -> None:
    """Two refused files of one name lie side by side, each with the words for it."""
    for content in (LACKING, text()):
        shop.drop("sales_bad.csv", content)
        shop.run()
    folder = shop.folder / "archive" / "error_files" / "bad_schema"
    told = sorted(path.read_text() for path in folder.glob("*.reason.txt"))
    assert len(told) == 2
    assert "has a header but not a single row" in told[0]
    assert "lacks the column total_cost" in told[1]


def test_files_of_a_feeds_own_dialect(tmp_path: Path) -> None:
    """Texts of several tills: each row counts once, and each bad one is told with its line."""
    shop = new_shop(tmp_path / "shop")
    feed = shop.folder / "feeds" / "sales.yml"
    dialect = 'delimiter: [",", ";", "\\t"]\nskip_lines: 1\ncomment: "#"\n'
    feed.write_text(
        re.sub("files: .*", 'files: ["*s_*.txt", "*s_*.tsv.gz"]', feed.read_text()) + dialect
    )
    lines = [HEADER, row("fine"), row('"two\nlines"'), row("bad", "x"), "# end", row("last")]
    for name, delimiter in (("s_1.txt", ";"), ("s_2.txt", ",")):
        body = "\n".join(line.replace(",", delimiter) for line in lines)
        shop.drop(name, f"sep={delimiter}\nReport\n{body}")
        shop.drop(f"{name[:3]}b.txt", f"Report {name}\n{body}")
    body = "\n".join(line.replace(",", "\t") for line in lines)
    shop.drop("s_3.tsv.gz", gzip.compress(f"Report\n{body}\n".encode()))
    after = Aftermath(shop, shop.run())
    for line in after.report.files:
        assert (line.state, line.records, line.loaded) == ("loaded", 4, 3), line
    told = sorted((name, line, rule) for name, line, _, rule, *_ in after.refused)
    assert told == [
        ("s_1.txt", 7, "type"),
        ("s_1b.txt", 6, "type"),
        ("s_2.txt", 7, "type"),
        ("s_2b.txt", 6, "type"),
        ("s_3.tsv.gz", 6, "type"),
    ]


def test_a_projects_folder_may_have_any_name(tmp_path: Path) -> None:
    """Quotes and glob characters in the folder's own name change nothing."""
    shop = new_shop(tmp_path / "it's [my] *shop?")
    shop.drop("sales_good.csv", GOOD)
    Aftermath(shop, shop.run()).assert_good_is_counted()


# Generated files: what a strict reading finds is what is loaded, cell by cell.


@dataclass(frozen=True, repr=False)
class ScratchLake:
    """What loads files without a whole run: an engine, a lake and the sales feed."""

    engine: DuckDBEngine
    lake: Lake
    feed: Feed
    scratch: Path
    batches: Iterator[int]

    def load(self, contents: Sequence[bytes]) -> None:
        """Load files as one batch; each must come out as the judge says."""
        checked = {n: self.check(content) for n, content in enumerate(contents, 1)}
        files = {n: c for n, c in checked.items() if isinstance(c, CheckedFile)}
        for n in checked.keys() - files.keys():
            assert is_unloadable(contents[n - 1]), contents[n - 1]
        if not files:
            return
        batch = next(self.batches)
        items = [FileToLoad(ledger_file(n, batch), file) for n, file in files.items()]
        loaded = load(self.engine, self.lake, self.feed, items, {}, batch, self.scratch)
        accepted: dict[int, Counter[tuple[object, ...]]] = {n: Counter() for n in files}
        added = self.engine.define(loaded.added)
        columns = ", ".join((*COLUMNS, "additional_column", "_file_id"))
        for *cells, extra, n in self.engine.rows(f"SELECT {columns} FROM {added}"):
            more = json.dumps(json.loads(extra), sort_keys=True) if extra else None
            accepted[n][*cells, more] += 1
        refused: dict[int, Counter[tuple[int, str]]] = {n: Counter() for n in files}
        if loaded.quarantine:
            root = str(self.lake.folder(quarantine_table("sales")))
            held = self.engine.define(loaded.quarantine.applied_to(root, None))
            for n, line, raw in self.engine.rows(f"SELECT file_id, line, raw FROM {held}"):
                refused[n][line, raw] += 1
        for outcome in loaded.outcomes:
            content = contents[outcome.file_id - 1]
            judged = judge(content)
            assert accepted[outcome.file_id] == judged.good, content
            assert refused[outcome.file_id] == judged.bad, content
            assert outcome.records == judged.records, content
            assert outcome.loaded == judged.good.total(), content
            assert outcome.quarantined == judged.bad.total(), content

    def check(self, content: bytes) -> CheckedFile | Refusal:
        path = self.scratch / f"{sha256(content).hexdigest()}.csv"
        path.write_bytes(content)
        scan = Scan()
        # Small chunks put their seams everywhere.
        for start in range(0, len(content), 97):
            scan.feed(content[start : start + 97])
        return check_content(path, scan, self.feed, path.name)


def ledger_file(n: int, batch: int) -> LedgerFile:
    state = FileState.ACTIVE
    return LedgerFile(n, batch, f"{n}.csv", "", 0, "", state, "sales", None, None, None)


def is_unloadable(content: bytes) -> bool:
    """Whether the header, read strictly, is not what the feed needs, or no row follows it."""
    reader = strict_records(content.decode("utf-8-sig", "surrogateescape"))
    first = next(reader, None)
    header, raw = (first.cells or (), first.raw) if first else ((), "")
    names = [known(name, place) for place, name in enumerate(header, 1)]
    odd = "\0" in raw or any("\udc80" <= character <= "\udcff" for character in raw)
    whole_header = set(COLUMNS) <= set(names) and len(set(names)) == len(names)
    return odd or not whole_header or not any(reader) or content[:3] in (b"\xff\xfe", b"\xfe\xff")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchLake]:
    """A bench in a project of its own."""
    folder = tmp_path_factory.mktemp("bench")
    write_project(folder, sample=False)
    scratch = folder / "scratch"
    scratch.mkdir()
    lake = Lake(LocalPlace(folder / "lake"))
    lake.place.workspace.mkdir()
    engine = DuckDBEngine([lake.place], scratch, threads=1)
    engine.set_variables({"as_of": AS_OF})
    feed = load_project(folder).feeds["sales"]
    yield ScratchLake(engine, lake, feed, scratch, iter(range(1, 1_000_000)))
    engine.close()


ODD = st.text(alphabet="ab1 \",;\n\r\té\u00a0\\'#\u2028|", max_size=5)
BAD_CELLS = ("", " ", "x", "1.5", "NaN", "1e3", "2024-02-31", "0x1", '"', "-", "\t")
GOOD_CELLS: dict[str, tuple[str, ...]] = {
    "customer_id": ("1", "2", " 7 ", "007", "+5"),
    "store_id": ("1", "2"),
    "product_name": ("tea", "coffee"),
    "sales_date": ("2024-01-15", "2024-01-31", " 2024-02-29"),
    "sales_person_id": ("1", "3"),
    "price": ("10", "10.00", "12.500", ".5"),
    "quantity": ("1", "-1"),
    "total_cost": ("10", "10.00", "-0.01", "1.10 "),
}
DELIVERY = ("{0}", '"{1}"', '"{1}"', ' "{1}"', '"{1}" ', '"{1}"{0}', '{0}"', '"{0}')


@st.composite
def delivered_rows(draw: st.DrawFn, header: Sequence[str]) -> str:
    """A row as text: mostly sound, with odd cells, odd quoting and odd lengths."""
    cells = [draw(st.sampled_from(GOOD_CELLS.get(name, ("x",)))) for name in header]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(cells) - 1))
        content = draw(st.one_of(ODD, ODD, st.sampled_from(BAD_CELLS), st.just(cells[at])))
        cells[at] = draw(st.sampled_from(DELIVERY)).format(content, content.replace('"', '""'))
    if draw(st.integers(0, 15)) == 0:
        cells = cells[: draw(st.integers(1, len(cells)))] + ["z"] * draw(st.integers(0, 2))
    return ",".join(cells)


@st.composite
def headers(draw: st.DrawFn) -> list[str]:
    """A header that names all columns, in two orders, with odd extra names."""
    extra = [[], [], ["note"], ['"pay, ""mode"""', "b"], ['"two\nlines"'], ['"cut\rhere"']]
    header = [*COLUMNS, *draw(st.sampled_from(extra))]
    return header if draw(st.booleans()) else [*reversed(header[1:]), header[0].upper() + " "]


@st.composite
def delivered_files(draw: st.DrawFn, header: Sequence[str]) -> bytes:
    """A sales file with flaws of every sort, at times a byte out of place."""
    plain = [name.strip().lower() for name in header]
    line = st.one_of(*[delivered_rows(plain)] * 6, st.sampled_from(["", " ", "\t", ",", '""']))
    rows = draw(st.lists(line, min_size=1, max_size=5))
    lead = draw(st.sampled_from(["", "", "", "\ufeff", "\n", "\r\n\n"]))
    ends = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r\n", "\r", "mixed"]))
    delivered = lead + ",".join(header)
    for one in rows:
        delivered += draw(st.sampled_from(["\n", "\r\n", "\r"])) if ends == "mixed" else ends
        delivered += one
    delivered += draw(st.sampled_from(["", "\n", "\n", "\r\n"]))
    content = delivered.encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(content)))
        byte = draw(st.sampled_from([b'"', b'"', b",", b"\n", b"\r", b"\0", b"\xff", b" ", b'" ']))
        content = content[:at] + byte + content[at + draw(st.integers(0, 1)) :]
    return content


@settings(
    max_examples=tries(25, 300),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_generated_files_load_as_read_strictly(bench: ScratchLake, data: st.DataObject) -> None:
    """No cell differs from a strict reading, no record is lost, each bad one has line and text."""
    files = delivered_files(data.draw(headers()))
    bench.load(data.draw(st.lists(files, min_size=8, max_size=10, unique=True)))
