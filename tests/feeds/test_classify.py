"""What a delivered file is: by its feed, its name and its content."""

from __future__ import annotations

import gzip
import re
import unicodedata
from pathlib import Path

import pytest

from retailmart.engines import CsvShape
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import CsvBroken, SettingsError
from retailmart.feeds.load_part import csv_shape
from retailmart.files import scan as scanning
from retailmart.files.check import check_content
from retailmart.files.checked import CheckedFile
from retailmart.files.discover import scan_again
from retailmart.files.staged import here, spans
from retailmart.project import load_project
from retailmart.project.feed import matched_twice
from tests.support.shop import HEADER, Called, Shop, keep_only, sale


def kiosk(shop: Shop, patterns: str) -> None:
    """A second feed of the same columns."""
    text = (shop.folder / "feeds" / "sales.yml").read_text(encoding="utf-8")
    text = re.sub(r"files: .*", f"files: {patterns}", text)
    (shop.folder / "feeds" / "kiosk.yml").write_text(text, encoding="utf-8")


def test_the_same_bytes_in_two_feeds_are_two_deliveries(shop: Shop) -> None:
    """A content counts once in its feed, in one run and in two, and leaves each by itself."""
    keep_only(shop.folder, marts=["customer_mart"])
    kiosk(shop, '["kiosk*.csv"]')
    content = f"{HEADER}\n{sale()}\n"
    shop.drop("sales_a.csv", content)
    shop.drop("kiosk_a.csv", content)
    assert shop.run().count("loaded") == 2
    shop.drop("kiosk_b.csv", content)
    assert shop.run().count("duplicate") == 1
    for name in ("kiosk_a.csv", "kiosk_b.csv"):
        shop.drop(name, f"{HEADER}\n{sale(2)}\n")
    shop.run()
    assert [row[:2] for row in shop.rows_of("raw/sales")] == [(1, 1)]
    assert [row[:2] for row in shop.rows_of("raw/kiosk")] == [(2, 1)]


@pytest.mark.parametrize("patterns", ['["sales_k*.csv"]', '["SALES*.csv"]', '["*/sales*.csv"]'])
def test_a_pattern_within_another_feeds_is_a_mistake(shop: Shop, patterns: str) -> None:
    """Whatever lands, both would match it: the project's mistakes name both feeds."""
    kiosk(shop, patterns)
    with pytest.raises(SettingsError, match=r"feed \w+ and feed \w+ both match all files of"):
        load_project(shop.folder)


def test_a_file_that_two_feeds_match_is_told_before_anything_is_done(
    shop: Shop, called: Called
) -> None:
    """Patterns that only cross are told with the first file that both match, by check and run."""
    kiosk(shop, '["*kiosk.csv"]')
    assert called(shop.folder, "check").returncode == 0
    path = shop.sales("sales_kiosk.csv", [sale()])
    for command in ("check", "run"):
        done = called(shop.folder, command)
        assert done.returncode == 2
        assert "feed kiosk and feed sales both match sales_kiosk.csv" in done.stderr
    assert path.exists()


def test_the_format_decides_between_feeds_of_two_formats(tmp_path: Path, shop: Shop) -> None:
    """A feed of JSON and one of CSV may match the same names."""
    kiosk(shop, '["sales*"]')
    text = (shop.folder / "feeds" / "kiosk.yml").read_text(encoding="utf-8")
    (shop.folder / "feeds" / "kiosk.yml").write_text(text + "\nformat: json\n", encoding="utf-8")
    feeds = load_project(shop.folder).feeds.values()
    assert not matched_twice(feeds, ["sales_a.csv", "sales_a.json"])


def test_names_alike_are_told_and_count_each(shop: Shop) -> None:
    """Letter case, Unicode form and .gz: names of their own, of which the summary tells."""
    shop.sales("sales_Köln.csv", [sale(1)])
    shop.run()
    shop.sales("sales_köln.csv", [sale(2)])
    shop.sales(unicodedata.normalize("NFD", "sales_Köln.csv"), [sale(3)])
    shop.drop("sales_Köln.csv.gz", gzip.compress(f"{HEADER}\n{sale(4)}\n".encode()))
    report = shop.run()
    assert report.count("loaded") == 3
    assert all("is named as" in str(line.message) for line in report.files)
    shop.sales("sales_x.csv", [sale(5)])
    assert [line.message for line in shop.run().files] == [None]
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "mixed"])
@pytest.mark.parametrize("last", [True, False])
def test_the_parts_of_a_file_hold_its_rows(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch, end: str, last: bool
) -> None:
    """Of one kind of line end, each part is read by the strict reader; others are not cut."""
    monkeypatch.setattr(scanning, "CUT_EVERY", 1)
    feed = load_project(shop.folder).feeds["sales"]
    # Longer than a chunk of the scan: there is a place to cut in each.
    lines = [HEADER, *(sale(number % 5 + 1) for number in range(60_000))]
    content = tmp_path / "sales_1.csv"
    ends = ["\n", "\r\n"] if end == "mixed" else [end, end]
    text = "".join(f"{line}{ends[number % 2]}" for number, line in enumerate(lines))
    content.write_text(text if last else text.rstrip("\r\n"), encoding="utf-8", newline="")
    checked = check_content(content, scan_again(content), feed, content.name)
    assert isinstance(checked, CheckedFile)
    found = list(spans(checked, lambda size: 3))
    if end in ("\r", "mixed"):
        assert found == [None]
        return
    assert len(found) == 3
    rows = 0
    engine = DuckDBEngine([], tmp_path / "scratch", readable=[tmp_path])
    for span in found:
        assert span is not None
        part = here(checked.part(span), tmp_path / "elsewhere", engine)
        read = engine.records({1: part.readable}, csv_shape(part))
        ((count,),) = engine.rows(f"SELECT count(*) FROM {read}")
        assert count == part.records
        rows += count
    assert rows == 60_000


def test_mixed_line_ends_make_a_file_irregular(tmp_path: Path) -> None:
    """The engine's own error for them leads to the careful reader; it shows no path or option."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"c0,c1\n" + b"1,2\r\n" * 200_000)
    engine = DuckDBEngine([], tmp_path / "scratch", readable=[tmp_path])
    lines = engine.records({1: path}, CsvShape(columns=2, delimiter=",", quoted=False))
    with pytest.raises(CsvBroken) as told:
        engine.rows(f"SELECT count(c0), max(c1) FROM {lines}")
    assert str(path) not in str(told.value)
    assert "strict_mode" not in str(told.value)
