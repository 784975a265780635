"""`retailmart schema`: what changed by which file, and what differs now."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.pages import commands
from tests.support.shop import Called, Shop, Typed
from tests.test_schema_policies import COLUMNS, define, deliver, settle

InShop = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def till(shop: Shop) -> Shop:
    """A feed with a table that two files have made and changed."""
    settle(shop, "evolve")
    deliver(shop, "a.csv", "id,day,n", "1,2024-01-05,7")
    deliver(shop, "b.csv", "id,day,n,Till No", "2,2024-01-05,3000000000,T1")
    return shop


@pytest.fixture
def retailmart(shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch) -> InShop:
    """The command line, in the shop's folder."""
    monkeypatch.chdir(shop.folder)
    return lambda *words: called(shop.folder, "schema", *words)


def told(result: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that a command printed."""
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_history_tells_each_change_with_its_run_and_file(till: Shop, retailmart: InShop) -> None:
    """In words and as JSON; the making of a table is one line."""
    made, wider, new = lines(retailmart("history"))
    assert made.startswith("run 1  20")
    assert made.endswith("  till  made with 5 columns  feeds/till.yml")
    assert wider.startswith("run 2  20")
    assert wider.endswith("  till  n INT → BIGINT  b.csv")
    assert new.endswith("  till  + Till_No STRING  b.csv")
    _, second = told(retailmart("history", "till", "--output", "json"))["history"]
    assert (second["feed"], second["run"], second["is_new"]) == ("till", 2, False)
    assert second["changes"][1] == {
        "column": "Till_No",
        "before": None,
        "after": "STRING",
        "cause": "b.csv",
    }


def test_history_of_a_feed_that_nobody_knows(till: Shop, retailmart: InShop) -> None:
    """The near name is told; a feed whose file is gone is still known."""
    assert "there is no feed 'tll'; did you mean 'till'?" in retailmart("history", "tll").stderr
    (till.folder / "feeds" / "till.yml").rename(till.folder / "feeds" / "other.yml")
    assert len(lines(retailmart("history", "till"))) == 3
    assert lines(retailmart("history", "other")) == ["no column has changed yet"]


def test_diff_tells_where_the_definition_and_raw_are_not_alike(
    till: Shop, retailmart: InShop
) -> None:
    """What files brought and widened, what the next file makes, and what can't be followed."""
    assert lines(retailmart("diff")) == [
        "till  n: INT in feeds/till.yml, BIGINT in raw",
        "till  Till_No STRING: brought by files as 'Till No'; feeds/till.yml lacks it",
    ]
    define(
        till, columns=COLUMNS.replace("  n: INT\n", "").replace("(6,2)", "(5,2)") + "  new: INT\n"
    )
    assert lines(retailmart("diff")) == [
        "till  refused: feeds/till.yml: column amount is DECIMAL(5,2), but raw/till holds"
        " DECIMAL(6,2), of which that has no room for all",
        "till  new INT: new in feeds/till.yml; raw gets it with the next file",
        "till  refused: feeds/till.yml: names no column n any more, but raw/till holds n BIGINT",
        "till  Till_No STRING: brought by files as 'Till No'; feeds/till.yml lacks it",
    ]


@pytest.mark.parametrize(
    ("schema", "fate"),
    [
        ("", "is dropped"),
        ("extra_columns: more\n", "goes to more"),
        ("schema: {columns: evolve}\n", "becomes a column of raw"),
        ("schema: {columns: discard_row}\n", "rows with a value there are quarantined"),
        ("schema: {columns: discard_value}\n", "is dropped"),
    ],
)
def test_diff_looks_at_the_headers_of_what_waits(
    shop: Shop, retailmart: InShop, schema: str, fate: str
) -> None:
    """Packed or not, in any folder; nothing is staged or moved by looking."""
    settle(shop, more=schema)
    shop.drop("plain.csv", "id,day,n,amount,seen\n1,2024-01-05,1,1,\n")
    shop.drop("north/a.csv.gz", gzip.compress(b"id,day,amount,seen,Till No\n1,2024-01-05,1,,x\n"))
    shop.drop("broken.csv.gz", b"no archive")
    assert lines(retailmart("diff")) == [
        "till  raw has no table yet",
        f"till  landing: north/a.csv.gz brings Till No: {fate}",
        "till  landing: north/a.csv.gz lacks n: empty in its rows",
    ]
    assert len(shop.backend.landed()) == 3


def test_diff_tells_which_files_would_be_refused(till: Shop, retailmart: InShop) -> None:
    """In the words of the refusal, as JSON too."""
    define(till, "schema: {columns: freeze}\n")
    till.drop("c.csv", "id,day,Till No,other\n3,2024-01-05,T1,x\n")
    (feed,) = told(retailmart("diff", "till", "--output", "json"))["feeds"]
    assert (feed["feed"], feed["has_table"]) == ("till", True)
    assert [(one["column"], one["defined"], one["held"]) for one in feed["columns"]] == [
        ("n", "INT", "BIGINT"),
        ("Till_No", None, "STRING"),
    ]
    (file,) = feed["files"]
    assert file["refused"].startswith("brings the column other, which feeds/till.yml does not name")


def test_diff_of_a_project_at_rest_says_so(shop: Shop, retailmart: InShop) -> None:
    """Nothing differs, nothing waits."""
    settle(shop)
    deliver(shop, "a.csv", "id,day", "1,2024-01-05")
    assert lines(retailmart("diff")) == [
        "definition and raw agree, and no file in landing would change that"
    ]
    assert told(retailmart("diff", "-o", "json")) == {
        "feeds": [{"feed": "till", "has_table": True, "columns": [], "files": []}]
    }


def test_the_commands_of_the_page_work(till: Shop, typed: Typed) -> None:
    """Every command of docs/schemas.md, on a project with such a feed."""
    lines = commands("docs/schemas.md")
    assert lines
    for line in lines:
        done = typed(line, till.folder)
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_the_run_tells_of_columns_in_a_line(till: Shop, typed: Typed) -> None:
    """With the file that brought them, where people see it."""
    till.drop("c.csv", "id,day,more\n3,2024-01-05,x\n")
    done = typed("retailmart run", till.folder)
    assert done.returncode == 0, done.stderr
    assert "column more" in done.stderr
    assert "raw/till: new, STRING, by c.csv" in done.stderr
