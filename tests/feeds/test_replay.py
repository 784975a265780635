"""Refused rows that come back repaired: counted once, wherever they were and whatever happens."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import RetailmartError
from retailmart.feeds.quarantine import (
    REFUSED_FIELDS,
    Item,
    ItemState,
    Quarantine,
    origin_text,
    read_origin,
)
from retailmart.feeds.replay import export
from retailmart.lake import Lake
from retailmart.ledger.batches import Batches
from retailmart.tables import DataFile, Field, TableChange
from tests.support.amount import SEED, tries
from tests.support.shop import HEADER, Shop, sale

BAD = sale(2, day="2024-02-31", price="5.00")
GOOD = sale(2, day="2024-02-28", price="5.00")
COLUMNS = HEADER.split(",")
_STORIES = tries(2, 20)


def items(shop: Shop) -> list[Item]:
    """All refused rows and what became of them."""
    opened = shop.open()
    with opened.ledger() as ledger:
        return list(Quarantine(opened.quarantine("sales"), ledger).items())


def states(shop: Shop) -> list[tuple[str, int, str, str | None]]:
    """File, line, state and what closed it, of all refused rows."""
    return [(item.file, item.line, item.state.value, item.by) for item in items(shop)]


def open_rows(shop: Shop) -> dict[str, Item]:
    """The open rows by origin."""
    found = [item for item in items(shop) if item.state is ItemState.OPEN]
    by_origin = {origin_text(item.origin): item for item in found if item.origin}
    assert len(by_origin) == len(found), "no row is open twice"
    return by_origin


def only_origin(shop: Shop) -> str:
    """The origin of the only open row."""
    (origin,) = open_rows(shop)
    return origin


def replay_of(rows: Mapping[str, str], header: str = HEADER) -> str:
    """A repaired sheet: origin → line of sales."""
    lines = (f"{origin},{line}" for origin, line in rows.items())
    return "\n".join([f"_origin,{header}", *lines]) + "\n"


def exported(shop: Shop, path: Path) -> list[dict[str, str]]:
    """The rows of an export of all that is open."""
    opened = shop.open()
    feed = opened.project.feeds["sales"]
    path.unlink(missing_ok=True)
    with opened.ledger() as ledger:
        quarantine = Quarantine(opened.quarantine("sales"), ledger)
        if not export(path, feed, quarantine.items):
            return []
    with path.open(encoding="utf-8-sig", newline="") as text:
        return list(csv.DictReader(text))


def as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of an export as they are saved again."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def raw(shop: Shop, columns: str = "*") -> list[tuple[Any, ...]]:
    """The raw table's rows, sorted."""
    lake = shop.open().lake
    state = lake.state("raw/sales")
    assert state is not None
    engine = DuckDBEngine([lake.place], shop.folder / ".retailmart")
    try:
        return sorted(engine.rows(f"SELECT {columns} FROM {engine.define(state)}"), key=repr)
    finally:
        engine.close()


def total(shop: Shop) -> Decimal:
    """The money that the marts show; all of them show the same."""
    totals = {
        Decimal(sum(row[0] for row in shop.mart(mart, column)))
        for mart, column in (
            ("customer_mart", "total_cost"),
            ("customer_monthly_purchase", "monthly_total"),
        )
    }
    (money,) = totals
    return money


@pytest.fixture
def refused(shop: Shop) -> Shop:
    """A shop with one good row of 10.00 and an open refused one of 5.00, in line 3."""
    shop.sales("sales_1.csv", [sale(), BAD])
    shop.run()
    return shop


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_a_repaired_row_is_counted_and_closed(shop: Shop) -> None:
    """It reaches raw with its origin and all marts with its money, and nothing is open any more."""
    shop.sales("sales_1.csv", [sale(), BAD])
    shop.run()
    origin = only_origin(shop)
    shop.drop("sales_back.csv", replay_of({origin: GOOD}))
    report = shop.run()
    assert (report.rows("records"), report.rows("loaded"), report.rows("quarantined")) == (1, 1, 0)
    assert raw(shop, "customer_id, _origin") == [(1, None), (2, origin)]
    assert total(shop) == Decimal("15.00")
    assert states(shop) == [("sales_1.csv", 3, "closed", "sales_back.csv")]


@pytest.mark.every_engine
def test_what_was_exported_comes_back_as_if_delivered_well(shop: Shop, tmp_path: Path) -> None:
    """Further columns reach the marts as from the row's own file; the sheet's own never do."""
    header = HEADER + ',payment_mode,"a, note"'
    shop.sales("sales_1.csv", [BAD + ',@UPI,"x ""y"""', BAD + ",,"], header)
    shop.sales("sales_2.csv", [BAD])
    shop.run()
    rows = exported(shop, tmp_path / "out.csv")
    assert [row["payment_mode"] for row in rows] == ["'@UPI", "", ""]
    shop.drop("sales_back.csv", as_csv([{**row, "sales_date": "2024-02-28"} for row in rows]))
    shop.run()
    back = raw(shop, ", ".join((*COLUMNS, "additional_column")))
    shop.sales("sales_1.csv", [GOOD + ',@UPI,"x ""y"""', GOOD + ",,"], header)
    shop.sales("sales_2.csv", [GOOD])
    shop.sales("sales_back.csv", [sale(total="0.00")])
    shop.run()
    well = raw(shop, ", ".join((*COLUMNS, "additional_column")))
    well = [row for row in well if row[-2] != 0]
    assert back == well
    assert {row[-1] for row in back} == {
        None,
        '{"payment_mode":"@UPI","a, note":"x \\"y\\""}',
        '{"payment_mode":"","a, note":""}',
    }


def test_the_export_tells_place_and_reason(shop: Shop, tmp_path: Path) -> None:
    """Each row has its origin, file, line, rule and message; what can't be cut has its raw text."""
    shop.sales("north/sales_1.csv", [BAD, "1,1,tea", sale(quantity=2)])
    shop.run()
    first, second = exported(shop, tmp_path / "out.csv")
    assert (first["_file"], first["_line"], first["_rule"]) == ("north/sales_1.csv", "2", "type")
    assert first["_message"] == "sales_date should be a date such as 2024-01-31"
    assert read_origin(first["_origin"]) == (1, 2)
    assert [first[name] for name in COLUMNS] == BAD.split(",")
    assert (second["_rule"], second["_raw"]) == ("columns", "1,1,tea")
    assert {second[name] for name in COLUMNS} == {""}


@pytest.mark.every_engine
def test_a_row_that_could_not_be_cut_can_be_filled_in(shop: Shop, tmp_path: Path) -> None:
    """People write its columns beside the raw text, and it counts."""
    shop.sales("sales_1.csv", [sale(), "1,1,tea"])
    shop.run()
    (row,) = exported(shop, tmp_path / "out.csv")
    shop.drop("sales_b.csv", as_csv([{**row, **dict(zip(COLUMNS, GOOD.split(","), strict=True))}]))
    shop.run()
    assert total(shop) == Decimal("15.00")
    assert open_rows(shop) == {}


def test_formulas_go_out_defused_and_come_back_as_they_were(shop: Shop, tmp_path: Path) -> None:
    """A name like =1+1 can't run in a spreadsheet, and is the same in the marts afterwards."""
    names = ["=1+1", "@SUM(A1)", "+tea", "-", "'quoted", "tea", "\t=x"]
    lines = [BAD.replace("tea", f'"{name}"') for name in names]
    shop.sales("sales_1.csv", lines)
    shop.sales("sales_2.csv", [sale()])
    shop.run()
    rows = exported(shop, tmp_path / "out.csv")
    shown = [row["product_name"] for row in rows]
    assert shown == ["'=1+1", "'@SUM(A1)", "'+tea", "'-", "''quoted", "tea", "'\t=x"]
    shop.drop("sales_back.csv", as_csv([{**row, "sales_date": "2024-02-28"} for row in rows]))
    shop.run()
    assert Counter(raw(shop, "product_name")) == Counter((name,) for name in [*names, "tea"])


def test_a_header_can_hold_a_formula_too(shop: Shop, tmp_path: Path) -> None:
    """A further column's name goes out defused and comes back as it was."""
    shop.sales("sales_1.csv", [sale() + ",a", BAD + ",b"], HEADER + ",=HYPERLINK(1)")
    shop.run()
    (row,) = exported(shop, tmp_path / "out.csv")
    assert row["'=HYPERLINK(1)"] == "b"
    shop.drop("sales_back.csv", as_csv([{**row, "sales_date": "2024-02-28"}]))
    shop.run()
    assert set(raw(shop, "additional_column")) == {
        ('{"=HYPERLINK(1)":"a"}',),
        ('{"=HYPERLINK(1)":"b"}',),
    }


@pytest.mark.every_engine
def test_a_feed_with_its_own_delimiter_and_encoding(shop: Shop, tmp_path: Path) -> None:
    """The export speaks as the feed's files do, so that it can be dropped as it is."""
    feed = shop.folder / "feeds" / "sales.yml"
    words = feed.read_text(encoding="utf-8")
    feed.write_text(f'delimiter: ";"\nencoding: cp1252\n{words}', encoding="utf-8")
    line = BAD.replace("tea", "café").replace(",", ";")
    shop.drop("sales_1.csv", f"{HEADER.replace(',', ';')}\n{line}\n".encode("cp1252"))
    shop.run()
    opened = shop.open()
    with opened.ledger() as ledger:
        quarantine = Quarantine(opened.quarantine("sales"), ledger)
        export(tmp_path / "out.csv", opened.project.feeds["sales"], quarantine.items)
    content = (tmp_path / "out.csv").read_bytes()
    assert "café".encode("cp1252") in content
    shop.drop("sales_back.csv", content.replace(b"2024-02-31", b"2024-02-28"))
    shop.run()
    assert raw(shop, "product_name, _origin") == [("café", "1#2")]


# exactly once


def test_the_same_repaired_row_never_counts_twice(refused: Shop) -> None:
    """Delivered again under another name, edited or not, in one run or later: it counts once."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", replay_of({origin: GOOD}))
    refused.run()
    refused.drop("sales_copy.csv", replay_of({origin: GOOD}))
    refused.drop("sales_edited.csv", replay_of({origin: sale(3, price="5.00")}))
    report = refused.run()
    assert report.count("duplicate") == 1
    assert (report.rows("loaded"), report.rows("quarantined")) == (0, 1)
    (found,) = [row for row in refused.refused() if row[0] == "sales_edited.csv"]
    assert found[2:4] == ("_origin", "replay")
    assert found[4] == f"{origin} is not counted: it is counted already, from sales_back.csv"
    assert total(refused) == Decimal("15.00")
    assert {state for *_, state, _ in states(refused)} == {"closed"}


def test_one_row_twice_in_a_file_and_in_two_files_of_a_run(refused: Shop) -> None:
    """The first one counts; the others are told where it came already."""
    origin = only_origin(refused)
    twice = f"_origin,{HEADER}\n{origin},{GOOD}\n{origin},{sale(3, price='5.00')}\n"
    refused.drop("sales_back.csv", twice)
    refused.drop("sales_more.csv", replay_of({origin: sale(4, price="5.00")}))
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (1, 2)
    messages = [row[4] for row in refused.refused() if row[3] == "replay"]
    told = f"{origin} is not counted: it came already in line 2 of sales_back.csv"
    assert messages == [told, told]
    assert raw(refused, "customer_id, _origin") == [(1, None), (2, origin)]
    assert open_rows(refused) == {}


def test_a_corrected_replay_replaces_its_older_version(refused: Shop) -> None:
    """Under the same name its own rows are free again, and the newest text counts."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", replay_of({origin: GOOD}))
    refused.run()
    refused.drop("sales_back.csv", replay_of({origin: sale(7, price="6.00")}))
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (1, 0)
    assert raw(refused, "customer_id, _origin") == [(1, None), (7, origin)]
    assert total(refused) == Decimal("16.00")


@pytest.mark.every_engine
def test_a_row_that_a_corrected_replay_lacks_is_open_again(shop: Shop) -> None:
    """What leaves with the replay's older version can be replayed once more."""
    shop.sales("sales_1.csv", [sale(), BAD, BAD])
    shop.run()
    one, two = open_rows(shop)
    shop.drop("sales_back.csv", replay_of({one: GOOD, two: GOOD}))
    shop.run()
    shop.drop("sales_back.csv", replay_of({one: GOOD}))
    shop.run()
    assert set(open_rows(shop)) == {two}
    shop.drop("sales_other.csv", replay_of({two: GOOD}))
    shop.run()
    assert total(shop) == Decimal("20.00")
    assert open_rows(shop) == {}


@pytest.mark.every_engine
def test_undoing_the_replay_opens_the_row_again(refused: Shop) -> None:
    """The row leaves the marts and waits to be repaired."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", replay_of({origin: GOOD}))
    run_id = refused.run().run_id
    refused.open().undo(run_id)
    assert total(refused) == Decimal("10.00")
    assert only_origin(refused) == origin
    refused.drop("sales_back.csv", replay_of({origin: GOOD}))
    refused.run()
    assert total(refused) == Decimal("15.00")


def test_a_row_that_is_refused_again_keeps_its_first_origin(refused: Shop, tmp_path: Path) -> None:
    """One row stays one open item, shown as it was written last, until it is good."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", replay_of({origin: BAD.replace("02-31", "02-30")}))
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (0, 1)
    assert states(refused) == [
        ("sales_1.csv", 3, "replaced", "sales_back.csv"),
        ("sales_1.csv", 3, "open", None),
    ]
    (row,) = exported(refused, tmp_path / "out.csv")
    assert (row["_origin"], row["sales_date"]) == (origin, "2024-02-30")
    refused.drop("sales_third.csv", as_csv([{**row, "sales_date": "2024-02-29"}]))
    refused.run()
    assert raw(refused, "customer_id, _origin") == [(1, None), (2, origin)]
    assert {state for *_, state, _ in states(refused)} == {"closed"}


def test_the_place_of_a_second_refusal_means_the_first_origin(refused: Shop) -> None:
    """Who writes down where the row was refused last still replays the same row."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", replay_of({origin: BAD.replace("02-31", "02-30")}))
    refused.run()
    (again,) = [item for item in items(refused) if item.state is ItemState.OPEN]
    rows = {origin_text((again.file_id, again.row.line)): GOOD, origin: GOOD}
    refused.drop("sales_third.csv", replay_of(rows))
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (1, 1)
    assert raw(refused, "customer_id, _origin") == [(1, None), (2, origin)]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", "_origin is empty"),
        ("soon", "there is no refused row soon in feed sales"),
        ("17:42", "there is no refused row 17:42"),
        ("1#2", "there is no refused row 1#2"),
        ("99#3", "there is no refused row 99#3"),
        ("1#3#", "there is no refused row 1#3#"),
        ("9999999999999999999#3", "there is no refused row"),
    ],
)
@pytest.mark.every_engine
def test_a_row_of_unknown_origin_is_kept_out(refused: Shop, said: str, told: str) -> None:
    """It could be any row, counted or not; the file is to be corrected, the item stays open."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", f"_origin,{HEADER}\n{said},{GOOD}\n{origin},{GOOD},extra\n")
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (0, 2)
    messages = {row[1]: row[4] for row in refused.refused() if row[0] == "sales_back.csv"}
    assert messages[2].startswith(told)
    assert states(refused) == [
        ("sales_1.csv", 3, "open", None),
        ("sales_back.csv", 2, "astray", None),
        ("sales_back.csv", 3, "astray", None),
    ]
    refused.drop("sales_back.csv", replay_of({origin: GOOD}))
    refused.run()
    assert total(refused) == Decimal("15.00")
    assert {state for *_, state, _ in states(refused)} == {"closed", "left"}


def test_a_row_astray_cannot_be_replayed_by_its_own_place(refused: Shop) -> None:
    """Otherwise a row of forgotten origin would count beside the same row of known origin."""
    refused.drop("sales_back.csv", f"_origin,{HEADER}\n,{GOOD}\n")
    refused.run()
    (astray,) = [item for item in items(refused) if item.state is ItemState.UNKNOWN_ORIGIN]
    place = origin_text((astray.file_id, astray.row.line))
    refused.drop("sales_more.csv", replay_of({place: GOOD}))
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (0, 1)


def test_blank_lines_of_a_spreadsheet_are_no_rows(refused: Shop) -> None:
    """Excel writes lines of commas where a sheet was longer once."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", replay_of({origin: GOOD}) + ",,,,,,,,\n , ,,,,,,,\n\n,\n")
    report = refused.run()
    assert (report.rows("records"), report.rows("loaded"), report.rows("quarantined")) == (1, 1, 0)


def test_blank_lines_do_not_move_the_places_of_refused_rows(shop: Shop) -> None:
    """Between blank lines and rows of unknown origin, each refused row has its own text."""
    shop.sales("sales_1.csv", [BAD, BAD])
    shop.run()
    one, two = open_rows(shop)
    lines = [",,,,,,,,", f"9#9,{GOOD}", f"{one},{BAD}", ",,,,,,,,", f"{two},{sale(day='x')}"]
    shop.drop("sales_back.csv", "\n".join([f"_origin,{HEADER}", *lines]) + "\n")
    shop.run()
    found = {row[1]: row[5] for row in shop.refused() if row[0] == "sales_back.csv"}
    assert found == {3: lines[1], 4: lines[2], 6: lines[4]}
    assert {item.row.line for item in open_rows(shop).values()} == {4, 6}


def test_a_header_in_other_words_brings_rows_back(refused: Shop) -> None:
    """Order, letter case and padding of the sheet's own columns do not matter."""
    origin = only_origin(refused)
    header = f"{HEADER}, _Origin ,_RULE"
    refused.drop("sales_back.csv", f"{header}\n{GOOD},{origin},type\n")
    refused.run()
    assert raw(refused, "customer_id, additional_column, _origin") == [
        (1, None, None),
        (2, None, origin),
    ]


def test_without_origin_the_words_of_the_sheet_are_columns_like_others(shop: Shop) -> None:
    """Only _origin makes a file a replay; a till may well have a column _line."""
    shop.sales("sales_1.csv", [sale() + ",7"], HEADER + ",_line")
    shop.run()
    assert raw(shop, "additional_column, _origin") == [('{"_line":"7"}', None)]


@pytest.mark.every_engine
def test_quoted_and_multiline_cells_come_back(shop: Shop, tmp_path: Path) -> None:
    """A name with line ends, quotes and commas is cut, exported and counted as it was."""
    name = 'two\nlines, "quoted"'
    cell = '"' + name.replace('"', '""') + '"'
    shop.sales("sales_1.csv", [sale().replace("tea", cell), BAD.replace("tea", cell)])
    shop.run()
    (row,) = exported(shop, tmp_path / "out.csv")
    assert row["product_name"] == name
    shop.drop("sales_back.csv", as_csv([{**row, "sales_date": "2024-02-28"}]))
    shop.run()
    assert raw(shop, "product_name") == [(name,), (name,)]


@pytest.mark.every_engine
def test_a_feed_without_months_takes_rows_back(shop: Shop) -> None:
    """Where rows go to no month, they are counted once all the same."""
    feed = "files: [things*.csv]\ncolumns: {a: {type: INT, mandatory: true}, b: STRING}\n"
    (shop.folder / "feeds" / "things.yml").write_text(feed)
    shop.drop("things_1.csv", "a,b\n1,x\ntwo,y\n")
    shop.run()
    shop.drop("things_back.csv", "_origin,a,b\n1#3,2,y\n1#3,2,z\n9#9,9,q\n")
    report = shop.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (1, 2)
    shop.drop("things_more.csv", "_origin,a,b\n1#3,3,y\n")
    assert shop.run().rows("loaded") == 0


def test_a_row_of_another_feed_is_kept_out(refused: Shop) -> None:
    """An origin is looked for in the quarantine of the file's own feed."""
    feed = "files: [things*.csv]\ncolumns: {a: {type: INT, mandatory: true}}\n"
    (refused.folder / "feeds" / "things.yml").write_text(feed)
    refused.drop("things_1.csv", f"_origin,a\n{only_origin(refused)},1\n")
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (0, 1)


# the file a row came from


def test_a_correction_of_the_file_itself_closes_its_rows(refused: Shop) -> None:
    """Delivered anew as a whole, the file brings its row itself; an old sheet adds nothing."""
    origin = only_origin(refused)
    refused.sales("sales_1.csv", [sale(), GOOD])
    refused.drop("sales_back.csv", replay_of({origin: GOOD}))
    report = refused.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (2, 1)
    assert total(refused) == Decimal("15.00")
    assert {state for *_, state, _ in states(refused)} == {"left"}
    refused.drop("sales_later.csv", replay_of({origin: sale(9, price="5.00")}))
    assert refused.run().rows("loaded") == 0


def test_a_correction_is_refused_while_its_rows_are_counted_elsewhere(refused: Shop) -> None:
    """The corrected file would bring the repaired row once more; the way out is told and works."""
    origin = only_origin(refused)
    refused.drop("sales_back.csv", replay_of({origin: GOOD}))
    run_id = refused.run().run_id
    refused.sales("sales_1.csv", [sale(), sale(2, day="2024-02-27", price="5.00")])
    report = refused.run()
    assert report.count("refused") == 1
    message = str(report.files[0].message)
    assert f"sales_back.csv (take that back first: retailmart undo {run_id})" in message
    assert total(refused) == Decimal("15.00")
    assert any(name.startswith("error_files/bad_schema/sales_1") for name in refused.archived())
    refused.open().undo(run_id)
    refused.sales("sales_1.csv", [sale(), sale(2, day="2024-02-27", price="5.00")])
    refused.run()
    assert total(refused) == Decimal("15.00")
    assert [row[0] for row in refused.mart("customer_mart", "customer_id")] == [1, 2]


@pytest.mark.every_engine
def test_a_correction_counts_where_the_replay_leaves_with_it(refused: Shop) -> None:
    """In one run the file is corrected and the sheet replaced by one without the row."""
    refused.sales("sales_2.csv", [BAD.replace("tea", "milk")])
    refused.run()
    one, two = open_rows(refused)
    refused.drop("sales_back.csv", replay_of({one: GOOD, two: GOOD}))
    refused.run()
    refused.sales("sales_1.csv", [sale(), sale(2, day="2024-02-27", price="5.00")])
    refused.drop("sales_back.csv", replay_of({two: GOOD}))
    report = refused.run()
    assert report.count("refused") == 0
    assert total(refused) == Decimal("20.00")


def test_a_sheet_under_the_name_of_its_file_is_refused(refused: Shop) -> None:
    """It would replace the file whose rows it repairs, and all good rows would leave."""
    origin = only_origin(refused)
    refused.drop("sales_1.csv", replay_of({origin: GOOD}))
    report = refused.run()
    assert report.count("refused") == 1
    assert "deliver it under another name" in str(report.files[0].message)
    assert total(refused) == Decimal("10.00")
    assert only_origin(refused) == origin


def test_a_sheet_under_the_name_of_another_delivery_is_refused(refused: Shop) -> None:
    """A file of good rows only is not replaced by a sheet of other files' rows."""
    origin = only_origin(refused)
    refused.sales("sales_2.csv", [sale(4)])
    refused.run()
    refused.drop("sales_2.csv", replay_of({origin: GOOD}))
    assert refused.run().count("refused") == 1
    assert total(refused) == Decimal("20.00")


def test_a_sheet_under_the_name_of_a_file_without_good_rows_is_refused(shop: Shop) -> None:
    """Otherwise its rows would be of a file that has left, and nobody could bring them back."""
    shop.sales("sales_1.csv", [BAD])
    shop.run()
    origin = only_origin(shop)
    shop.drop("sales_1.csv", replay_of({origin: GOOD}))
    assert shop.run().count("refused") == 1
    assert only_origin(shop) == origin


def test_undo_of_the_origin_says_what_holds_its_rows(refused: Shop) -> None:
    """A run whose rows were replayed by another is taken back after that one."""
    refused.drop("sales_back.csv", replay_of({only_origin(refused): GOOD}))
    second = refused.run().run_id
    with pytest.raises(RetailmartError, match="replayed its rows; undo that first"):
        refused.open().undo(second - 1)


# upgrades and crashes


def test_a_quarantine_of_an_older_version_is_read_and_kept(refused: Shop, tmp_path: Path) -> None:
    """Rows without cells go out with their raw text, come back, and new ones join them."""
    lake = refused.open().lake
    _forget_columns(lake, refused.folder / ".retailmart", batch_id=500)
    (row,) = exported(refused, tmp_path / "out.csv")
    assert row["_raw"] == BAD
    assert row["sales_date"] == ""
    fields = dict(zip(COLUMNS, GOOD.split(","), strict=True))
    refused.drop("sales_back.csv", as_csv([{**row, **fields, "_raw": ""}]))
    # The table's lane says batch 500 is in it; the ledger goes on behind that.
    refused.backend.execute(_BATCHES_FROM_600)
    refused.sales("sales_2.csv", [BAD])
    refused.run()
    assert total(refused) == Decimal("15.00")
    state = lake.state("quarantine/sales")
    assert state is not None
    assert state.fields == REFUSED_FIELDS
    assert [(file, state) for file, _, state, _ in states(refused)] == [
        ("sales_1.csv", "closed"),
        ("sales_2.csv", "open"),
    ]


_BATCHES_FROM_600 = (
    "INSERT INTO retailmart_batches (batch_id, run_id, as_of, stamp, state)"
    " SELECT 600, run_id, as_of, '20200101_000000', 'abandoned' FROM retailmart_runs LIMIT 1"
)


def _forget_columns(lake: Lake, scratch: Path, batch_id: int) -> None:
    """Write the quarantine as it was before rows were kept with their cells."""
    table = "quarantine/sales"
    state = lake.state(table)
    assert state is not None
    old: tuple[Field, ...] = REFUSED_FIELDS[:-2]
    engine = DuckDBEngine([lake.place], scratch)
    columns = ", ".join(f'"{field.name}"' for field in old)
    prefix = lake.prefix(batch_id)
    query = f"SELECT {columns} FROM {engine.define(state)}"
    written = engine.write(query, lake.folder(table), prefix, ())
    engine.close()
    files: tuple[DataFile, ...] = written.files
    gone = tuple(file.path for file in state.files)
    lake.commit(TableChange(table, old, (), files, gone), batch_id)


_MOMENTS = ("prepare", "mark_committed", "mark_published", "mark_done")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", _MOMENTS)
def test_a_run_that_breaks_off_ends_as_if_it_had_not(
    refused: Shop, monkeypatch: pytest.MonkeyPatch, moment: str, *, after: bool
) -> None:
    """Wherever it stops, the next run counts the repaired row once and closes it once."""
    origin = only_origin(refused)
    rows = f"_origin,{HEADER}\n{origin},{GOOD}\n{origin},{GOOD}\n5#5,{GOOD}\n"
    refused.drop("sales_back.csv", rows)
    with monkeypatch.context() as patch:
        patch.setattr(Batches, moment, _breaking(getattr(Batches, moment), after=after))
        with pytest.raises(KeyboardInterrupt):
            refused.run()
    refused.run()
    assert refused.run().nothing_to_do
    assert total(refused) == Decimal("15.00")
    assert raw(refused, "customer_id, _origin") == [(1, None), (2, origin)]
    assert [state for *_, state, _ in states(refused)] == ["closed", "closed", "astray"]


def _breaking(inner: Callable[..., None], *, after: bool) -> Callable[..., None]:
    def broken(*arguments: Any) -> None:
        if after:
            inner(*arguments)
        raise KeyboardInterrupt

    return broken


@pytest.mark.parametrize("seed", range(_STORIES))
def test_whatever_comes_each_row_is_counted_open_or_gone(shop: Shop, seed: int) -> None:
    """Deliveries, corrections, sheets, copies and undone runs, at random: nothing counts twice.

    Each row ever refused is in just one of three places: in raw, once; open, once; or gone with
    its file.
    """
    story = _Story(shop, random.Random(f"{SEED} {seed}"))
    for _ in range(8):
        story.goes_on()
        shop.run()
        story.assert_holds()


class _Story:
    """A till and its clerk: each row sold has a number of its own, its customer's."""

    def __init__(self, shop: Shop, chance: random.Random) -> None:
        self.shop = shop
        self.chance = chance
        self.sold = 0
        self.files: dict[str, list[int]] = {}

    def goes_on(self) -> None:
        for _ in range(self.chance.randint(1, 3)):
            acts = [self.deliver, self.correct, self.replay, self.replay, self.undo]
            self.chance.choice(acts)()

    def deliver(self) -> None:
        name = f"sales_{self.chance.randint(1, 4)}.csv"
        self.files[name] = [self._number() for _ in range(self.chance.randint(1, 4))]
        self.shop.sales(name, map(self._sale, self.files[name]))

    def correct(self) -> None:
        """The till sends a whole file again, with the same sales in other words."""
        if self.files:
            name = self.chance.choice(sorted(self.files))
            self.shop.sales(name, map(self._sale, self.files[name]))

    def replay(self) -> None:
        known = [item for item in items(self.shop) if item.origin]
        if not known:
            return
        rows = [self.chance.choice(known) for _ in range(self.chance.randint(1, 4))]
        lines = [
            f"{origin_text(item.origin)},{self._repaired(item)}" for item in rows if item.origin
        ]
        name = f"sales_sheet_{self.chance.randint(1, 4)}.csv"
        self.shop.drop(name, "\n".join([f"_origin,{HEADER}", *lines]) + "\n")

    def undo(self) -> None:
        with self.shop.open().ledger() as ledger:
            runs = [record.run_id for record in ledger.runs.last(3)]
        if runs:
            with suppress(RetailmartError):  # for good reasons a run can often not be taken back
                self.shop.open().undo(self.chance.choice(runs))

    def _number(self) -> int:
        self.sold += 1
        return self.sold

    def _sale(self, number: int) -> str:
        day = self.chance.choice(["2024-01-15", "2024-02-10", "2024-02-31", "2024-02-30"])
        return sale(number, day=day, price="1.00")

    def _repaired(self, item: Item) -> str:
        customer = (item.row.cells or {})["customer_id"]
        day = self.chance.choice(["2024-01-16", "2024-02-11", "2024-02-31"])
        return sale(int(customer), day=day, price="1.00")

    def assert_holds(self) -> None:
        found = items(self.shop)
        state = self.shop.open().lake.state("raw/sales")
        rows = raw(self.shop, "customer_id, _origin") if state else []
        assert max(Counter(customer for customer, _ in rows).values(), default=0) <= 1
        counted = Counter(origin for _, origin in rows if origin)
        closed = {origin_text(i.origin) for i in found if i.state is ItemState.CLOSED and i.origin}
        assert set(counted) == closed
        assert max(counted.values(), default=0) <= 1
        is_open = Counter(
            origin_text(i.origin) for i in found if i.state is ItemState.OPEN and i.origin
        )
        assert max(is_open.values(), default=0) <= 1
        assert not set(is_open) & closed
        ours = {i.origin for i in found if i.origin and i.state is not ItemState.LEFT}
        assert {origin_text(origin) for origin in ours} == set(is_open) | closed
        if rows:
            assert total(self.shop) == len(rows)
