"""Looking at marts, and asking the lake: right rows, nothing changed, clear words for mistakes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from retailmart.errors import MartNotBuilt, RetailmartError
from retailmart.template import write_project
from tests.support.backends import shop_tables
from tests.support.shop import Called, Shop, keep_only, sale

MART = "customer_monthly_purchase"
_MARTS = (MART, "declining_customers")


@pytest.fixture
def marts() -> Collection[str]:
    """One by month that is published, one that is built whole."""
    return _MARTS


def filled(shop: Shop) -> Shop:
    """A shop of two months, with a row that was refused."""
    lines = [sale(2, price="12.30"), sale(1, day="2024-02-01"), sale(1), sale(3, day="2024-02-31")]
    shop.sales("sales_1.csv", lines)
    shop.run()
    return shop


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """One shop for all tests that only ask."""
    shop = Shop(tmp_path_factory.mktemp("asked") / "shop")
    write_project(shop.folder, sample=False, stories=("tills",))
    keep_only(shop.folder, marts=_MARTS)
    shop.backend.execute_in_shop(*shop_tables())
    return filled(shop)


def content(folder: Path) -> dict[str, bytes]:
    """Each file of a project but for what engines put aside while they work."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.is_relative_to(folder / ".retailmart")
    }


@pytest.mark.every_backend
def test_a_query_finds_what_marts_find(shop: Shop) -> None:
    """Feeds, source tables, their history, marts, refused rows, variables: by the known names."""
    found = {
        "SELECT sum(total_cost) FROM sales": [("32.30",)],
        f"SELECT sum(monthly_total) FROM {MART}": [("32.30",)],
        "SELECT count(*) FROM customer JOIN sales USING (customer_id)": [(3,)],
        "SELECT count(*) > 0 FROM customer_history": [(True,)],
        "SELECT line FROM quarantine.sales": [(5,)],
        "SELECT getvariable('as_of')::DATE::VARCHAR": [("2024-04-01",)],
    }
    filled(shop)
    for query, expected in found.items():
        with shop.open().sql(query) as answer:
            rows = [tuple(row.values()) for row in answer.to_dict()["rows"]]
        assert rows == expected, query


def test_rows_as_text_csv_json_and_parquet(asked: Shop, called: Called) -> None:
    """The same rows in each form, in the order of the key; other readers find them, too."""
    show = ("show", MART, "--columns", "customer_id,_month,monthly_total")
    expected = [("1", "2024-01", "10.00"), ("2", "2024-01", "12.30"), ("1", "2024-02", "10.00")]
    text = called(asked.folder, *show)
    assert [tuple(line.split()) for line in text.stdout.splitlines()[2:]] == expected
    table = called(asked.folder, *show, "--output", "csv").stdout
    assert [tuple(row) for row in csv.reader(io.StringIO(table))][1:] == expected
    answer = json.loads(called(asked.folder, *show, "--output", "json").stdout)
    assert [tuple(map(str, row.values())) for row in answer["rows"]] == expected
    assert [one["type"] for one in answer["columns"]] == ["INTEGER", "VARCHAR", "DECIMAL(18,2)"]
    file = asked.folder.parent / "rows.parquet"
    with asked.open().show(MART) as rows, file.open("wb") as target:
        rows.write(target, "parquet")
    assert [str(one) for one in pq.read_table(file)["monthly_total"]] == [
        total for _, _, total in expected
    ]


def test_rows_are_chosen(asked: Shop, called: Called) -> None:
    """By month, by a condition that may hold anything SQL does, and at most so many."""
    one = called(asked.folder, "show", MART, "--month", "2024-02", "-o", "json")
    assert [row["customer_id"] for row in json.loads(one.stdout)["rows"]] == [1]
    words = ("--where", "customer_id = 2 -- or so\n OR false", "-o", "json")
    other = called(asked.folder, "show", MART, *words)
    assert [row["customer_id"] for row in json.loads(other.stdout)["rows"]] == [2]
    few = called(asked.folder, "show", MART, "--limit", "1")
    assert len(few.stdout.splitlines()) == 3
    assert "the first 1 row;" in few.stderr
    assert called(asked.folder, "show", MART, "--limit", "3").stderr == ""


def test_null_empty_and_control_characters_are_told_apart(asked: Shop, called: Called) -> None:
    """What others wrote moves no cursor and breaks no line."""
    query = "SELECT NULL AS n, '' AS e, chr(27) || '[31m' || chr(10) AS \"c\nd\", 1e2::DOUBLE AS d"
    done = called(asked.folder, "sql", query)
    head, _, row = done.stdout.splitlines()
    assert "c\\nd" in head
    assert row.split() == ["NULL", "\\x1b[31m\\n", "100.0"]


def test_null_is_not_the_empty_text_in_csv(asked: Shop, called: Called) -> None:
    """As the page on questions says."""
    done = called(asked.folder, "sql", "SELECT NULL AS a, '' AS b, 'x,y' AS c", "-o", "csv")
    assert done.stdout == 'a,b,c\n,"","x,y"\n'


CHANGES = (
    "DELETE FROM sales",
    "COPY sales TO '{folder}/lake/x.csv'",
    "COPY (PIVOT sales ON store_id USING sum(total_cost)) TO '{folder}/lake/x.csv'",
    "COPY (SELECT 1) TO '{folder}/.retailmart/x.csv'",
    "EXPORT DATABASE '{folder}/lake/x'",
    "ATTACH '{folder}/retail.db'",
    "ATTACH '{folder}/lake/x.duckdb' AS x",
    "CREATE TABLE t AS SELECT 1",
    "SELECT 1; COPY (SELECT 1) TO '{folder}/lake/x.csv'",
    "SET enable_external_access = true",
    "INSTALL httpfs",
    "PRAGMA database_list",
    "SELECT 1) TO '{folder}/lake/x.csv' (FORMAT csv); --",
)


@pytest.mark.parametrize("text", CHANGES)
@pytest.mark.parametrize("form", ["text", "csv"])
def test_nothing_can_be_changed(asked: Shop, called: Called, text: str, form: str) -> None:
    """Whatever is no query is refused before it runs, and nothing of the project changes."""
    before = content(asked.folder)
    done = called(asked.folder, "sql", text.format(folder=asked.folder), "-o", form)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert content(asked.folder) == before
    assert not (asked.folder / ".retailmart" / "x.csv").exists()


def test_nothing_else_of_the_machine_can_be_read(asked: Shop, called: Called) -> None:
    """Neither its files nor the project's own, in which secrets may be."""
    for path in ("/etc/hostname", asked.folder / "retailmart.yml", asked.folder / "retail.db"):
        done = called(asked.folder, "sql", f"SELECT * FROM read_text('{path}')")
        assert done.returncode == 1, path
        assert "Permission Error" in done.stderr


READS = (
    "FROM sales SELECT count(*)",
    "WITH a AS (SELECT 1) SELECT * FROM a;",
    "VALUES (1)",
    "DESCRIBE sales",
    "SUMMARIZE sales",
    "PIVOT sales ON store_id USING sum(total_cost)",
    "EXPLAIN SELECT * FROM sales",
    "SELECT 1 -- the end",
)


@pytest.mark.parametrize("query", READS)
@pytest.mark.parametrize("form", ["text", "json"])
def test_all_kinds_of_queries_are_taken(asked: Shop, called: Called, query: str, form: str) -> None:
    """What only reads is answered."""
    done = called(asked.folder, "sql", query, "-o", form)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_tables_are_listed_by_the_names_that_queries_use(asked: Shop, called: Called) -> None:
    """Not by those that DuckDB was given on the way."""
    shown = called(asked.folder, "sql", "SHOW TABLES").stdout
    names = {line.split()[0] for line in shown.splitlines()}
    assert {"sales", "quarantine.sales", "customer", "customer_history", MART} <= names
    assert not any("relation" in name for name in names)


MISTAKES = {
    ("sql", "SELECT * FROM sale"): "did you mean 'sales'?",
    ("sql", "SELECT * FROM quarantin.sales"): "did you mean 'quarantine.sales'?",
    ("sql", "SELECT total FROM sales"): '"total_cost"',
    ("sql", "SELEC 1"): "syntax error",
    ("show", "sales"): "retailmart sql 'SELECT * FROM sales LIMIT 20'",
    ("show", "declining"): "did you mean 'declining_customers'?",
    ("show", MART, "--columns", "monthly_totel"): "monthly_total",
    ("show", MART, "--month", "2024-3"): "Write it as 2024-03",
    ("show", "declining_customers", "--month", "2024-03"): "is not kept by month",
    ("show", MART, "--where", "nothing = 1"): "nothing",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_told(asked: Shop, called: Called, words: tuple[str, ...]) -> None:
    """Exit code 1, with what is meant perhaps, or how it is written."""
    done = called(asked.folder, *words)
    assert done.returncode == 1
    assert MISTAKES[words] in done.stderr
    assert "Traceback" not in done.stderr


def test_before_the_first_run_there_is_nothing_to_ask(shop: Shop) -> None:
    """And it is said what to do."""
    with pytest.raises(MartNotBuilt, match="no mart is built yet"):
        shop.open().sql("SELECT 1")


def test_a_feed_without_refused_rows_says_so(shop: Shop) -> None:
    """That is no mistake of the query."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    with pytest.raises(RetailmartError, match="no row of feed sales was ever refused"):
        shop.open().sql("SELECT * FROM quarantine.sales")


def test_marts_are_listed(shop: Shop, called: Called) -> None:
    """What each is, its rows and months, when it was built, its table; one that is new, too."""
    filled(shop)
    (shop.folder / "marts" / "late.sql").write_text(
        "-- about: what came late\n-- refresh: full\nSELECT count(*) AS n FROM sales\n"
    )
    listed = {mart.name: mart for mart in shop.open().marts_list().marts}
    one = listed[MART]
    assert (one.rows, one.months, one.first_month, one.last_month) == (3, 2, "2024-01", "2024-02")
    assert (one.published_as, one.held) == (MART, None)
    assert str(one.built_as_of).startswith("2024-04-01")
    assert listed["declining_customers"].months is None
    assert (listed["late"].rows, listed["late"].about) == (None, "what came late")
    shown = called(shop.folder, "marts").stdout
    assert shown == called(shop.folder, "marts", "list").stdout
    assert len(shown.splitlines()) == 2 + len(listed)


def test_a_mart_that_is_held_back_says_why(shop: Shop, called: Called) -> None:
    """In the list as in status; its rows are those of its last good state."""
    filled(shop)
    mart = shop.folder / "marts" / f"{MART}.sql"
    broken = "CAST('x' AS INTEGER) AS monthly_total,"
    mart.write_text(mart.read_text().replace("m.monthly_total,", broken))
    shop.sales("sales_2.csv", [sale(4)])
    assert shop.run().held
    (one,) = (mart for mart in shop.open().marts_list().marts if mart.name == MART)
    assert one.rows == 3
    assert one.held is not None
    assert "HELD BACK" in called(shop.folder, "marts").stdout
