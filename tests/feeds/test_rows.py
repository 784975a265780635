"""Values as feeds declare them, from landing to the database and back from quarantine."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import openpyxl
import pytest

from tests.support.shop import Called, Shop
from tests.test_schema_policies import define, deliver, settle

InShop = Callable[..., subprocess.CompletedProcess[str]]
SHOWN = "SELECT id, day, amount, note FROM till"
MART = f"-- refresh: full\n-- key: [id]\n-- publish: true\n{SHOWN}\n"
COLUMNS = """\
columns:
  id: {{type: INT, mandatory: true}}
  day: {{type: DATE, mandatory: true{day}}}
  amount: {{type: "DECIMAL(12,2)", mandatory: true{amount}}}
  note: {note}
"""
GERMAN = 'delimiter: ";"\ndecimal: ","\nthousands: "."\ncurrency: €\n'


def columns(day: str = "", amount: str = "", note: str = "STRING") -> str:
    """The columns of a feed, with more said of some."""
    return COLUMNS.format(day=day, amount=amount, note=note)


@pytest.fixture
def till(shop: Shop) -> Shop:
    """A project of one feed `till`, with a mart that shows all of it."""
    return settle(shop, mart=MART)


@pytest.fixture
def retailmart(shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch) -> InShop:
    """The command line, in the shop's folder."""
    monkeypatch.chdir(shop.folder)
    return lambda *words: called(shop.folder, *map(str, words))


def shown(shop: Shop) -> list[tuple[Any, ...]]:
    """The rows that the marts show, days and amounts as texts."""
    texts = "id, CAST(day AS VARCHAR), CAST(amount AS VARCHAR), note"
    return shop.mart("everything", texts)


def why(shop: Shop) -> list[str]:
    """What is told of each refused row."""
    return [message for _, _, _, _, message, _ in shop.refused("till")]


def test_dates_of_the_us_make_months(till: Shop) -> None:
    """Dates in the feed's format are days and months; other dates are refused with the format."""
    define(till, "balance: amount\n", columns(day=', format: "%m/%d/%Y"'))
    deliver(till, "a.csv", "id,day,amount", "1,1/5/2019,1.00", "2,12/31/2019,2", "3,31/12/2019,3")
    assert shown(till) == [(1, "2019-01-05", "1.00", None), (2, "2019-12-31", "2.00", None)]
    assert why(till) == ["day should be a date written as %m/%d/%Y"]


def test_an_undeclared_date_order_is_told(till: Shop) -> None:
    """Where no format is declared, the reason says which part seems to stand first."""
    define(till, columns=columns())
    deliver(till, "a.csv", "id,day,amount", "1,1/5/2019,1", "2,12/31/2019,2", "3,31.12.2019,3")
    assert shown(till) == []
    said = why(till)
    assert "its day or its month stands first" in said[0]
    assert "its month seems to stand first: write its order as `format:`" in said[1]
    assert "its day seems to stand first" in said[2]
    define(till, "schema: {types: freeze}\n", columns())
    report = deliver(till, "b.csv", "id,day,amount", "1,12/30/2019,1")
    assert "its month seems to stand first" in str(report.files[0].message)


def test_thousands_with_dots_are_thousands(till: Shop) -> None:
    """What a feed declares is read so, in amounts and rules; other marks are refused."""
    rule = "rules:\n  - {name: small, column: amount, range: [-4000, 4000], action: warn}\n"
    define(till, f"{GERMAN}balance: amount\n{rule}", columns())
    rows = ["1;2024-01-02;1.234,56;a", "2;2024-01-02;-3.000;b", "3;2024-01-02;12,5 €;c"]
    rows += ["4;2024-01-02;1,234.56;d", "5;2024-01-02;9.999.999.999,99;e", "6;2024-01-02;3.0;f"]
    report = deliver(till, "a.csv", "id;day;amount;note", *rows)
    amounts = {row[0]: row[2] for row in shown(till)}
    assert amounts == {1: "1234.56", 2: "-3000.00", 3: "12.50", 5: "9999999999.99"}
    assert report.files[0].warned == {"small": 1}
    assert why(till) == ["amount should be an amount such as 1.234,50, with at most 2 decimals"] * 2


@pytest.mark.parametrize(
    ("more", "taken"),
    [
        ('delimiter: ";"\n', None),
        ('delimiter: ";"\ndecimal: "."\n', "-3.00"),
        ('delimiter: ";"\nschema: {types: evolve}\n', None),
        ('delimiter: [",", ";"]\n', None),
    ],
)
def test_a_point_that_may_be_either_is_refused(till: Shop, more: str, taken: str | None) -> None:
    """Undeclared, in files of other delimiters than commas, -3.000 is neither -3 nor -3000."""
    define(till, more, columns())
    deliver(till, "a.csv", "id;day;amount;note", "2;2024-01-02;-3.000;b", "3;2024-01-02;1.50;c")
    assert {row[0]: row[2] for row in shown(till)} == {3: "1.50"} | ({2: taken} if taken else {})
    deliver(till, "b.csv", "id;day;amount;note", "4;2024-01-03;1.234;b")
    assert len(shown(till)) == 1 + bool(taken)
    words = "its point may stand before decimals or between thousands"
    assert [words in said for said in why(till)] == ([False] if taken else [True, True])


def test_decimal_commas_alone_take_no_points(till: Shop) -> None:
    """With decimals declared and groups not, a point is no part of a number; the reason says so."""
    define(till, 'delimiter: ";"\ndecimal: ","\n', columns())
    deliver(till, "a.csv", "id;day;amount", "1;2024-01-02;1,5", "2;2024-01-02;-3.000")
    assert [row[2] for row in shown(till)] == ["1.50"]
    (said,) = why(till)
    assert said.endswith('it seems to have points between thousands: say `thousands: "."`')


def test_accounting_is_by_setting(till: Shop) -> None:
    """Signs and parentheses count where a column declares them, quoted or not."""
    define(till, columns=columns(amount=", thousands: ',', currency: [$], parentheses: true"))
    deliver(till, "a.csv", "id,day,amount", '1,2024-01-02,"$1,240.00"', "2,2024-01-02,($5.00)")
    assert [row[2] for row in shown(till)] == ["1240.00", "-5.00"]


def test_nulls_are_of_feed_and_column(till: Shop) -> None:
    r"""Nulls of feeds are for typed columns, \N and string_nulls for texts; columns may differ."""
    more = 'nulls: ["-", "\\\\N"]\nstring_nulls: [n/a]\n'
    define(till, more, columns().replace(", mandatory: true}\n  note", "}\n  note"))
    rows = [
        f"{n},2024-01-02,{amount},{note}"
        for n, (amount, note) in enumerate(
            [
                ("-", "-"),
                ("\\N", "\\N"),
                ("1", "n/a"),
                ("n/a", "x"),
                ("\u00a0-\u202f", "\u00a0\\N "),
            ]
        )
    ]
    deliver(till, "a.csv", "id,day,amount,note", *rows)
    assert [row[2:] for row in shown(till)] == [
        *((None, "-"), (None, None), ("1.00", None), (None, None)),
    ]
    own = columns(note="{type: STRING, nulls: ['NULL']}").replace(
        ", mandatory: true}\n  n", "}\n  n"
    )
    define(till, more, own)
    deliver(till, "b.csv", "id,day,amount,note", "7,2024-01-02,\\N,NULL", "8,2024-01-02,,\\N")
    assert [row[2:] for row in shown(till)[-2:]] == [(None, None), (None, "\\N")]


def test_a_default_fills_a_column_that_a_file_lacks(till: Shop) -> None:
    """Only a file without the column gets it; rows that come back from quarantine get it, too."""
    define(
        till,
        GERMAN,
        columns(amount=", default: 1.50").replace(
            "note: STRING", ("note: {type: STRING, mandatory: true, default: shop}")
        ),
    )
    deliver(till, "a.csv", "id;day", "1;2024-01-02", "2;soon")
    deliver(till, "b.csv", "id;day;amount;note", "3;2024-01-02;2,5;", "4;2024-01-02;;x")
    assert shown(till) == [(1, "2024-01-02", "1.50", "shop")]
    assert sorted(why(till))[:2] == ["amount is empty", "day should be a date such as 2024-01-31"]
    assert "note is empty" in why(till)


def test_a_default_comes_back_from_quarantine(till: Shop, retailmart: InShop) -> None:
    """A repaired row of a file that lacks the column has the default as the other rows do."""
    define(till, GERMAN, columns(amount=", default: 1.50"))
    deliver(till, "a.csv", "id;day;note", "1;2024-01-02;x", "2;soon;x")
    retailmart("quarantine", "export", "--to", "out.csv")
    path = till.folder / "out.csv"
    path.write_text(path.read_text(encoding="utf-8-sig").replace("soon", "2024-01-03"))
    retailmart("quarantine", "replay", "out.csv")
    till.run()
    assert shown(till) == [(1, "2024-01-02", "1.50", "x"), (2, "2024-01-03", "1.50", "x")]


def test_what_excel_typed_comes_back_in_the_feeds_form(till: Shop, retailmart: InShop) -> None:
    """A date and a number of a workbook mean what they show, also where points are thousands."""
    define(till, GERMAN, columns(day=', format: ["%d.%m.%Y", "%d.%m.%y"]'))
    deliver(till, "a.csv", "id;day;amount;note", "1;31.02.2024;x;a", "2;31.02.2024;-1.234;b")
    retailmart("quarantine", "export", "--to", "out.xlsx")
    book = openpyxl.load_workbook(till.folder / "out.xlsx")
    header, first, second = book.worksheets[0].iter_rows()
    place = {cell.value: number for number, cell in enumerate(header)}
    first[place["amount"]].value = 1234.5
    for line in (first, second):
        line[place["day"]].value = date(2024, 2, 1)
    book.save(till.folder / "out.xlsx")
    retailmart("quarantine", "replay", "out.xlsx")
    till.run()
    assert shown(till) == [(1, "2024-02-01", "1234.50", "a"), (2, "2024-02-01", "-1234.00", "b")]


def test_declared_values_widen_their_columns(till: Shop) -> None:
    """What a wider type holds is measured in the feed's own marks; days stay days in its format."""
    more = f"{GERMAN}schema: {{types: evolve}}\n"
    define(till, more, columns(day=', format: "%d.%m.%Y"', amount="").replace("12,2", "6,2"))
    deliver(till, "a.csv", "id;day;amount", "1;05.01.2024;1.234,50", "2;06.01.2024;1.234.567,891")
    assert shown(till) == [
        (1, "2024-01-05", "1234.500", None),
        (2, "2024-01-06", "1234567.891", None),
    ]


# JSON

JSON = 'format: json\ndecimal: ","\nthousands: "."\n'
ORDER = '{{"id": {}, "day": "2024-01-02", "amount": {}}}'


def define_json(shop: Shop, more: str) -> None:
    """Write the feed's file, for JSON."""
    define(shop, more, columns())
    path = shop.folder / "feeds" / "till.yml"
    path.write_text(path.read_text().replace('["*.csv", "*.csv.gz"]', '["*.json"]'))


def test_numbers_of_json_are_plain(till: Shop, retailmart: InShop) -> None:
    """Marks are for texts: the number 3.000 is three, the text "3.000" three thousand."""
    define_json(till, JSON)
    given = ['"3.000"', "3.000", '"12,5"', "12.5", '"1.5"', "null", "-0.50"]
    rows = [ORDER.format(n, text) for n, text in enumerate(given)]
    rows += ['{"id": 7, "day": "x", "amount": 3.000}', '{"id": 8, "day": "x", "amount": 1.5}']
    till.drop("a.json", f"[{', '.join(rows)}]")
    till.run()
    found = {0: "3000.00", 1: "3.00", 2: "12.50", 3: "12.50", 6: "-0.50"}
    assert {row[0]: row[2] for row in shown(till)} == found
    retailmart("quarantine", "export", "--to", "out.csv")
    with (till.folder / "out.csv").open(encoding="utf-8-sig", newline="") as text:
        cells = [{**row, "day": "2024-01-02"} for row in csv.DictReader(text)]
    with (till.folder / "out.csv").open("w", newline="") as text:
        writer = csv.DictWriter(text, cells[0])
        writer.writeheader()
        writer.writerows(cells)
    retailmart("quarantine", "replay", "out.csv")
    till.run()
    # Nobody knows what 3.000 in a sheet was: it stays refused, and is not guessed.
    assert {row[0]: row[2] for row in shown(till)} == found | {4: "1.50", 8: "1.50"}


@pytest.mark.parametrize("key", ["orders", "data.orders"])
def test_records_within_an_object(till: Shop, retailmart: InShop, key: str) -> None:
    """The list under the feed's key counts, whatever stands around it; repairs come back in it."""
    define_json(till, f"format: json\nrecords: {key}\n")
    rows = [json.loads(ORDER.format(n, n)) for n in range(3)] + [{"id": 7, "day": "x", "amount": 1}]
    around = {"count": 4, "links": {"orders": [1], "next": None}, "orders": rows, "more": ["]}"]}
    around = {"orders": {}, "data": around, "z": 1.5} if "." in key else around
    till.drop("a.json", json.dumps(around, indent=1))
    till.run()
    assert [row[0] for row in shown(till)] == [0, 1, 2]
    (refused,) = till.refused("till")
    assert refused[1] == 4
    retailmart("quarantine", "export", "--to", "out.csv")
    path = till.folder / "out.csv"
    path.write_text(path.read_text(encoding="utf-8-sig").replace(",x,", ",2024-01-09,"))
    retailmart("quarantine", "replay", "out.csv")
    till.run()
    assert [row[:2] for row in shown(till)][-1] == (7, "2024-01-09")


# files without rows, files without a good row


@pytest.mark.parametrize("name", ["a.csv", "a.json", "wrapped.json"])
def test_a_correction_without_rows_empties(till: Shop, name: str) -> None:
    """With `empty: allowed` its rows leave, and a day without sales is no error file."""
    head, row, empty = "id,day,amount", "1,2024-01-02,1.00", "id,day,amount\n"
    if name == "a.csv":
        define(till, "empty: allowed\nbalance: amount\n", columns())
        full = f"{head}\n{row}\n"
    else:
        records = "records: orders\n" if name == "wrapped.json" else ""
        define_json(till, f"format: json\nempty: allowed\nbalance: amount\n{records}")
        form = '{{"orders": {}}}' if records else "{}"
        full, empty = form.format(f"[{ORDER.format(1, 1)}]"), form.format("[]")
    till.drop(name, empty)
    report = till.run()
    assert [file.state for file in report.files] == ["loaded"]
    till.drop(name, full)
    till.run()
    assert shown(till) == [(1, "2024-01-02", "1.00", None)]
    till.drop(name, empty)
    report = till.run()
    assert [(file.state, file.records) for file in report.files] == [("loaded", 0)]
    assert report.batches[0].differences[0].rows == -1
    assert report.batches[0].differences[0].amount == Decimal("-1.00")
    assert shown(till) == []
    assert till.published("everything") == []
    till.drop("other_" + name, empty)
    assert [file.state for file in till.run().files] == ["duplicate"]


def test_a_file_without_rows_is_refused_unless_allowed(till: Shop) -> None:
    """By default it counts nothing and changes nothing, and the reason names the setting."""
    define(till, columns=columns())
    deliver(till, "a.csv", "id,day,amount", "1,2024-01-02,1.00")
    report = deliver(till, "a.csv", "id,day,amount")
    assert "`empty: allowed` in feeds/till.yml" in str(report.files[0].message)
    assert len(shown(till)) == 1


@pytest.mark.parametrize(("setting", "code"), [("", 0), ("all_refused: fail\n", 5)])
def test_a_file_without_a_good_row_is_in_the_exit_code(
    till: Shop, retailmart: InShop, setting: str, code: int
) -> None:
    """The run is done, what is good is counted, and the code tells where the feed says so."""
    define(till, setting, columns())
    till.drop("a.csv", "id,day,amount\n1,2024-01-02,x\n2,soon,1\n3\n")
    till.drop("b.csv", "id,day,amount\n4,2024-01-02,x\n5,2024-01-02,1\n")
    done = retailmart("run", "--output", "json")
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["rows"] == {"read": 5, "loaded": 1, "quarantined": 4}
    assert ("a.csv: all of its rows are refused" in done.stderr) == bool(code)
    assert [row[0] for row in shown(till)] == [5]
    assert retailmart("run").returncode == 0


@pytest.mark.parametrize("setting", ["", "all_refused: fail\n"])
def test_a_run_that_takes_nothing_of_what_is_there_is_no_success(
    till: Shop, retailmart: InShop, setting: str
) -> None:
    """Whether files are refused as a whole or row by row, and whatever their feed says of that."""
    define(till, setting, columns())
    till.drop("a.csv", "id,day,amount\n1,2024-01-02,x\n2,soon,1\n")
    till.drop("notes.txt", "")
    done = retailmart("run", "--output", "json")
    assert done.returncode == 5, done.stderr
    problems = json.loads(done.stdout)["problems"]
    assert [problem.partition(":")[0] for problem in problems] == ["a.csv", "notes.txt"]
    assert done.stderr.count("a.csv: all of its rows are refused") == 1
    till.drop("a.csv", "id,day,amount\n1,2024-01-02,x\n")
    till.drop("b.csv", "id,day,amount\n5,2024-01-02,1\n")
    assert retailmart("run").returncode == (5 if setting else 0)
    assert retailmart("run").returncode == 0
