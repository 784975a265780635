"""Refused rows on the command line: listed, exported, repaired by people, replayed."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Collection
from datetime import date
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.support.pages import commands
from tests.support.shop import HEADER, Called, Shop, Typed, sale

BAD = sale(2, day="2024-02-31", price="5.00")
InShop = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def marts() -> Collection[str]:
    """One mart: what becomes of refused rows is no affair of theirs."""
    return ("customer_mart",)


@pytest.fixture
def retailmart(shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch) -> InShop:
    """The command line, in the shop's folder."""
    monkeypatch.chdir(shop.folder)
    return lambda *words: called(shop.folder, *map(str, words))


@pytest.fixture
def refused(shop: Shop) -> Shop:
    """A shop with two open rows, in lines 3 and 4 of a file in a folder."""
    shop.sales("north/sales_1.csv", [sale(), BAD, "1,1,tea"])
    shop.run()
    return shop


def told(result: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def repair(path: Path, **cells: str) -> None:
    """Write the same into columns of all rows of a sheet, as people would with Excel."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = [{**row, **cells} for row in csv.DictReader(text)]
        with path.open("w", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return
    book = openpyxl.load_workbook(path)
    header, *lines = book.worksheets[0].iter_rows()
    names = [cell.value for cell in header]
    for line in lines:
        for name, value in cells.items():
            line[names.index(name)].value = value
    book.save(path)


ALL_CELLS = dict(zip(HEADER.split(","), sale(2, price="5.00").split(","), strict=True))


@pytest.mark.parametrize("name", ["out.csv", "out.xlsx"])
def test_from_list_to_closed(refused: Shop, retailmart: InShop, name: str) -> None:
    """Listed, exported, repaired and replayed: counted, closed, and said so all along."""
    assert told(retailmart("quarantine", "list", "-o", "json"))["rows"] == [
        {"file": "north/sales_1.csv", "rule": "columns", "rows": 1},
        {"file": "north/sales_1.csv", "rule": "type", "rows": 1},
    ]
    wrote = retailmart("quarantine", "export", "--to", name)
    assert wrote.returncode == 0, wrote.stderr
    assert f"Wrote 2 rows to {name}" in wrote.stderr
    repair(refused.folder / name, **ALL_CELLS)
    back = retailmart("quarantine", "replay", name)
    assert back.returncode == 0, back.stderr
    assert re.search(r"Put 2 rows into landing as north/sales_replay_\w{12}\.csv\.", back.stderr)
    assert "Next: retailmart run" in back.stderr
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (2, 0)
    assert [row[0] for row in refused.mart("customer_mart", "total_cost")] == [5, 5, 10]
    after = told(retailmart("quarantine", "list", "-o", "json"))
    assert after == {"rows": [], "files": [], "closed": 2, "dismissed": 0}
    text = retailmart("quarantine", "list").stdout
    assert text == "no refused rows or files are open\n       2 rows closed; see them with --all\n"


def test_all_shows_what_brought_a_row_back(refused: Shop, retailmart: InShop) -> None:
    """Closed rows are listed and shown with the file that they are counted from."""
    retailmart("quarantine", "export", "--to", "out.csv")
    repair(refused.folder / "out.csv", **ALL_CELLS)
    path = told(retailmart("quarantine", "replay", "out.csv", "-o", "json"))["path"]
    refused.run()
    listed = retailmart("quarantine", "list", "--all").stdout
    assert f"1 row   type  north/sales_1.csv  (closed: counted from {path})" in listed
    shown = retailmart("quarantine", "show", "sales_1.csv", "--all").stdout
    why = "sales_date should be a date such as 2024-01-31"
    assert f"line 3: {why}  (closed: counted from {path})\n    {BAD}\n" in shown
    rows = told(retailmart("quarantine", "show", "sales_1.csv", "--all", "-o", "json"))["rows"]
    assert [(row["origin"], row["state"], row["by"]) for row in rows] == [
        ("1#3", "closed", path),
        ("1#4", "closed", path),
    ]
    plain = retailmart("quarantine", "show", "sales_1.csv").stdout
    assert plain == (
        "north/sales_1.csv has no refused rows that are open\n"
        "       2 rows closed; see them with --all\n"
    )


def test_one_files_rows_are_exported(refused: Shop, retailmart: InShop) -> None:
    """A file is named by its path or name; the rows of others stay out."""
    refused.sales("sales_2.csv", [BAD])
    refused.run()
    assert (
        "Wrote 1 row " in retailmart("quarantine", "export", "sales_2.csv", "--to", "a.csv").stderr
    )
    assert "sales_2.csv" in (refused.folder / "a.csv").read_text(encoding="utf-8-sig")
    whole = retailmart("quarantine", "export", "--feed", "sales", "--to", "b.csv")
    assert "Wrote 3 rows" in whole.stderr


def test_a_delivery_that_is_refused_does_not_hide_the_open_rows(
    refused: Shop, retailmart: InShop
) -> None:
    """The rows of the version that still counts are shown beside the newest one's reason."""
    refused.drop("north/sales_1.csv", "a,b\n1,2\n")
    refused.run()
    shown = retailmart("quarantine", "show", "sales_1.csv").stdout
    assert shown.startswith("north/sales_1.csv lacks the columns")
    assert "line 3: " in shown
    wrote = retailmart("quarantine", "export", "sales_1.csv", "--to", "a.csv")
    assert "Wrote 2 rows" in wrote.stderr


def test_a_refused_file_is_listed_until_it_comes_well(shop: Shop, retailmart: InShop) -> None:
    """A later good delivery under its name settles it."""
    shop.drop("sales_1.csv", "a,b\n1,2\n")
    shop.run()
    assert len(told(retailmart("quarantine", "list", "-o", "json"))["files"]) == 1
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    assert told(retailmart("quarantine", "list", "-o", "json"))["files"] == []


def test_nothing_open_writes_nothing(shop: Shop, retailmart: InShop) -> None:
    """No empty sheet is left about."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    result = retailmart("quarantine", "export", "--to", "out.csv")
    assert (result.returncode, "nothing was written" in result.stderr) == (0, True)
    assert not (shop.folder / "out.csv").exists()


def test_rows_that_are_not_filled_in_stay_open(refused: Shop, retailmart: InShop) -> None:
    """A row of raw text alone is left out of the replay, and said so."""
    retailmart("quarantine", "export", "--to", "out.csv")
    text = (refused.folder / "out.csv").read_text(encoding="utf-8-sig")
    (refused.folder / "out.csv").write_text(text.replace("2024-02-31", "2024-02-28"))
    back = retailmart("quarantine", "replay", "out.csv")
    assert "Put 1 row into landing" in back.stderr
    assert "1 row not filled in: still open." in back.stderr
    refused.run()
    listed = told(retailmart("quarantine", "list", "-o", "json"))
    assert [line["rule"] for line in listed["rows"]] == ["columns"]


def test_what_excel_typed_is_what_a_till_writes(refused: Shop, retailmart: InShop) -> None:
    """Numbers and dates of cells that people formatted otherwise are read as they are shown."""
    retailmart("quarantine", "export", "--to", "out.xlsx")
    book = openpyxl.load_workbook(refused.folder / "out.xlsx")
    header, *lines = book.worksheets[0].iter_rows()
    names = [cell.value for cell in header]
    typed = {**ALL_CELLS, "price": 12.1, "quantity": 1, "total_cost": 12.100000000000001}
    for line in lines:
        for name, value in typed.items():
            cell = line[names.index(name)]
            cell.number_format = "General"
            cell.value = value
        day = line[names.index("sales_date")]
        day.number_format = "dd.mm.yyyy"
        day.value = date(2024, 2, 28)
    book.save(refused.folder / "out.xlsx")
    retailmart("quarantine", "replay", "out.xlsx")
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (2, 0)
    assert {str(row[0]) for row in refused.mart("customer_mart", "total_cost")} == {
        "10.00",
        "12.10",
    }


def test_a_sheet_replayed_twice_is_refused_the_second_time(
    refused: Shop, retailmart: InShop
) -> None:
    """Before the next run it changes nothing; after it, all its rows are told to be counted."""
    retailmart("quarantine", "export", "--to", "out.csv")
    repair(refused.folder / "out.csv", **ALL_CELLS)
    first = told(retailmart("quarantine", "replay", "out.csv", "-o", "json"))
    assert told(retailmart("quarantine", "replay", "out.csv", "-o", "json")) == first
    assert refused.run().rows("loaded") == 2
    again = retailmart("quarantine", "replay", "out.csv")
    assert again.returncode == 1
    assert f"row 2: 1#3 is counted already, from {first['path']}" in again.stderr
    assert refused.run().nothing_to_do


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["1#3,{0}", "1#3,{0}"], "row 3: 1#3 stands in row 2 already"),
        (["1#3,{0}", "1#2,{0}"], "row 3: there is no refused row 1#2"),
        (["1#3,{0}", "17:42,{0}"], "row 3: there is no refused row 17:42"),
        (["1#3,{0}", ",{0}"], "row 3: _origin is empty"),
        (["1#3,{0},more"], "row 2: it has 10 values, the header 9"),
        (["x,{0}"], "no row of the sheet has an _origin as it was exported"),
        (["1#3"], "no row of the sheet is filled in"),
        ([], "no row of the sheet has an _origin"),
    ],
)
def test_a_sheet_with_a_mistake_is_not_replayed_at_all(
    refused: Shop, retailmart: InShop, rows: list[str], words: str
) -> None:
    """Every mistake is told with its row, and nothing gets into landing."""
    lines = [f"_origin,{HEADER}", *(row.format(sale()) for row in rows)]
    (refused.folder / "out.csv").write_text("\n".join(lines) + "\n")
    result = retailmart("quarantine", "replay", "out.csv")
    assert (result.returncode, result.stdout) == (1, "")
    assert words in result.stderr
    assert [p for p in (refused.folder / "landing").rglob("*") if p.is_file()] == []


def test_many_mistakes_are_cut_short(refused: Shop, retailmart: InShop) -> None:
    """Ten rows are told, the others are counted."""
    lines = [f"_origin,{HEADER}", f"1#3,{sale()}", *[f"1#{n},{sale()}" for n in range(100, 125)]]
    (refused.folder / "out.csv").write_text("\n".join(lines) + "\n")
    result = retailmart("quarantine", "replay", "out.csv")
    assert result.stderr.count("there is no refused row") == 10
    assert "and 15 rows more" in result.stderr


def test_what_the_feeds_encoding_lacks_is_told(refused: Shop, retailmart: InShop) -> None:
    """A letter that the feed's files can't hold is told with its row."""
    feed = refused.folder / "feeds" / "sales.yml"
    words = feed.read_text(encoding="utf-8")
    feed.write_text(f"encoding: cp1252\n{words}", encoding="utf-8")
    line = sale().replace("tea", "₦")
    (refused.folder / "out.csv").write_text(f"_origin,{HEADER}\n1#3,{line}\n", encoding="utf-8")
    result = retailmart("quarantine", "replay", "out.csv")
    assert result.returncode == 1
    assert "row 2: '₦' can't be written in cp1252" in result.stderr


def test_an_error_of_a_formula_is_told(refused: Shop, retailmart: InShop) -> None:
    """#REF! is no value of anything; but a till's own text #N/A comes back."""
    retailmart("quarantine", "export", "--to", "out.xlsx")
    repair(refused.folder / "out.xlsx", **ALL_CELLS)
    repair(refused.folder / "out.xlsx", product_name="#REF!")
    result = retailmart("quarantine", "replay", "out.xlsx")
    assert result.returncode == 1
    assert "row 2: product_name shows #REF!; write what it should say" in result.stderr


@pytest.mark.parametrize(
    ("patterns", "paths", "expected"),
    [
        ("[sales*.csv]", ["sales_1.csv"], r"sales_replay_\w+\.csv"),
        ("[sales*.csv]", ["n/a/sales_1.csv", "n/b/sales_2.csv"], r"n/sales_replay_\w+\.csv"),
        ("['sales_??.csv*', '*.txt']", ["sales_12.csv"], r"sales_xx\.csv_replay_\w+\.csv"),
        ("[sales.csv]", ["sales.csv"], r"replay_\w+/sales\.csv"),
        ("['sales_[0-9]*']", ["sales_1.csv"], r"sales_0_replay_\w+\.csv"),
        ("['north/sales*.csv']", ["north/sales_1.csv"], r"north/sales_replay_\w+\.csv"),
    ],
)
def test_the_name_in_landing_is_one_that_the_feed_claims(
    shop: Shop, retailmart: InShop, patterns: str, paths: list[str], expected: str
) -> None:
    """It is new, in the folder of the rows' files, and made from the feed's own patterns."""
    feed = shop.folder / "feeds" / "sales.yml"
    feed.write_text(re.sub(r"files: .*", f"files: {patterns}", feed.read_text(encoding="utf-8")))
    for n, path in enumerate(paths):
        shop.sales(path, [sale(n), BAD])
    shop.run()
    retailmart("quarantine", "export", "--to", "out.csv")
    repair(shop.folder / "out.csv", **ALL_CELLS)
    path = told(retailmart("quarantine", "replay", "out.csv", "-o", "json"))["path"]
    assert re.fullmatch(expected, path)
    assert shop.run().rows("loaded") == len(paths)


def test_where_no_name_is_claimed_the_way_out_is_told(shop: Shop, retailmart: InShop) -> None:
    """A pattern of one path leaves no room for another file."""
    feed = shop.folder / "feeds" / "sales.yml"
    words = re.sub(r"files: .*", "files: [north/sales.csv]", feed.read_text(encoding="utf-8"))
    feed.write_text(words, encoding="utf-8")
    shop.sales("north/sales.csv", [sale(), BAD])
    shop.run()
    retailmart("quarantine", "export", "--to", "out.csv")
    repair(shop.folder / "out.csv", **ALL_CELLS)
    result = retailmart("quarantine", "replay", "out.csv")
    assert result.returncode == 1
    assert "add a pattern such as sales_replay*.csv to `files` in feeds/sales.yml" in result.stderr


def test_several_feeds_are_told_apart(refused: Shop, retailmart: InShop) -> None:
    """A sheet is of one feed: export asks which, replay finds out."""
    feed = "files: [things*.csv]\ncolumns: {a: {type: INT, mandatory: true}, b: STRING}\n"
    (refused.folder / "feeds" / "things.yml").write_text(feed)
    refused.drop("things_1.csv", "a,b\ntwo,y\n")
    refused.run()
    result = retailmart("quarantine", "export", "--to", "out.csv")
    assert result.returncode == 1
    assert "Add --feed: sales, things" in result.stderr
    assert (
        "no feed 'thing'"
        in retailmart("quarantine", "export", "--feed", "thing", "--to", "out.csv").stderr
    )
    retailmart("quarantine", "export", "--feed", "things", "--to", "out.csv")
    repair(refused.folder / "out.csv", a="2")
    assert told(retailmart("quarantine", "replay", "out.csv", "-o", "json"))["feed"] == "things"
    (refused.folder / "mix.csv").write_text("_origin,a\n1#3,1\n2#2,1\n")
    mixed = retailmart("quarantine", "replay", "mix.csv")
    assert "rows of several feeds: sales, things" in mixed.stderr


def test_a_sheet_in_the_way_is_not_overwritten(refused: Shop, retailmart: InShop) -> None:
    """Yesterday's half repaired sheet is somebody's work."""
    (refused.folder / "out.csv").write_text("work")
    result = retailmart("quarantine", "export", "--to", "out.csv")
    assert result.returncode == 1
    assert "is there already" in result.stderr


def test_the_page_on_refused_rows_works_as_told(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/quarantine.md, in its order; before the replay people repair."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    shop = tmp_path / "shop"
    assert typed("retailmart run --as-of 2024-04-01", shop).returncode == 0
    good = dict(zip(HEADER.split(","), sale().split(","), strict=True))
    for line in commands("docs/quarantine.md"):
        if "replay" in line:
            repair(shop / shlex.split(line)[-1], **good)
        done = typed(line, shop)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert "closed: counted from sales_replay_" in done.stdout
    assert "mandatory  sales_2024-01-01.csv  (closed: " in done.stdout


@pytest.fixture
def wrong_feed(shop: Shop, retailmart: InShop) -> Shop:
    """The feed lacked `currency`, so every row was refused; it is mended, and the file is back."""
    lines = [sale(n, price="$4.50") for n in (1, 2, 3)]
    shop.sales("sales_$.csv", lines)
    done = retailmart("run", "--as-of", "2024-04-01")
    assert "1, 1 of them without a good row" in done.stderr
    assert "0 of 3 rows loaded" in " ".join(done.stderr.split())
    feed = shop.folder / "feeds" / "sales.yml"
    feed.write_text('currency: ["$"]\n' + feed.read_text())
    shop.sales("sales_$.csv", lines)
    return shop


def test_rows_that_a_wrong_feed_refused_come_back_as_they_are(
    wrong_feed: Shop, retailmart: InShop
) -> None:
    """The duplicate's reason says the two commands; the sheet needs no repair. Status knows."""
    nothing = "sales_$.csv: 0 of 3 rows loaded; see: retailmart quarantine show sales_$.csv"
    assert nothing in retailmart("status").stdout
    (line,) = wrong_feed.run().files
    assert line.state == "duplicate"
    assert line.message is not None
    assert "counted already, but 3 of its 3 rows are in quarantine" in line.message
    *_, typed = line.message.partition("bring them back: ")
    for words in typed.split(", then "):
        done = retailmart(*shlex.split(words)[1:])
        assert done.returncode == 0, done.stderr
    retailmart("run", "--as-of", "2024-04-01")
    assert [row[0] for row in wrong_feed.mart("customer_mart", "customer_id")] == [1, 2, 3]
    assert "0 of 3 rows" not in retailmart("status").stdout
    wrong_feed.sales("sales_$.csv", [sale(n, price="$4.50") for n in (1, 2, 3)])
    (line,) = wrong_feed.run().files
    assert line.message == "has the same content as sales_$.csv, which is counted already"


@pytest.mark.parametrize("again", [True, False])
def test_undo_takes_a_file_that_a_wrong_feed_refused_in_again(
    wrong_feed: Shop, retailmart: InShop, again: bool
) -> None:
    """Whether or not the duplicate came in between: its rows are read as the feed says now."""
    if again:
        wrong_feed.run()
    done = retailmart("undo", "1")
    assert done.returncode == 0, done.stderr
    wrong_feed.run()
    assert [row[0] for row in wrong_feed.mart("customer_mart", "customer_id")] == [1, 2, 3]
    assert "no refused rows" in retailmart("quarantine", "list").stdout


def test_what_nobody_will_repair_is_dismissed(refused: Shop, retailmart: InShop) -> None:
    """By line, by rule, by file: the list gets empty, sums stay proven, and it can be undone."""
    refused.drop("notes.csv", "a,b\n1,2\n")
    refused.run()
    dismiss = ("quarantine", "dismiss")
    assert retailmart(*dismiss, "--reason", "x").returncode == 2
    assert retailmart(*dismiss, "sales_1.csv").returncode == 2
    wrong = retailmart(*dismiss, "sales_1.csv", "--line", "9", "--reason", "x")
    assert "has no open refused row in line 9" in wrong.stderr
    one = retailmart(*dismiss, "sales_1.csv", "--line", "3", "--reason", "a test\nof the till")
    assert "1 row is dismissed" in one.stderr
    assert refused.open().status().refused.rows == 1
    assert (
        told(retailmart(*dismiss, "--rule", "columns", "--reason", "cut off", "-o", "json"))["rows"]
        == 1
    )
    whole = retailmart(*dismiss, "notes.csv", "--reason", "not ours")
    assert "1 file is dismissed" in whole.stderr
    empty = retailmart("quarantine", "list").stdout
    assert empty.startswith("no refused rows or files are open\n       3 dismissed; see them with")
    assert retailmart("quarantine", "list", "-q").stdout == ""
    listed = retailmart("quarantine", "list", "--dismissed").stdout
    assert "north/sales_1.csv line 3: sales_date should be a date" in listed
    assert "    dismissed: a test\\nof the till (" in listed
    assert retailmart("status").stdout.startswith("ok\n")
    assert retailmart("verify", "--engines", "duckdb", "--files", "all").returncode == 0
    assert retailmart("verify", "--database").returncode == 0
    assert retailmart(*dismiss, "sales_1.csv", "--reason", "again").returncode == 1
    back = retailmart(*dismiss, "sales_1.csv", "--undo")
    assert "2 rows are open again" in back.stderr
    assert retailmart(*dismiss, "notes.csv", "--undo").returncode == 0
    assert refused.open().status().refused.rows == 2
    assert list(refused.open().status().refused.files) == ["notes.csv"]


def test_a_dismissed_row_is_not_replayed_until_it_is_taken_back(
    refused: Shop, retailmart: InShop
) -> None:
    """The refusal names the row, who has dismissed it and why, and the command."""
    retailmart("quarantine", "export", "--to", "out.csv")
    retailmart("quarantine", "dismiss", "sales_1.csv", "--line", "3", "--reason", "a test")
    assert "Wrote 1 row " in retailmart("quarantine", "export", "--to", "open.csv").stderr
    repair(refused.folder / "out.csv", **ALL_CELLS)
    no = retailmart("quarantine", "replay", "out.csv")
    assert no.returncode == 1
    assert "1#3 is dismissed, by " in no.stderr
    assert ": a test; take that back first: retailmart quarantine dismiss" in no.stderr
    words = no.stderr.partition("take that back first: retailmart ")[2].splitlines()[0]
    assert retailmart(*words.split()).returncode == 0
    assert retailmart("quarantine", "replay", "out.csv").returncode == 0
    assert refused.run().rows("loaded") == 2
    assert refused.open().status().refused.rows == 0


def test_a_row_refused_again_names_the_till_s_file_and_line(
    refused: Shop, retailmart: InShop
) -> None:
    """Listed, shown and exported under the first file; it counts once as open."""
    retailmart("quarantine", "export", "--to", "out.csv")
    repair(refused.folder / "out.csv", **{**ALL_CELLS, "sales_date": "2023-02-29"})
    path = told(retailmart("quarantine", "replay", "out.csv", "-o", "json"))["path"]
    refused.run()
    listed = told(retailmart("quarantine", "list", "-o", "json"))
    assert listed["rows"] == [{"file": "north/sales_1.csv", "rule": "type", "rows": 2}]
    assert refused.open().status().refused.rows == 2
    shown = retailmart("quarantine", "show", "sales_1.csv").stdout
    assert re.search(rf"line 3: sales_date .*  \(refused again in {path}, line 2\)\n", shown)
    assert re.search(rf"line 4: sales_date .*  \(refused again in {path}, line 3\)\n", shown)
    retailmart("quarantine", "export", "sales_1.csv", "--to", "again.csv")
    sheet = (refused.folder / "again.csv").read_text(encoding="utf-8-sig")
    assert "1#3," in sheet
    assert ",north/sales_1.csv,3,type," in sheet or "north/sales_1.csv,4,type," in sheet
    retailmart("quarantine", "dismiss", "sales_1.csv", "--line", "3", "--reason", "x")
    assert refused.open().status().refused.rows == 1


def test_rows_that_only_warned_are_listed_with_their_lines(shop: Shop, retailmart: InShop) -> None:
    """They are loaded; the list says where each is, in a regular file and in one that is not."""
    shop.sales("a.csv", ["x"])
    shop.sales("sales_1.csv", [sale(), sale(2, total="99.00"), BAD, sale(3, total="98.00")])
    shop.sales("sales_2.csv", [sale(4), "1,1,tea", sale(5, total="97.00")])
    shop.run()
    found = told(retailmart("quarantine", "warned", "-o", "json"))
    assert [(row["file"], row["line"], row["rule"]) for row in found["rows"]] == [
        ("sales_1.csv", 3, "total_is_price_times_quantity"),
        ("sales_1.csv", 5, "total_is_price_times_quantity"),
        ("sales_2.csv", 4, "total_is_price_times_quantity"),
    ]
    text = retailmart("quarantine", "warned", "sales_2.csv").stdout
    assert text.startswith("sales_2.csv line 4: ")
    assert sale(5, total="97.00") in text
    assert retailmart("quarantine", "warned", "no.csv").returncode == 1
    assert not list(shop.folder.glob(".retailmart/warned-*"))
