"""What people see of a run, on a terminal and elsewhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from retailmart import console
from retailmart.report import (
    BalanceLine,
    BatchReport,
    Difference,
    FileLine,
    Held,
    LateKeys,
    MartLine,
    RunReport,
    UnknownKeys,
)

BATCH = BatchReport(
    batch_id=7,
    recovered=False,
    archived_to="processed/x",
    files=(
        FileLine("a.csv", "loaded", None, 1234567, 1234560, 7, {"too_late": 3, "odd": 1}),
        FileLine("b.csv", "duplicate", "has the same content as a.csv"),
        FileLine("c.csv", "refused", "is empty"),
    ),
    differences=(
        Difference("a.csv", -2, Decimal("-1234.50")),
        Difference("d.csv", 1, Decimal("1.00")),
    ),
    unmatched=(
        UnknownKeys("customer_id", "customer", 2, 5),
        UnknownKeys("store_id", "store", 1, 1),
    ),
    healed=(LateKeys("sales", "sales_person_id", "sales_team", 1, 1, Decimal("12.50")),),
    held=(Held("inventory_turnover", "the table is full"),),
    balance=tuple(
        BalanceLine("sales", f"2024-{month:02}", month, Decimal("1000.00"), ("a", "b", "c"))
        for month in range(1, 10)
    ),
    marts=(
        MartLine("customer_mart", 12, 3),
        MartLine("declining_customers", 4, None, "declining", 4, 2),
        MartLine("peak_hours", 4, None, "peak_hours", 4, 1),
        MartLine("order_analytics", 4, None, "order_analytics"),
        MartLine("inventory_turnover", 4, None, "inventory_turnover"),
    ),
)
REPORT = RunReport(
    run_id=3,
    as_of=datetime(2024, 4, 1, 9, 30, tzinfo=UTC),
    batches=(BATCH,),
    waiting=("late.csv",),
    unreachable=(),
    seconds={"load": 1.25, "build": 2.0},
    lake="/shop/lake",
    database="sqlite:////shop/retail.db",
)


def told(report: RunReport, capsys: pytest.CaptureFixture[str]) -> str:
    """The summary as people read it; nothing of it may go to stdout."""
    console.summary(report)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def line_of(text: str, word: str) -> str:
    """The one line that holds a word, its padding gone."""
    (found,) = [line for line in text.splitlines() if word in line]
    return " ".join(found.split())


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("as of", "Run 3, as of 2024-04-01 09:30 UTC"),
        ("files loaded", "files loaded 1"),
        ("files duplicate", "files duplicate 1"),
        ("files refused", "files refused 1"),
        ("rows read", "rows read 1,234,567"),
        ("rows loaded", "rows loaded 1,234,560"),
        (
            "unknown customer_id",
            "unknown customer_id 2 keys in 5 rows of these files, kept without customer's columns",
        ),
        (
            "unknown store_id",
            "unknown store_id 1 key in 1 row of these files, kept without store's columns",
        ),
        (
            "known sales_person_id",
            "known sales_person_id 1 key came late: 12.50 in 1 row left unknown",
        ),
        ("corrected a", "corrected a.csv -2 rows, -1,234.50"),
        ("corrected d", "corrected d.csv +1 row, +1.00"),
        ("earlier months", "balance 3 earlier months, all equal"),
        ("balance 2024-09", "balance 2024-09 9 rows, 1,000.00, equal in 3 tables"),
        ("seconds", "seconds 3.25"),
        ("same content", "b.csv duplicate has the same content as a.csv"),
        ("is empty", "c.csv refused is empty"),
        ("quarantine show", "a.csv 7 rows quarantined see: retailmart quarantine show a.csv"),
        ("too_late", "a.csv 3 rows warned too_late"),
        ("odd", "a.csv 1 row warned odd"),
        ("customer_mart", "customer_mart 12 3 lake only"),
        ("declining_customers", "declining_customers 4 all declining, 2 rows changed"),
        ("peak_hours", "peak_hours 4 all peak_hours, 1 row changed"),
        ("order_analytics", "order_analytics 4 all order_analytics"),
        ("inventory_turnover,", "inventory_turnover 4 all inventory_turnover, held back"),
        (
            "/shop/lake",
            "marts Delta tables in /shop/lake/marts (how to read them: docs/read-the-lake.md, or"
            ' project.mart("NAME"))',
        ),
        ("retail.db", "published sqlite:////shop/retail.db"),
        ("late.csv", "waiting late.csv is still being uploaded"),
    ],
)
def test_the_summary_tells(word: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fact of the report stands in the summary, in words and with its numbers."""
    assert line_of(told(REPORT, capsys), word) == line


def test_earlier_months_are_counted_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A long history does not push the rest off the screen."""
    assert "balance 2024-03" not in told(REPORT, capsys)


def test_a_recovered_batch_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """People learn that an earlier run was cut off."""
    report = replace(REPORT, batches=(replace(BATCH, recovered=True),))
    assert (
        line_of(told(report, capsys), "recovered") == "recovered batch 7 of a run that was cut off"
    )


def test_nothing_to_do_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that found nothing says so, and names what is still on its way."""
    text = told(replace(REPORT, batches=()), capsys)
    assert text.splitlines() == [
        "Nothing to do: landing holds nothing new.",
        "waiting    late.csv is still being uploaded",
    ]


@pytest.mark.parametrize("name", ["sales[/x].csv", "[red]sales.csv", "sales:smile:.csv"])
def test_names_are_no_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, rule or folder whose name looks like markup is shown as it is, everywhere."""
    batch = replace(
        BATCH,
        files=(
            FileLine(name, "refused", f"about {name}"),
            FileLine(name, "loaded", warned={name: 1}),
        ),
        differences=(Difference(name, 0, Decimal("0.00")),),
    )
    report = replace(REPORT, batches=(batch,), lake=f"/{name}", waiting=(name,), database=name)
    assert told(report, capsys).count(name) == 8


def test_names_have_no_power_over_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in a file's name are shown, not obeyed."""
    batch = replace(BATCH, files=(FileLine("a\x1b[2Jb\r\n.csv", "refused", "\x07 no"),))
    text = told(replace(REPORT, batches=(batch,), waiting=("\x1b]0;x\x07",)), capsys)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "a\\x1b[2Jb\\x0d\\n.csv" in text


def test_lines_for_logs(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody looks on, each step is one plain line on stderr."""
    with console.progress() as progress:
        progress.began("load")
        progress.message("load", "sales, 2 files")
        progress.ended("load", 1.234)
    assert capsys.readouterr() == ("", "load: sales, 2 files\nload: 1.23 s\n")


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal each step has a bar; markup in what it tells stays text."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    with console.BarProgress() as progress:
        progress.began("load")
        progress.message("load", "[/x] 2 files")
        progress.ended("load", 0.1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "load" in err


def test_very_many_files_are_counted_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The first fifty are named, the others by what became of them; JSON has all of them."""
    files = tuple(FileLine(f"{n}.csv", "refused", "is empty") for n in range(60))
    files += tuple(FileLine(f"w{n}.csv", "loaded", None, 1, 0, 1) for n in range(7))
    report = replace(
        REPORT,
        batches=(replace(BATCH, files=files),),
        waiting=tuple(f"{n}.part" for n in range(1200)),
    )
    console.summary(report)
    told = " ".join(capsys.readouterr().err.split())
    assert " 49.csv refused" in told
    assert " 50.csv" not in told
    assert "… 10 more files refused" in told
    assert "… 7 more files with rows quarantined" in told
    assert "waiting 1,150 more files are still being uploaded" in told
    assert len(report.to_dict()["batches"][0]["files"]) == 67
