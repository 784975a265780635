"""Schemas that change: what files bring does what the feed's policy says, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retailmart import SettingsError
from retailmart.database.target import Target
from retailmart.ledger.values import ColumnChange
from retailmart.marts.publish import _Plan
from retailmart.project.types import parse_type
from retailmart.report import ColumnLine, RunReport
from retailmart.tables import Field
from tests.support.amount import tries
from tests.support.shop import Shop

COLUMNS = """\
columns:
  id: {type: INT, mandatory: true}
  day: {type: DATE, mandatory: true}
  n: INT
  amount: "DECIMAL(6,2)"
  seen: DATE
"""
ALL = """\
-- refresh: months
-- partitions: [_month]
-- key: [id]
-- publish: true
SELECT * FROM till
"""


def settle(shop: Shop, schema: str = "", more: str = "", mart: str = ALL) -> Shop:
    """Make the project one of a single feed `till`, with a mart that shows all of it."""
    for name in ("feeds", "marts", "tables"):
        for path in (shop.folder / name).glob("*.*"):
            path.unlink()
    define(shop, f"schema: {schema}\n{more}" if schema else more)
    (shop.folder / "marts" / "everything.sql").write_text(mart)
    return shop


def define(shop: Shop, more: str = "", columns: str = COLUMNS) -> None:
    """Write the feed's file."""
    text = f'files: ["*.csv", "*.csv.gz"]\n{columns}month: day\n{more}'
    (shop.folder / "feeds" / "till.yml").write_text(text)


def deliver(shop: Shop, name: str, header: str, *rows: str) -> RunReport:
    """Drop a file and run."""
    shop.drop(name, "\n".join([header, *rows]) + "\n")
    return shop.run()


def columns_of(report: RunReport) -> list[ColumnLine]:
    """The columns that a run tells of."""
    return [line for batch in report.batches for line in batch.columns]


def refusals(report: RunReport) -> dict[str, str | None]:
    """The files that a run refused, and why."""
    return {file.path: file.message for file in report.files if file.state == "refused"}


# columns


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_a_new_column_reaches_raw_lake_and_database_in_the_same_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table that is shown grows by the column; it is not written anew."""
    settle(shop, "{columns: evolve}")
    deliver(shop, "a.csv", "id,day,n", "1,2024-01-05,7", "2,2024-02-05,8")
    loaded: list[str] = []
    monkeypatch.setattr(_Plan, "fill", lambda self, *_: loaded.append(self.target.name))
    report = deliver(shop, "b.csv", "id,day,Payment Mode", "3,2024-02-06,UPI")
    assert columns_of(report) == [ColumnLine("raw/till", "Payment_Mode", None, "STRING", "b.csv")]
    mode = '"Payment_Mode"' if shop.backend.speaks == "postgres" else "Payment_Mode"
    shown = shop.published("everything", f"id, n, {mode}")
    assert shown == [(1, 7, None), (2, 8, None), (3, None, "UPI")]
    assert shop.mart("everything", "id, n, Payment_Mode") == shown
    (mart,) = report.batches[0].marts
    assert mart.changed == 1
    assert loaded == []
    deliver(shop, "c.csv", " PAYMENT  mode,day,id", "CASH,2024-03-01,4")
    assert (4, "CASH") in shop.published("everything", f"id, {mode}")


@pytest.mark.every_database
def test_a_run_that_fails_behind_the_new_column_is_finished_by_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The empty column that it may leave is no obstacle, and no reason to write the table anew."""
    settle(shop, "{columns: evolve}")
    deliver(shop, "a.csv", "id,day,n", "1,2024-01-05,7")
    add = Target.add_columns

    def failing(self: Target, connection: Any, names: Iterable[str]) -> None:
        add(self, connection, names)
        monkeypatch.setattr(Target, "insert", cut)

    def cut(*_: object) -> int:
        raise RuntimeError("cut off")

    monkeypatch.setattr(Target, "add_columns", failing)
    with pytest.raises(RuntimeError, match="cut off"):
        deliver(shop, "b.csv", "id,day,till", "2,2024-02-05,x")
    assert shop.published("everything", "id") == [(1,)]
    monkeypatch.undo()
    loaded: list[str] = []
    monkeypatch.setattr(_Plan, "fill", lambda self, *_: loaded.append(self.target.name))
    assert [batch.recovered for batch in shop.run().batches] == [True]
    assert shop.published("everything", "id, till") == [(1, None), (2, "x")]
    assert loaded == []


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_a_column_of_another_type_is_shown_in_a_table_of_that_type(shop: Shop) -> None:
    """What a narrower column of the database would not take arrives whole."""
    settle(shop, "{types: evolve}")
    deliver(shop, "a.csv", "id,day,n,amount", "1,2024-01-05,7,1.50")
    deliver(shop, "b.csv", "id,day,n,amount", "2,2024-01-06,3000000000,1.125")
    shown = shop.published("everything", "id, n, amount")
    assert shown == [(1, 7, 1.5), (2, 3000000000, 1.125)]


@pytest.mark.every_backend
def test_any_name_can_be_added(shop: Shop) -> None:
    """What a mart selects may have names that are no plain words, beside rows that are there."""
    names = ["per%cent", "co:lon", "a b", "select", 'or"der', "back`tick", "größe"]
    fields = [Field("id", parse_type("INT")), *(Field(n, parse_type("STRING")) for n in names)]
    first = Target("odd", tuple(fields[:1]), ("id",), None)
    target = Target("odd", tuple(fields), ("id",), None)
    with shop.open().ledger() as ledger, ledger.engine.begin() as connection:
        first.recreate(connection)
        connection.exec_driver_sql("INSERT INTO odd VALUES (1)")
        target.add_columns(connection, names)
        assert list(target.columns(connection)) == ["id", *names]
        assert target.exists_as_defined(connection)
        assert target.totals(connection, None)[0] == 1


def test_without_a_word_new_columns_go_where_they_went(shop: Shop) -> None:
    """Into the extras column where the feed has one; raw keeps its columns."""
    settle(shop, more="extra_columns: more\n")
    report = deliver(shop, "a.csv", "id,day,till", "1,2024-01-05,x")
    assert columns_of(report) == []
    assert shop.mart("everything", "id, more") == [(1, '{"till":"x"}')]


def test_a_frozen_feed_refuses_the_file(shop: Shop) -> None:
    """The column is named; what had evolved before the freeze is no new column."""
    settle(shop, "{columns: evolve}")
    deliver(shop, "a.csv", "id,day,till", "1,2024-01-05,x")
    define(shop, "schema: {columns: freeze}\n")
    report = deliver(shop, "b.csv", "id,day,till,other", "2,2024-01-05,x,y")
    assert refusals(report) == {
        "b.csv": "brings the column other, which feeds/till.yml does not name; its columns are"
        " frozen"
    }
    assert refusals(deliver(shop, "c.csv", "id,day,till", "3,2024-01-05,z")) == {}
    assert shop.mart("everything", "id, till") == [(1, "x"), (3, "z")]


@pytest.mark.every_engine
def test_rows_with_a_value_in_a_strange_column_are_quarantined(shop: Shop) -> None:
    """Those without one are rows like any others; the reason names the column."""
    settle(shop, "{columns: discard_row}")
    deliver(shop, "a.csv", "id,day,till", "1,2024-01-05,x", '2,2024-01-05," "', "3,2024-01-05,")
    assert shop.mart("everything", "id") == [(2,), (3,)]
    message = "has a value in till, which feeds/till.yml does not name"
    assert shop.refused("till") == [("a.csv", 2, "till", "schema", message, "1,2024-01-05,x")]


def test_values_of_strange_columns_can_be_dropped(shop: Shop) -> None:
    """By the feed's word they don't even reach the extras column."""
    settle(shop, "{columns: discard_value}", "extra_columns: more\n")
    deliver(shop, "a.csv", "id,day,till", "1,2024-01-05,x")
    assert shop.mart("everything", "id, more") == [(1, None)]


@pytest.mark.every_engine
def test_a_missing_column_is_null_or_refuses_the_file(shop: Shop) -> None:
    """An optional one is empty in the file's rows; without a mandatory one there are no rows."""
    settle(shop, "evolve")
    deliver(shop, "a.csv", "n,day,id", "5,2024-01-05,1")
    report = deliver(shop, "b.csv", "id,day", "2,2024-01-05")
    assert shop.mart("everything", "id, n") == [(1, 5), (2, None)]
    assert columns_of(report) == []
    assert refusals(deliver(shop, "c.csv", "id,n", "3,5")) == {"c.csv": "lacks the column day"}


# JSON


def settle_json(shop: Shop, schema: str) -> Shop:
    """The same feed, of JSON files."""
    settle(shop)
    text = f'files: ["*.json"]\nformat: json\n{COLUMNS}month: day\nschema: {schema}\n'
    (shop.folder / "feeds" / "till.yml").write_text(text)
    return shop


def deliver_json(shop: Shop, name: str, *records: Mapping[str, Any]) -> RunReport:
    """Drop a JSON array and run."""
    shop.drop(name, json.dumps([{"day": "2024-01-05", **record} for record in records]))
    return shop.run()


@pytest.mark.every_engine
def test_keys_of_json_become_columns_and_types_grow(shop: Shop) -> None:
    """A key that some records have is a column; a nested one has a dot, which is made fit."""
    settle_json(shop, "evolve")
    deliver_json(shop, "a.json", {"id": 1, "n": 7})
    report = deliver_json(
        shop, "b.json", {"id": 2, "Pay Mode": "UPI", "till": {"no": 4}}, {"n": 1.5, "id": 3}
    )
    assert [(one.column, one.before, one.after, one.cause) for one in columns_of(report)] == [
        ("n", "INT", "DECIMAL(11,1)", "b.json"),
        ("Pay_Mode", None, "STRING", "b.json"),
        ("till_no", None, "STRING", "b.json"),
    ]
    deliver_json(shop, "c.json", {"id": 4, "PAY MODE": "CASH", "till": {"no": 5}})
    assert shop.published("everything", "id, n, Pay_Mode, till_no") == [
        (1, 7, None, None),
        (2, None, "UPI", "4"),
        (3, 1.5, None, None),
        (4, None, "CASH", "5"),
    ]


def test_a_frozen_json_feed_refuses_columns_and_values(shop: Shop) -> None:
    """With the key, or with the record, column and value."""
    settle_json(shop, "{columns: freeze, types: freeze}")
    deliver_json(shop, "a.json", {"id": 1, "n": 7})
    assert refusals(deliver_json(shop, "b.json", {"id": 2, "till": 1}))["b.json"] == (
        "brings the column till, which feeds/till.yml does not name; its columns are frozen"
    )
    (why,) = refusals(deliver_json(shop, "c.json", {"id": 3}, {"id": 4, "n": "x"})).values()
    assert why is not None
    assert why.startswith("has 'x' in record 2, column n, which should be a whole number")


@pytest.mark.every_engine
def test_json_rows_and_values_are_discarded_by_policy(shop: Shop) -> None:
    """A record that says something of a strange key, and a value that is not of its type."""
    settle_json(shop, "{columns: discard_row, types: discard_value}")
    records = ({"id": 1, "till": "x"}, {"id": 2, "n": "x"}, {"id": 3, "till": None, "n": 5})
    deliver_json(shop, "a.json", *records)
    assert shop.published("everything", "id, n") == [(2, None), (3, 5)]
    assert [row[1:4] for row in shop.refused("till")] == [(1, "till", "schema")]


# types


@pytest.mark.every_engine
def test_types_grow_as_far_as_the_values_need(shop: Shop) -> None:
    """INT, BIGINT, DECIMAL; what no number holds is quarantined; older rows keep their values."""
    settle(shop, "{types: evolve}")
    kinds = []
    for number, n in enumerate(("5", "3000000000", "1.5", "2.25", "x"), 1):
        deliver(shop, f"{number}.csv", "id,day,n", f"{number},2024-01-0{number},{n}")
        state = shop.open().lake.state("raw/till")
        assert state is not None
        kinds.append(next(str(one.type) for one in state.fields if one.name == "n"))
    assert kinds == ["INT", "BIGINT", "DECIMAL(20,1)", "DECIMAL(21,2)", "DECIMAL(21,2)"]
    assert shop.mart("everything", "id, n") == [
        (1, Decimal(5)),
        (2, Decimal(3000000000)),
        (3, Decimal("1.5")),
        (4, Decimal("2.25")),
    ]
    assert [row[:4] for row in shop.refused("till")] == [("5.csv", 2, "n", "type")]


@pytest.mark.every_engine
def test_days_become_moments_only_by_setting(shop: Shop) -> None:
    """Then plain days are midnight, in files to come as well; the month stays a day always."""
    settle(shop, "{types: evolve}")
    deliver(
        shop, "a.csv", "id,day,seen", "1,2024-01-05,2024-01-02", "2,2024-01-05,2024-01-02T10:00Z"
    )
    assert shop.mart("everything", "id, seen") == [(1, date(2024, 1, 2))]
    define(shop, "schema: {types: evolve, date_to_timestamp: true}\n")
    deliver(
        shop, "b.csv", "id,day,seen", "3,2024-01-05,2024-01-03T10:00:00Z", "4,2024-01-05,2024-01-04"
    )
    deliver(shop, "c.csv", "id,day,seen", "5,2024-01-05,2024-01-06", "6,2024-01-05T10:00:00Z,")
    assert shop.mart("everything", "id, seen") == [
        (1, datetime(2024, 1, 2, tzinfo=UTC)),
        (3, datetime(2024, 1, 3, 10, tzinfo=UTC)),
        (4, datetime(2024, 1, 4, tzinfo=UTC)),
        (5, datetime(2024, 1, 6, tzinfo=UTC)),
    ]
    assert [row[:4] for row in shop.refused("till")] == [
        ("a.csv", 3, "seen", "type"),
        ("c.csv", 3, "day", "type"),
    ]


@pytest.mark.every_engine
def test_frozen_types_refuse_the_file_with_column_line_and_value(shop: Shop) -> None:
    """Whatever else the file holds stays out too, and its older version stays in."""
    settle(shop, "{types: freeze}")
    deliver(shop, "a.csv", "id,day,n", "1,2024-01-05,5")
    report = deliver(shop, "a.csv", "id,day,n", '2,"2024-01-05",6', "", "3,2024-01-05,1.5", "x,y,z")
    assert refusals(report) == {
        "a.csv": "has '1.5' in line 4, column n, which should be a whole number such as 42; the"
        " types of feeds/till.yml are frozen"
    }
    assert shop.mart("everything", "id, n") == [(1, 5)]
    assert shop.refused("till") == []
    assert any(path.startswith("error_files/bad_schema/a.csv") for path in shop.archived())


@pytest.mark.every_engine
def test_values_of_another_type_can_be_dropped(shop: Shop) -> None:
    """They are NULL; a mandatory value that would be is quarantined."""
    settle(shop, "{types: discard_value}")
    deliver(shop, "a.csv", "id,day,n,seen", "1,2024-01-05,x,y", "x,2024-01-05,1,")
    assert shop.mart("everything", "id, n, seen") == [(1, None, None)]
    assert [row[1:4] for row in shop.refused("till")] == [(3, "id", "type")]


# tables


def test_a_feed_whose_table_is_frozen_takes_no_first_file(shop: Shop) -> None:
    """It says why; once there is a table, files of the same feed are loaded."""
    settle(shop, "{table: freeze}")
    report = deliver(shop, "a.csv", "id,day", "1,2024-01-05")
    (why,) = refusals(report).values()
    assert why is not None
    assert "raw table of feed till, which is frozen" in why
    define(shop)
    deliver(shop, "b.csv", "id,day", "2,2024-01-05")
    define(shop, "schema: {table: freeze}\n")
    assert refusals(deliver(shop, "c.csv", "id,day", "3,2024-01-05")) == {}
    assert shop.mart("everything", "id") == [(2,), (3,)]


@pytest.mark.parametrize("policy", ["discard_row", "discard_value"])
@pytest.mark.every_engine
def test_all_rows_of_a_first_file_can_be_quarantined(shop: Shop, policy: str) -> None:
    """No table is made, however many files come; replayed once there may be one, they count."""
    settle(shop, f"{{table: {policy}}}")
    deliver(shop, "a.csv", "id,day", "1,2024-01-05", "x,2024-01-05")
    deliver(shop, "b.csv", "id,day", "2,2024-01-05")
    assert shop.open().lake.state("raw/till") is None
    assert [row[:4] for row in shop.refused("till")] == [
        ("a.csv", 2, None, "schema"),
        ("a.csv", 3, None, "schema"),
        ("b.csv", 2, None, "schema"),
    ]
    with shop.open().ledger() as ledger:
        assert ledger.schemas.all() == []
    define(shop)
    deliver(shop, "c.csv", "_origin,id,day", "1#2,1,2024-01-05")
    assert shop.mart("everything", "id") == [(1,)]


# repaired sheets


@pytest.mark.parametrize(
    ("schema", "more", "rows", "kept"),
    [
        ("{columns: evolve}", "", [], 2),
        ("{columns: evolve}", "extra_columns: more\n", [(1,)], 1),
        ("{columns: discard_row}", "extra_columns: more\n", [], 2),
        ("{columns: discard_value}", "", [(1,)], 1),
    ],
)
@pytest.mark.every_engine
def test_a_repaired_sheet_makes_no_columns(
    shop: Shop, schema: str, more: str, rows: list[tuple[int]], kept: int
) -> None:
    """What it has beyond the feed's columns is kept, refused or dropped, never lost by chance."""
    settle(shop, schema, more)
    deliver(shop, "a.csv", "id,day,n", "1,2024-01-05,x")
    deliver(shop, "back.csv", "_origin,id,day,n,note", "1#2,1,2024-01-05,5,mine")
    assert shop.mart("everything", "id") == rows
    assert len(shop.refused("till")) == kept
    deliver(shop, "again.csv", "_origin,id,day,n,note", "1#2,1,2024-01-05,5,")
    assert shop.mart("everything", "id") == [(1,)]


@pytest.mark.every_engine
def test_a_refused_row_comes_back_with_the_column_its_file_brought(shop: Shop) -> None:
    """The sheet names the column as raw does, and the value reaches it."""
    settle(shop, "{columns: evolve}")
    deliver(shop, "a.csv", "id,day,n,Till No", "1,2024-01-05,x,T1", "2,2024-01-05,5,T2")
    items = shop.open().quarantine("till")
    assert items is not None
    ((cells,),) = items.project("cells").fetchall()
    assert json.loads(cells) == {"id": "1", "day": "2024-01-05", "n": "x", "Till_No": "T1"}
    deliver(shop, "back.csv", "_origin,id,day,n,Till_No", "1#2,1,2024-01-05,4,T1")
    assert shop.mart("everything", "id, Till_No") == [(1, "T1"), (2, "T2")]


# the definition


@pytest.mark.every_engine
def test_a_definition_that_grows_is_taken(shop: Shop) -> None:
    """A new column is NULL in older rows, a wider type holds them; the run tells both."""
    settle(shop)
    deliver(shop, "a.csv", "id,day,n", "1,2024-01-05,7")
    wide = COLUMNS.replace("n: INT", "n: BIGINT") + "  till: STRING\n"
    define(shop, columns=wide)
    report = deliver(shop, "b.csv", "id,day,n,till", "2,2024-01-06,3000000000,x")
    assert [(one.column, one.before, one.after, one.cause) for one in columns_of(report)] == [
        ("n", "INT", "BIGINT", "feeds/till.yml"),
        ("till", None, "STRING", "feeds/till.yml"),
    ]
    assert shop.mart("everything", "id, n, till") == [(1, 7, None), (2, 3000000000, "x")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  n: INT\n", "", "names no column n any more, but raw/till holds n INT"),
        ("DECIMAL(6,2)", "DECIMAL(5,2)", "column amount is DECIMAL(5,2), but raw/till holds DEC"),
        ("n: INT", "n: DATE", "column n is DATE, but raw/till holds INT"),
    ],
)
def test_a_definition_that_shrinks_is_refused_before_anything_is_loaded(
    shop: Shop, old: str, new: str, words: str
) -> None:
    """Both sides are named, the file waits in landing, and the old definition goes on."""
    settle(shop)
    deliver(shop, "a.csv", "id,day,n,amount", "1,2024-01-05,7,1.50")
    define(shop, columns=COLUMNS.replace(old, new))
    shop.drop("b.csv", "id,day\n2,2024-01-05\n")
    with pytest.raises(SettingsError, match=re.escape(words)):
        shop.run()
    with shop.open().ledger() as ledger:
        assert ledger.batches.unfinished() is None
    assert shop.backend.landed() == ["b.csv"]
    define(shop)
    shop.run()
    assert shop.mart("everything", "id, n") == [(1, 7), (2, None)]


def test_a_column_that_files_brought_may_be_named_and_left_out_again(shop: Shop) -> None:
    """It is the same column, under its own or its delivered name."""
    settle(shop, "{columns: evolve}")
    deliver(shop, "a.csv", "id,day,Till No", "1,2024-01-05,T1")
    define(shop, columns=COLUMNS + "  Till_No: STRING\n")
    deliver(shop, "b.csv", "id,day,Till No", "2,2024-01-05,T2")
    define(shop)
    deliver(shop, "c.csv", "id,day,till no", "3,2024-01-05,T3")
    assert shop.mart("everything", "id, Till_No") == [(1, "T1"), (2, "T2"), (3, "T3")]


def test_the_ledger_keeps_a_row_for_each_change(shop: Shop) -> None:
    """Which run, which file, from what to what; a batch that changes nothing leaves none."""
    settle(shop, "evolve")
    deliver(shop, "a.csv", "id,day,n", "1,2024-01-05,7")
    deliver(shop, "b.csv", "id,day,n", "2,2024-01-05,8")
    deliver(shop, "north/c.csv", "id,day,n,x", "3,2024-01-05,1.5,y")
    with shop.open().ledger() as ledger:
        first, second = ledger.schemas.all()
    assert (first.run_id, len(first.schema.changes), first.schema.is_new) == (1, 5, True)
    assert (second.run_id, second.schema.is_new) == (3, False)
    assert second.schema.changes == (
        ColumnChange("n", "INT", "DECIMAL(11,1)", "north/c.csv"),
        ColumnChange("x", None, "STRING", "north/c.csv"),
    )


@pytest.mark.every_engine
def test_an_undone_file_leaves_its_column(shop: Shop) -> None:
    """Its rows go; the column stays, empty, and is no new one when the file comes again."""
    settle(shop, "evolve")
    deliver(shop, "a.csv", "id,day", "1,2024-01-05")
    deliver(shop, "b.csv", "id,day,till", "2,2024-01-05,x")
    shop.open().undo(2)
    assert shop.mart("everything", "id, till") == [(1, None)]
    assert columns_of(deliver(shop, "b.csv", "id,day,till", "2,2024-01-05,x")) == []
    assert shop.published("everything", "id, till") == [(1, None), (2, "x")]


# random histories, judged apart

_KINDS = {"id": "INT", "day": "DATE", "n": "INT", "amount": "DECIMAL(6,2)", "seen": "DATE"}
_STRANGE = {"Payment Mode": "Payment_Mode", "till": "till", "Größe": "Groe"}
_MISFIT = object()
_NUMBER = re.compile(r"\s*[+-]?(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?\s*", re.ASCII)


@dataclass(frozen=True)
class File:
    """A delivery: its header and its rows of texts, ids apart."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        return "".join(",".join(row) + "\n" for row in (self.header, *self.rows))


@dataclass(frozen=True)
class Policies:
    """What the feed's file says before a run."""

    table: str
    columns: str | None
    types: str
    moments: bool

    @property
    def yaml(self) -> str:
        words = [f"table: {self.table}", f"types: {self.types}"]
        words += [f"columns: {self.columns}"] if self.columns else []
        words += ["date_to_timestamp: true"] if self.moments else []
        return f"schema: {{{', '.join(words)}}}\n"


@dataclass
class Judge:
    """What a history ends in, by the rules alone: plain Python, no engine."""

    extras: bool
    kinds: dict[str, str] = field(default_factory=lambda: dict(_KINDS))
    brought: dict[str, str] = field(default_factory=dict)
    has_table: bool = False
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    refused_files: set[str] = field(default_factory=set)
    quarantined: set[tuple[str, int, str]] = field(default_factory=set)

    def take(self, files: Sequence[File], say: Policies) -> None:
        """One run."""
        good = []
        for file in files:
            if self._is_refused(file, say):
                self.refused_files.add(file.name)
            else:
                good.append(file)
        if not good:
            return
        if not self.has_table and say.table.startswith("discard"):
            for file in good:
                lines = range(2, len(file.rows) + 2)
                self.quarantined |= {(file.name, line, "schema") for line in lines}
            return
        self.has_table = True
        if say.columns == "evolve":
            for file in good:
                for name in self._strange(file):
                    self.brought[name.casefold()] = _STRANGE[name]
                    self.kinds[_STRANGE[name]] = "STRING"
        if say.types == "evolve":
            self._widen(good, say)
        for file in good:
            for line, row in enumerate(file.rows, 2):
                self._row(file, line, row, say)

    def _strange(self, file: File) -> list[str]:
        return [n for n in file.header if n not in _KINDS and n.casefold() not in self.brought]

    def _column(self, name: str) -> str:
        return self.brought.get(name.casefold(), name)

    def _is_refused(self, file: File, say: Policies) -> bool:
        if say.table == "freeze" and not self.has_table:
            return True
        if say.columns == "freeze" and self._strange(file):
            return True
        values = (
            (self._column(n), text)
            for row in file.rows
            for n, text in zip(file.header, row, strict=True)
        )
        return say.types == "freeze" and any(
            self._value(name, text) is _MISFIT for name, text in values if name in self.kinds
        )

    def _widen(self, files: Sequence[File], say: Policies) -> None:
        for name, kind in list(self.kinds.items()):
            texts = [
                text
                for file in files
                for row in file.rows
                for delivered, text in zip(file.header, row, strict=True)
                if self._column(delivered) == name and self._value(name, text) is _MISFIT
            ]
            if kind == "DATE" and name != "day" and say.moments:
                if any(_moment(text) for text in texts):
                    self.kinds[name] = "TIMESTAMP"
                    for row in self.rows.values():
                        if row.get(name) is not None:
                            row[name] = datetime.combine(row[name], time(), UTC)
            elif kind in ("INT", "BIGINT") or kind.startswith("DECIMAL"):
                self.kinds[name] = _wider(kind, texts)

    def _value(self, name: str, text: str) -> Any:
        if not text.strip():
            return None
        kind = self.kinds[name]
        if kind == "TIMESTAMP" and _day(text):
            found = _day(text)
            return found and datetime(found.year, found.month, found.day, tzinfo=UTC)
        return _typed(kind, text)

    def _row(self, file: File, line: int, row: Sequence[str], say: Policies) -> None:
        given = {self._column(name): text for name, text in zip(file.header, row, strict=True)}
        strange = {name: text for name, text in given.items() if name not in self.kinds}
        if say.columns == "discard_row" and any(text.strip() for text in strange.values()):
            self.quarantined.add((file.name, line, "schema"))
            return
        values: dict[str, Any] = {}
        for name in self.kinds:
            value = self._value(name, given.get(name, ""))
            mandatory = name in ("id", "day")
            if value is None and mandatory:
                self.quarantined.add((file.name, line, "mandatory"))
                return
            if value is _MISFIT and (mandatory or say.types != "discard_value"):
                self.quarantined.add((file.name, line, "type"))
                return
            values[name] = None if value is _MISFIT else value
        if self.extras:
            values["more"] = strange if strange and say.columns is None else None
        self.rows[int(values["id"])] = values


def _wider(kind: str, texts: Iterable[str]) -> str:
    digits, scale = _room(kind)
    needs = []
    for text in texts:
        if found := _digits(text):
            whole = "." not in text and -(2**63) <= int(text) < 2**63
            if max(found[0], digits) + max(found[1], scale) <= 38 and found[1] <= max(30, scale):
                needs.append((*found, whole))
    if not needs:
        return kind
    if kind == "INT" and all(whole for *_, whole in needs):
        return "BIGINT"
    most = max(digits, *(need[0] for need in needs)), max(scale, *(need[1] for need in needs))
    if sum(most) <= 38:
        return f"DECIMAL({sum(most)},{most[1]})"
    return "BIGINT" if kind == "INT" and any(whole for *_, whole in needs) else kind


def _room(kind: str) -> tuple[int, int]:
    if kind in ("INT", "BIGINT"):
        return {"INT": 10, "BIGINT": 19}[kind], 0
    precision, scale = map(int, kind[8:-1].split(","))
    return precision - scale, scale


def _digits(text: str) -> tuple[int, int] | None:
    """Digits before and after the point, without zeros that say nothing."""
    if found := _NUMBER.fullmatch(text):
        return len(found[1].lstrip("0")), len((found[2] or "").rstrip("0"))
    return None


def _typed(kind: str, text: str) -> Any:
    if kind == "STRING":
        return text
    if kind == "DATE":
        return _day(text) or _MISFIT
    if kind == "TIMESTAMP":
        return _moment(text) or _MISFIT
    found = _digits(text)
    if found is None:
        return _MISFIT
    if kind in ("INT", "BIGINT"):
        bits = {"INT": 31, "BIGINT": 63}[kind]
        fits = "." not in text and -(2**bits) <= int(text) < 2**bits
        return int(text) if fits else _MISFIT
    digits, scale = _room(kind)
    return Decimal(text.strip()) if found[0] <= digits and found[1] <= scale else _MISFIT


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError:
        return None


def _moment(text: str) -> datetime | None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text):
        return None
    return datetime.fromisoformat(text)


_TEXTS: Mapping[str, Sequence[str]] = {
    "n": [
        "5",
        "-7",
        "007",
        "",
        "2147483648",
        "-3000000000",
        "9223372036854775808",
        "1.5",
        "12.0",
        "12.50",
        "0.000000000000000000000001",
        "1" * 30,
        "9" * 38,
        "1" * 39,
        "x",
        "1e5",
        ".25",
        " 8 ",
    ],
    "amount": ["1.50", "", "9999.99", "10000", "0.125", "1.005000", "12345678.9", "abc", "1,5"[:1]],
    "seen": ["2024-01-05", "", "2024-01-05T10:00:00Z", "2024-02-30", "soon"],
    "Payment Mode": ["UPI", "", " "],
    "till": ["T1", "", "7"],
    "Größe": ["L", ""],
}


@st.composite
def _files(draw: st.DrawFn, name: str, first: int) -> File:
    optional = draw(st.lists(st.sampled_from(list(_TEXTS)), unique=True, max_size=5))
    header = draw(st.permutations(["id", "day", *optional]))
    rows = []
    for number in range(draw(st.integers(1, 4))):
        said = {"id": str(first + number), "day": "2024-01-05"}
        said |= {name: draw(st.sampled_from(_TEXTS[name])) for name in optional}
        # The first row tells files apart: equal ones would be duplicates.
        if number and draw(st.integers(0, 9)) == 0:
            said[draw(st.sampled_from(["id", "day"]))] = draw(st.sampled_from(["", "x"]))
        rows.append(tuple(said[name] for name in header))
    return File(name, tuple(header), tuple(rows))


_POLICIES = ["evolve", "freeze", "discard_row", "discard_value"]


@st.composite
def _histories(draw: st.DrawFn) -> list[tuple[Policies, list[File]]]:
    runs = []
    for run in range(draw(st.integers(2, 4))):
        # Most tables may be made: without one there is nothing to see.
        table = draw(st.sampled_from(["evolve", "evolve", "evolve", *_POLICIES]))
        columns = draw(st.sampled_from([None, "evolve", *_POLICIES]))
        types = draw(st.sampled_from(["evolve", *_POLICIES]))
        say = Policies(table, columns, types, draw(st.booleans()))
        count = draw(st.integers(1, 2))
        files = [draw(_files(f"f{run}{n}.csv", 1000 * run + 100 * n + 1)) for n in range(count)]
        runs.append((say, files))
    return runs


@settings(
    max_examples=tries(4, 60),
    deadline=None,
    phases=[Phase.generate],  # histories are short; to shrink one would take minutes of runs
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # only ever copied from
)
@given(history=_histories(), extras=st.booleans())
def test_any_history_under_any_policies_ends_as_judged(
    shop: Shop, history: Sequence[tuple[Policies, Sequence[File]]], extras: bool
) -> None:
    """Drifting columns and types, policies that change between runs: rows, types and refusals."""
    more = "extra_columns: more\n" if extras else ""
    judge = Judge(extras)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(shop.folder, Path(folder) / "shop")
        copy = settle(
            Shop(Path(folder) / "shop"), mart=ALL.replace("publish: true", "publish: false")
        )
        refused: set[str] = set()
        for say, files in history:
            define(copy, say.yaml + more)
            for file in files:
                copy.drop(file.name, file.text)
            refused |= set(refusals(copy.run()))
            judge.take(files, say)
        assert refused == judge.refused_files
        found = {(row[0], row[1], row[3]) for row in copy.refused("till")}
        assert found == judge.quarantined
        state = copy.open().lake.state("raw/till")
        assert (state is not None) == judge.has_table
        if state is not None:
            kinds = {one.name: str(one.type) for one in state.fields if one.name[0] != "_"}
            assert kinds == judge.kinds | ({"more": "STRING"} if extras else {})
            assert _shown(copy) == {
                key: {name: row.get(name) for name in kinds} for key, row in judge.rows.items()
            }


def test_an_empty_table_gets_the_columns_of_rows_that_are_refused(shop: Shop) -> None:
    """As a table with rows does, which is written again: the ledger remembers the column, too."""
    settle(shop, mart=ALL)
    for say, header, row in (
        (Policies("evolve", "discard_row", "discard_row", False), ("id", "day", "till"), "1 x T1"),
        (Policies("evolve", "evolve", "evolve", False), ("id", "day", "till"), "2 x T1"),
    ):
        define(shop, say.yaml)
        file = File(f"f{row[0]}.csv", header, (tuple(row.split()),))
        shop.drop(file.name, file.text)
        shop.run()
    state = shop.open().lake.state("raw/till")
    assert state is not None
    assert state.files == ()
    assert "till" in {one.name for one in state.fields}
    shop.drop("f3.csv", File("f3.csv", ("id", "day", "till"), (("3", "2024-01-05", "T1"),)).text)
    shop.run()
    assert {key: row["till"] for key, row in _shown(shop).items()} == {3: "T1"}


def _shown(shop: Shop) -> dict[int, dict[str, Any]]:
    """The mart's rows by id, without lineage; extras as what they mean."""
    relation = shop.open().mart("everything")
    names = [name for name in relation.columns if name[0] != "_"]
    rows = [
        dict(zip(names, row, strict=True))
        for row in relation.project(*map('"{}"'.format, names)).fetchall()
    ]
    return {
        row["id"]: {**row, **({"more": json.loads(row["more"])} if row.get("more") else {})}
        for row in rows
    }
