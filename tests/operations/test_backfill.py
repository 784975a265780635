"""Archived files are read again as the feed is now: as if it had been so from the beginning."""

from __future__ import annotations

import gzip
import random
import shutil
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from retailmart import RetailmartError
from retailmart.errors import SettingsError
from retailmart.operations import batch
from retailmart.report import RunReport
from tests.support.amount import SEED, tries
from tests.support.backends import LocalBackend
from tests.support.digests import lake_tables
from tests.support.shop import AS_OF, HEADER, Called, Shop, sale

# How the tills' feed changes: a column with a default, a second way to write a day, a stricter
# rule. What one refuses, another accepts, and the other way round.
_NEW_COLUMN = ("extra_columns:", "  payment_mode: {type: STRING, default: cash}\nextra_columns:")
_NEW_FORMAT = ("{type: DATE, mand", '{type: DATE, format: ["%Y-%m-%d", "%d.%m.%Y"], mand')
_NEW_RULE = ("rules:", "rules:\n  - {name: sold, check: quantity <> 0, action: quarantine}")
_CHANGES = (_NEW_COLUMN, _NEW_FORMAT, _NEW_RULE)
_CONTENTS = (
    [HEADER, sale(1), sale(2, day="20.01.2024"), sale(3, day="2024-02-29")],
    [HEADER, sale(1, quantity=0, total="0.00"), sale(4, day="29.02.2024")],
    [f"{HEADER},payment_mode", f"{sale(5)},UPI", f"{sale(6, day='x')},UPI"],
    [HEADER, sale(7, day="2023-12-31", price="0.05")],
)


def change(shop: Shop, *changes: tuple[str, str]) -> None:
    """Change the tills' feed: each text in it to another one."""
    path = shop.folder / "feeds" / "sales.yml"
    text = path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    path.write_text(text)


def beside(shop: Shop, name: str = "other") -> Shop:
    """The same shop once more."""
    folder = Path(shutil.copytree(shop.folder, shop.folder.with_name(name)))
    return Shop(folder, LocalBackend(folder))


def drop(shop: Shop, name: str, lines: list[str]) -> None:
    """Deliver a file; as its name says, packed or not."""
    content = ("\n".join(lines) + "\n").encode()
    shop.drop(name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


def rows(shop: Shop) -> dict[str, list[str]]:
    """The rows of each table of the lake, and of each published one, whatever their order is.

    Of quarantine those of files that count: what was refused of older versions stays as it was.
    """
    with shop.open().ledger() as ledger:
        counted = ledger.files.rows_of("sales")
        shown = [mart.published_as for mart in ledger.marts.all().values() if mart.published_as]
    found = {
        table: sorted(
            str(sorted(row.items()))
            for row in seen.named()
            if not table.startswith("quarantine/") or row["file_id"] in counted
        )
        for table, seen in lake_tables(shop).items()
    }
    found |= {name: sorted(map(str, shop.published(name))) for name in shown}
    return {name: listed for name, listed in found.items() if listed}


def backfill(shop: Shop, **named: Any) -> RunReport:
    """Read the tills' files again, for the moment of the runs."""
    return shop.open().backfill("sales", as_of=AS_OF, **named)


def nothing_is_open(shop: Shop) -> bool:
    """Whether the ledger has no batch in work."""
    with shop.open().ledger() as ledger:
        return ledger.batches.unfinished() is None


# What the promise is


def test_files_are_read_as_the_feed_is_now(shop: Shop) -> None:
    """A new column, format and rule: every table is as if the feed had been so all the time."""
    fresh = beside(shop)
    change(fresh, *_CHANGES)
    for one in (shop, fresh):
        for number, lines in enumerate(_CONTENTS):
            drop(one, f"sales_{number}.csv{'.gz' if number % 2 else ''}", lines)
            one.run()
    before = rows(shop)
    change(shop, *_CHANGES)
    report = backfill(shop)
    assert rows(shop) == rows(fresh) != before
    assert (report.batches[0].read_again, report.exit_code) == (4, 0)
    changed = {line.path: (line.rows, str(line.amount)) for line in report.batches[0].differences}
    assert changed == {"sales_0.csv": (1, "10.00"), "sales_1.csv.gz": (0, "10.00")}
    assert report.files_by_state["superseded"] == 0
    assert shop.run().nothing_to_do
    assert backfill(shop).batches[0].differences == ()
    assert rows(shop) == rows(fresh)


@pytest.mark.parametrize("number", range(tries(1, 20)))
def test_any_history_is_as_if_the_feed_had_been_so_all_the_time(shop: Shop, number: int) -> None:
    """Deliveries, corrections, copies and undone runs, then another feed: a fresh shop agrees."""
    chance = random.Random(SEED * 1000 + number)
    fresh = beside(shop)
    changes = chance.sample(_CHANGES, chance.randint(1, 3))
    change(fresh, *changes)
    story: list[str] = []
    for _ in range(chance.randint(3, 6)):
        files = {
            chance.choice(("sales_a.csv", "sales_b.csv.gz", "north/sales_a.csv")): chance.choice(
                _CONTENTS
            )
            for _ in range(chance.randint(1, 2))
        }
        undone = chance.randint(1, 5) if story and chance.random() < 0.3 else None
        story.append(str(undone or {name: _CONTENTS.index(lines) for name, lines in files.items()}))
        told = [_lived(one, files, undone) for one in (shop, fresh)]
        assert told[0] == told[1], story
        if chance.random() < 0.2:  # also a part of the history may be read again in between
            backfill(shop)
    change(shop, *changes)
    backfill(shop)
    # A backfill takes numbers of runs and batches, which quarantine shows.
    assert _unnumbered(rows(shop)) == _unnumbered(rows(fresh)), story


def _lived(shop: Shop, files: dict[str, list[str]], undone: int | None) -> str | None:
    """Files land, or the nth batch with files is undone; what is said if that can't be."""
    if undone is None:
        for name, lines in files.items():
            drop(shop, name, lines)
        shop.run()
        return None
    with shop.open().ledger() as ledger:
        listed = sorted({file.batch_id for file in ledger.files.among(range(1, 100))})
        run_id = ledger.batches.get(listed[undone % len(listed)]).run_id
    try:
        shop.open().undo(run_id, AS_OF)
    except RetailmartError:
        return "refused"
    return None


def _unnumbered(found: dict[str, list[str]]) -> dict[str, list[str]]:
    def plain(row: str) -> str:
        first, comma, rest = row.partition("), ")
        return rest if comma and first.startswith("[('batch_id'") else row

    return {name: sorted(map(plain, listed)) for name, listed in found.items()}


# Which files


def test_days_are_those_on_which_files_came(shop: Shop, called: Called) -> None:
    """From and to are folders of the archive; with no file in them, there is nothing to do."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    shop.run()
    drop(shop, "sales_b.csv", _CONTENTS[1])
    shop.run()
    _came(shop, 1, "20240131_235959")
    change(shop, _NEW_FORMAT)
    report = backfill(shop, start=date(2024, 2, 1))
    assert [line.path for line in report.files] == ["sales_b.csv"]
    report = backfill(shop, start=date(2024, 1, 31), end=date(2024, 1, 31))
    assert [line.path for line in report.files] == ["sales_a.csv"]
    report = backfill(shop, end=date(2024, 1, 30))
    assert report.nothing_to_do
    assert report.idle == "no file of feed sales counts that came on 2024-01-30 or earlier"
    done = called(shop.folder, "backfill", "sales", "--to", "2024-01-30")
    assert done.returncode == 0
    assert "Nothing to do: no file of feed sales counts that came on 2024-01-30" in done.stderr


def _came(shop: Shop, batch_id: int, stamp: str) -> None:
    """Let a batch's files have come at another moment."""
    with closing(sqlite3.connect(shop.folder / "retail.db")) as ledger, ledger:
        key = (batch_id,)
        [(old,)] = ledger.execute("SELECT stamp FROM retailmart_batches WHERE batch_id = ?", key)
        ledger.execute("UPDATE retailmart_batches SET stamp = ? WHERE stamp = ?", (stamp, old))
    processed = shop.folder / "archive" / "processed"
    (processed / old).rename(processed / stamp)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sale",), "there is no feed 'sale'; did you mean 'sales'?"),
        (("sales", "--from", "march"), "--from march: write the day as 2024-01-31"),
        (("sales", "--from", "2024-02-01", "--to", "2024-01-01"), "2024-02-01, is after the last"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    shop: Shop, called: Called, words: tuple[str, ...], message: str
) -> None:
    """An unknown feed, or days that are none, is a mistake in what was typed."""
    done = called(shop.folder, "backfill", *words)
    assert done.returncode == SettingsError.exit_code
    assert message in done.stderr


def test_landing_is_left_alone(shop: Shop) -> None:
    """What has landed waits for the next run, even the same content under the same name."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    shop.run()
    waiting = {"sales_a.csv": _CONTENTS[0], "sales_b.csv": _CONTENTS[1]}
    for name, lines in waiting.items():
        drop(shop, name, lines)
    change(shop, _NEW_FORMAT)
    backfill(shop)
    assert {path.name for path in (shop.folder / "landing").iterdir()} == waiting.keys()
    assert len(shop.archived()) == 1
    report = shop.run()
    assert (report.count("loaded"), report.count("duplicate")) == (1, 1)


def test_what_the_archive_lacks_is_a_mistake_or_skipped(shop: Shop, called: Called) -> None:
    """Nothing is changed if a file is gone or was changed by hand; those files can be skipped."""
    for number in (0, 1, 2):
        drop(shop, f"sales_{number}.csv", _CONTENTS[number])
    shop.run()
    gone, changed = (
        next((shop.folder / "archive").rglob(f"sales_{number}.csv")) for number in (0, 1)
    )
    gone.unlink()
    changed.write_text("by hand\n")
    change(shop, _NEW_COLUMN)
    before = rows(shop)
    with pytest.raises(RetailmartError) as told:
        backfill(shop)
    assert "2 files can't be read again" in told.value.message
    assert "sales_0.csv is no longer in" in told.value.message
    assert "sales_1.csv in" in told.value.message
    assert "is not what was delivered" in told.value.message
    assert "--skip-missing" in str(told.value.hint)
    assert rows(shop) == before
    assert nothing_is_open(shop)
    done = called(shop.folder, "backfill", "sales", "--skip-missing", "--as-of", "2024-04-01")
    assert done.returncode == 0
    assert "left out   sales_0.csv" in done.stderr
    modes = {row["payment_mode"] for row in lake_tables(shop)["raw/sales"].named()}
    assert modes == {None, "UPI"}


def test_a_file_that_the_feed_refuses_stops_all(shop: Shop) -> None:
    """A mandatory column that older files lack: each is named, and nothing is changed."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    drop(shop, "sales_b.csv", _CONTENTS[2])
    shop.run()
    before = rows(shop)
    mandatory = "  payment_mode: {type: STRING, mandatory: true}\nextra_columns:"
    change(shop, ("extra_columns:", mandatory))
    with pytest.raises(RetailmartError, match=r"sales\.yml can't read sales_a\.csv .*payment_mode"):
        backfill(shop)
    assert rows(shop) == before
    assert nothing_is_open(shop)


def test_rows_that_were_repaired_count_once(shop: Shop, called: Called) -> None:
    """A file whose rows a sheet brought back is left out with the sheet, until that is undone."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    drop(shop, "sales_b.csv", _CONTENTS[1])
    shop.run()
    sheet = shop.folder / "refused.csv"
    shop.open().quarantine_export(sheet, "sales_a.csv")
    text = sheet.read_text(encoding="utf-8-sig")
    sheet.write_text(text.replace("20.01.2024", "2024-01-20"), encoding="utf-8-sig")
    shop.open().quarantine_replay(sheet)
    shop.run()
    change(shop, _NEW_FORMAT)
    done = called(shop.folder, "backfill", "sales", "--as-of", "2024-04-01")
    assert done.returncode == 5
    assert "sales_a.csv is left out: rows that it had refused came back repaired, in" in done.stderr
    assert "first: retailmart undo 2" in done.stderr
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [1, 1, 2, 3, 4]
    shop.open().undo(2)
    assert backfill(shop).left_out == ()
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [1, 1, 2, 3, 4]
    assert not shop.refused()


def test_rows_that_were_refused_again_count_once(shop: Shop) -> None:
    """A sheet that brought nothing is a way back all the same: its file is left out with it."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    shop.run()
    sheet = shop.folder / "refused.csv"
    shop.open().quarantine_export(sheet, "sales_a.csv")
    shop.open().quarantine_replay(sheet)
    assert shop.run().rows("quarantined") == 1
    change(shop, _NEW_FORMAT)
    report = backfill(shop)
    assert report.nothing_to_do
    assert report.idle == "every file is left out"
    assert {one.path for one in report.left_out} > {"sales_a.csv"}
    again = shop.folder / "again.csv"
    shop.open().quarantine_export(again)
    text = again.read_text(encoding="utf-8-sig")
    again.write_text(text.replace("20.01.2024", "21.01.2024"), encoding="utf-8-sig")
    shop.open().quarantine_replay(again)
    shop.run()
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [1, 2, 3]


def test_dismissed_rows_stay_dismissed(shop: Shop) -> None:
    """A file keeps its key: what people said of its rows is still said of them."""
    drop(shop, "sales_a.csv", _CONTENTS[2])
    shop.run()
    shop.open().quarantine_dismiss("sales_a.csv", reason="a test")
    change(shop, _NEW_COLUMN)
    backfill(shop)
    assert shop.open().quarantine_list().dismissed == 1
    assert len(shop.refused()) == 1


def test_json_is_read_again(shop: Shop) -> None:
    """Files of a feed in JSON get a column that they had all the time."""
    feed = "files: [till*.json]\nformat: json\ncolumns: {till: INT}\n"
    path = shop.folder / "feeds" / "tills.yml"
    path.write_text(feed)
    shop.drop("till.json", '[{"till": 1, "place": "door"}, {"till": 2}]')
    shop.run()
    path.write_text(feed.replace("{till: INT}", "{till: INT, place: STRING}"))
    shop.open().backfill("tills", as_of=AS_OF)
    places = {row["till"]: row["place"] for row in lake_tables(shop)["raw/tills"].named()}
    assert places == {1: "door", 2: None}


# One batch, exactly once


@pytest.mark.parametrize("step", ["build", "publish", "archive"])
def test_the_next_run_finishes_what_was_cut_off(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever was done of it: a plain run ends it, and takes in what landed meanwhile."""
    for number in (0, 1):
        drop(shop, f"sales_{number}.csv", _CONTENTS[number])
    shop.run()
    change(shop, *_CHANGES)
    undisturbed = beside(shop)
    backfill(undisturbed)

    def cut_off(*_: Any, **__: Any) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(batch, step, cut_off)
        with pytest.raises(OSError, match="cut off"):
            backfill(shop)
    for one in (shop, undisturbed):
        drop(one, "sales_2.csv", _CONTENTS[2])
        report = one.run()
    assert [one.batch_id for one in report.batches] == [3]
    assert _unnumbered(rows(shop)) == _unnumbered(rows(undisturbed))
    with shop.open().ledger() as ledger:
        assert [file.batch_id for file in ledger.files.among(range(1, 10))] == [1, 1, 3]


def test_abandoning_it_leaves_all_as_it_was(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backfill that is not prepared yet can be let go; its files count as before."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    shop.run()
    before = rows(shop)
    change(shop, _NEW_FORMAT)
    with monkeypatch.context() as patched:
        patched.setattr(batch, "build", _cut_off)
        with pytest.raises(OSError, match="cut off"):
            backfill(shop)
    shop.open().abandon()
    assert rows(shop) == before
    assert shop.run().nothing_to_do


def _cut_off(*_: Any, **__: Any) -> None:
    raise OSError("cut off")


def test_an_undo_reads_the_files_as_the_feed_is_then(shop: Shop) -> None:
    """With the feed put back, all is as before; and an undo is undone once."""
    for number in (0, 1):
        drop(shop, f"sales_{number}.csv", _CONTENTS[number])
    shop.run()
    before, feed = rows(shop), (shop.folder / "feeds" / "sales.yml").read_text()
    change(shop, _NEW_FORMAT, _NEW_RULE)
    report = backfill(shop)
    assert rows(shop) != before
    drop(shop, "sales_1.csv", [HEADER, sale(9)])
    shop.run()
    shop.open().undo(3)
    with pytest.raises(RetailmartError, match=r"just as run 2 did: feeds/sales\.yml is as it was"):
        shop.open().undo(report.run_id)
    (shop.folder / "feeds" / "sales.yml").write_text(feed)
    undone = shop.open().undo(report.run_id)
    assert undone.batches[0].undoes == report.run_id
    assert _unnumbered(rows(shop)) == _unnumbered(before)
    again = shop.open().undo(report.run_id)
    assert again.undone_already is not None
    assert again.undone_already.run == report.run_id


def test_an_undo_counts_repaired_rows_once(shop: Shop) -> None:
    """Rows that came back since the backfill would come twice: their sheet is undone first."""
    drop(shop, "sales_a.csv", _CONTENTS[2])
    shop.run()
    feed = (shop.folder / "feeds" / "sales.yml").read_text()
    change(shop, _NEW_FORMAT)
    backfill(shop)
    sheet = shop.folder / "refused.csv"
    shop.open().quarantine_export(sheet, "sales_a.csv")
    shop.open().quarantine_replay(sheet)
    shop.run()
    (shop.folder / "feeds" / "sales.yml").write_text(feed)
    with pytest.raises(RetailmartError) as told:
        shop.open().undo(2)
    assert "rows that sales_a.csv had refused came back repaired since" in told.value.message
    assert told.value.hint == "Run: retailmart undo 3, then retailmart undo 2"
    for run_id in (3, 2):
        shop.open().undo(run_id)
    assert len(shop.refused()) == 1


def test_an_undo_that_was_cut_off_is_finished(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run ends the undo of a backfill, as it ends any."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    shop.run()
    before, feed = rows(shop), (shop.folder / "feeds" / "sales.yml").read_text()
    change(shop, _NEW_FORMAT)
    backfill(shop)
    (shop.folder / "feeds" / "sales.yml").write_text(feed)
    with monkeypatch.context() as patched:
        patched.setattr(batch, "build", _cut_off)
        with pytest.raises(OSError, match="cut off"):
            shop.open().undo(2)
    shop.run()
    assert rows(shop) == before


def test_the_runs_that_brought_the_files_can_still_be_undone(shop: Shop) -> None:
    """A backfill changes how files are read, and not which run brought which of them."""
    drop(shop, "sales_a.csv", _CONTENTS[0])
    shop.run()
    drop(shop, "sales_b.csv", _CONTENTS[1])
    shop.run()
    change(shop, _NEW_FORMAT)
    backfill(shop)
    shop.open().undo(2)
    assert [row[0] for row in shop.mart("customer_mart", "customer_id")] == [1, 2, 3]
    assert backfill(shop).batches[0].read_again == 1
