"""JSON feeds from landing to raw and back: the same contracts as CSV."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from retailmart.cli import main
from retailmart.files import check_json
from tests.support.shop import Shop, sale

FEED = """files: ["users*"]
format: json
columns:
  market: {type: STRING, mandatory: true, folder: 1}
  customer_id: {type: INT, mandatory: true, aliases: [Customer ID]}
  is_blocked: {type: BOOLEAN, aliases: [Is Blocked]}
  created_at: {type: TIMESTAMP, aliases: [Created At]}
  amount: {type: "DECIMAL(12,2)", aliases: [Outstanding Amount]}
  employees: {type: INT, aliases: [Number of employees, Number of Employees]}
  city: {type: STRING, aliases: [address.city]}
  order_number: {type: BIGINT, aliases: [Order], pattern: "YR-([0-9]+),.*"}
nulls: ["-"]
extra_columns: more
rules:
  - {name: sane, column: amount, range: [-1000, 1000], action: quarantine}
"""
USER = {"Customer ID": 1, "Is Blocked": "No", "Created At": "2024-01-05T10:00:00Z"}


@pytest.fixture
def users(shop: Shop) -> Shop:
    """A shop with a feed of users, and sales."""
    (shop.folder / "feeds" / "users.yml").write_text(FEED)
    return shop


def raw(shop: Shop, columns: str = "market, customer_id, amount, more") -> list[tuple[Any, ...]]:
    """The rows of the users' raw table as it is now, sorted."""
    import duckdb
    from deltalake import DeltaTable

    folder = shop.folder / "lake" / "raw" / "users"
    files = DeltaTable(str(folder)).file_uris()
    if not files:
        return []
    return duckdb.connect().read_parquet(files).project(columns).order("ALL").fetchall()


@pytest.mark.parametrize("name", ["users.json", "users.jsonl", "USERS.NDJSON", "users.json.gz"])
@pytest.mark.parametrize("array", [True, False], ids=["list", "lines"])
def test_the_content_tells_the_layout(users: Shop, name: str, array: bool) -> None:
    """A list or one object a line, under any of the names, packed or not."""
    records = [{**USER, "Outstanding Amount": "-"}, {**USER, "Outstanding Amount": 12.5, "x": [1]}]
    text = json.dumps(records) if array else "\n".join(map(json.dumps, records))
    content = text.encode()
    users.drop(f"market1/{name}", gzip.compress(content) if name.endswith(".gz") else content)
    users.run()
    assert raw(users) == [
        ("market1", 1, Decimal("12.50"), '{"x":[1]}'),
        ("market1", 1, None, None),
    ]
    assert users.refused("users") == []


@pytest.mark.every_engine
def test_two_markets_differ(users: Shop) -> None:
    """Columns by alias, letter case and inner object; a pattern cuts; texts and numbers alike."""
    one = {" customer id ": "7", "Number of Employees": "3", "address": {"City": "Lagos", "zip": 5}}
    two = {"Customer ID": 8, "Number of employees": 4, "Order": "YR-11262518,0"}
    users.drop("market1/users.json", json.dumps([one]))
    users.drop("market2/users.json", json.dumps([two]))
    users.run()
    assert raw(users, "market, customer_id, employees, city, order_number, more") == [
        ("market1", 7, 3, "Lagos", None, '{"address":{"zip":5}}'),
        ("market2", 8, 4, None, 11262518, None),
    ]


@pytest.mark.every_engine
def test_nested_objects_can_be_kept(users: Shop) -> None:
    """With `nested: keep` an object is JSON text in its column."""
    text = FEED.replace("[address.city]", "[address]").replace("json\n", "json\nnested: keep\n", 1)
    (users.folder / "feeds" / "users.yml").write_text(text)
    users.drop("market1/users.json", '[{"Customer ID": 1, "Address": {"city": "A", "n": 1.50}}]')
    users.run()
    assert raw(users, "city, more") == [('{"city":"A","n":1.50}', None)]


@pytest.mark.every_engine
def test_refused_records_tell_where(users: Shop) -> None:
    """Line is the record's number, the message has its JSON pointer, raw its own text."""
    rows = [
        '{"Customer ID": 1}',
        '{"Customer ID": 2, "Outstanding Amount": 1.005}',
        '{"Customer ID" : "x"}',
        '{"Is Blocked": true}',
        '{"Customer ID": 5, "Outstanding Amount": 1000.01}',
        '{"Customer ID": 6, "a/b~": NaN}',
        "7",
    ]
    users.drop("market1/users.json", f"[{', '.join(rows)}]")
    report = users.run()
    found = {(line, column, rule): (words, text) for _, line, column, rule, words, text
             in users.refused("users")}  # fmt: skip
    assert set(found) == {
        (2, "amount", "type"),
        (3, "customer_id", "type"),
        (4, "customer_id", "mandatory"),
        (5, "amount", "sane"),
        (6, None, "not_finite"),
        (7, None, "no_object"),
    }
    assert found[2, "amount", "type"][0].endswith(", at /1/Outstanding Amount")
    assert found[3, "customer_id", "type"] == (
        "customer_id should be a whole number such as 42, at /2/Customer ID",
        rows[2],
    )
    assert found[4, "customer_id", "mandatory"][0].endswith(", at /3")
    assert found[6, None, "not_finite"][0].endswith("at /5/a~1b~0")
    (line,) = report.batches[0].files
    assert (line.records, line.loaded, line.quarantined) == (7, 1, 6)


@pytest.mark.every_engine
def test_large_files_come_out_the_same(users: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the engine reads a file as it is or it is written anew, raw and quarantine agree."""
    records = [
        {"Customer ID": number if number % 40 else "x", "Is Blocked": number % 2 == 0,
         "Outstanding Amount": number / 100, "note": f'tea "{number}"', "n": {"a": [number]}}
        for number in range(1, 3_001)
    ]  # fmt: skip
    seen: list[list[tuple[Any, ...]]] = []
    refused: list[Counter[tuple[Any, ...]]] = []
    for number, least in enumerate((0, 1 << 60)):
        monkeypatch.setattr(check_json, "WORTH_A_LOOK", least)
        content = json.dumps(records, indent=number or None, separators=(",", ":"))
        users.drop("market1/users.json", content)
        users.run()
        refused.append(Counter(row[:5] for row in users.refused("users")))
        seen.append(raw(users, "customer_id, is_blocked, amount, more"))
    assert len(seen[0]) == 2_925
    assert seen[0] == seen[1]
    assert refused[0].total() == 75
    assert refused[1] - refused[0] == refused[0]


@pytest.mark.every_engine
def test_a_correction_replaces_and_a_copy_does_not_count(users: Shop) -> None:
    """The same name with new content supersedes; the same content again is a duplicate."""
    users.drop("market1/users.json", '[{"Customer ID": 1}, {"Customer ID": 2}]')
    users.run()
    users.drop("market1/users.json", '[{"Customer ID": 1}]')
    users.drop("market1/users_copy.json", '[{"Customer ID": 1}]')
    report = users.run()
    assert sorted(line.state for line in report.batches[0].files) == ["duplicate", "loaded"]
    assert raw(users, "customer_id") == [(1,)]


@pytest.mark.parametrize(
    ("name", "content", "folder", "words"),
    [
        ("users.csv", "Customer ID\n1\n", "wrong_file_types", "takes JSON"),
        ("sales.json", "[]", "wrong_file_types", "takes CSV"),
        ("users.xml", "<a/>", "wrong_file_types", "neither a CSV nor a JSON"),
        ("other.json", "[{}]", "unknown", "fits no feed"),
        ("users.json", "", "bad_schema", "is empty"),
        ("users.json", "[]", "bad_schema", "holds no record"),
        ("users.json", "[1, 2]", "bad_schema", "neither a list of objects nor one object a line"),
        ("users.json", "a,b\n1,2\n", "bad_schema", "neither a list of objects nor"),
        ("users.json", '[{"Customer ID": 1},\n{"Customer ID" 2}]', "bad_schema", "byte 37, line 2"),
        ("users.json", '[{"Customer ID": 1}', "bad_schema", "list is not closed at byte 20"),
        ("users.json", b'[{"Customer ID": "\xff"}]', "bad_schema", "is not UTF-8, from byte 19"),
        ("users.json", '[{"Custmer ID": 1}]', "bad_schema", "with the column customer_id"),
        ("users.json", "[1]".encode("utf-16"), "bad_schema", "is UTF-16 text"),
        ("users.json", json.dumps([{"Customer ID": 1, **{f"k{n}": 1 for n in range(1001)}}]),
         "bad_schema", "more than 1,000 different keys"),
    ],
)  # fmt: skip
def test_refused_files_say_why(
    users: Shop, name: str, content: str | bytes, folder: str, words: str
) -> None:
    """In one sentence, beside the file."""
    (users.folder / "feeds" / "sales.yml").write_text(
        (users.folder / "feeds" / "sales.yml").read_text().replace("sales*.csv.gz", "sales*.json")
    )
    users.drop(f"market1/{name}", content)
    users.run()
    reason = users.folder / "archive" / "error_files" / folder / "market1" / f"{name}.reason.txt"
    assert words in reason.read_text()
    assert reason.read_text().count("\n") == 1


def test_without_a_json_feed_json_is_no_known_type(shop: Shop) -> None:
    """As ever, and in the same words."""
    shop.sales("sales.csv", [sale()])
    shop.drop("users.json", "[{}]")
    shop.run()
    reason = shop.folder / "archive/error_files/wrong_file_types/users.json.reason.txt"
    assert "is no CSV file, and no feed takes other formats" in reason.read_text()


@pytest.mark.every_engine
def test_nulls_of_a_feed_refuse_no_row(shop: Shop) -> None:
    """A `-` in an optional number is nothing, in CSV as in JSON."""
    (shop.folder / "feeds" / "users.yml").write_text(
        FEED.replace("json", "csv", 1).replace("folder: 1", "aliases: [m]")
    )
    shop.drop("users.csv", "m,Customer ID,Outstanding Amount\na,1,-\nb,2,5\n")
    shop.run()
    assert raw(shop, "customer_id, amount") == [(1, None), (2, Decimal("5.00"))]


@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
@pytest.mark.every_engine
def test_repaired_records_come_back_once(
    users: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Exported as a sheet, repaired and replayed, a record counts once and keeps its origin."""
    users.drop(
        "market1/users.json",
        '[{"Customer ID": 1}, {"Customer ID": "x", "Outstanding Amount": 2.50, "k": "=1+1"}]',
    )
    users.run()
    sheet = tmp_path / f"refused{ending}"
    monkeypatch.chdir(users.folder)
    call(monkeypatch, "quarantine", "export", "--feed", "users", "--to", str(sheet))
    repair(sheet, "x", "2")
    call(monkeypatch, "quarantine", "replay", str(sheet))
    (dropped,) = (users.folder / "landing" / "market1").iterdir()
    assert dropped.name.startswith("users_replay_")
    assert json.loads(dropped.read_text())["customer_id"] == "2"
    users.run()
    expected = [("market1", 1, None, None, None),
                ("market1", 2, Decimal("2.50"), '{"k":"=1+1"}', "1#2")]  # fmt: skip
    assert raw(users, "market, customer_id, amount, more, _origin") == expected
    # By hand under another name: the same row again is refused.
    again = '{"_origin": "1#2", "Customer ID": 3}\n{"Customer ID": 4}\nbroken\n'
    users.drop("market1/users_again.json", again)
    users.run()
    assert raw(users, "market, customer_id, amount, more, _origin") == expected
    rules = [rule for file, *_, rule, _, _ in users.refused("users") if "again" in file]
    assert sorted(rules) == ["json", "replay", "replay"]


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """A command that must do what it is told."""
    monkeypatch.setattr(sys, "argv", ["retailmart", *words])
    code: object = 0
    try:
        main()
    except SystemExit as done:
        code = done.code
    assert not code


def repair(sheet: Path, wrong: str, right: str) -> None:
    """Change every cell that says `wrong`."""
    if sheet.suffix == ".csv":
        with sheet.open(newline="", encoding="utf-8-sig") as text:
            rows = [[right if cell == wrong else cell for cell in row] for row in csv.reader(text)]
        with sheet.open("w", newline="") as text:
            csv.writer(text).writerows(rows)
        return
    import openpyxl

    book = openpyxl.load_workbook(sheet)
    for cells in book.active.iter_rows():
        for cell in cells:
            if cell.value == wrong:
                cell.value = right
    book.save(sheet)


@pytest.mark.every_engine
def test_new_keys_can_become_columns(users: Shop) -> None:
    """With `columns: evolve` further keys, and the leaves of objects, are columns of raw."""
    feed = FEED.replace("rules:", "schema: {columns: evolve}\nrules:")
    (users.folder / "feeds" / "users.yml").write_text(feed)
    users.drop("market1/users.json", '[{"Customer ID": 1, "Tier": 1.50, "a": {"b": "x"}}]')
    users.drop("market1/users2.json", '[{"Customer ID": 2, "TIER": "gold"}, {"Customer ID": 3}]')
    users.run()
    found = raw(users, "customer_id, Tier, a_b")
    assert found == [(1, "1.50", "x"), (2, "gold", None), (3, None, None)]
