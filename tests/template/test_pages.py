"""What the pages of the three stories tell people to type works as told, on the sample."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

import retailmart
from retailmart.template import STORIES, write_project
from tests.support.pages import blocks, commands
from tests.support.shop import AS_OF, Shop, Typed
from tests.template.looking import mart, one

PAGES = ["docs/till.md", "docs/webshop.md", "docs/markets.md"]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as the pages call it, run once. Tests work on a copy."""
    folder = tmp_path_factory.mktemp("pages") / "myshop"
    write_project(folder, sample=True)
    retailmart.open_project(folder).run(AS_OF)
    return folder


@pytest.fixture
def shop(run_once: Path, tmp_path: Path) -> Shop:
    """A copy of it."""
    shutil.copytree(run_once, tmp_path / "myshop")
    return Shop(tmp_path / "myshop")


@pytest.mark.parametrize(("page", "story"), list(zip(PAGES, STORIES, strict=True)))
def test_commands_work(page: str, story: str, tmp_path: Path, typed: Typed) -> None:
    """The first makes a project of the page's story alone, the others work in it."""
    first, *others = commands(page)
    assert first == f"retailmart init myshop --with {story} --sample"
    assert typed(first, tmp_path).returncode == 0
    for line in others:
        done = typed(line, tmp_path / "myshop")
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES[1:])
def test_python_works(page: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shown of the Python door works beside the project."""
    monkeypatch.chdir(shop.folder.parent)
    (code,) = blocks(page, "python")
    exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_the_marts_of_a_page_are_there(page: str, shop: Shop) -> None:
    """Every table and mart that a table of the page begins a line with, and its columns."""
    text = Path(__file__).parents[2].joinpath(page).read_text(encoding="utf-8")
    lines = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| .* \| (.*) \|$", text, flags=re.MULTILINE)
    project = shop.open().project
    for names, columns in lines:
        for name in re.findall(r"\w+", names):
            assert name in project.marts
            told = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", columns))
            assert told <= set(shop.open().mart(name).columns), name
    assert lines or page == "docs/till.md"


def test_the_webshops_settings_are_taken(shop: Shop) -> None:
    """All that the page names can be set, and nothing else may be named."""
    orders, variables = blocks("docs/webshop.md", "yaml")
    settings = shop.folder / "retailmart.yml"
    settings.write_text(settings.read_text() + variables)
    (shop.folder / "tables" / "orders.yml").write_text(orders)
    project = shop.open().project
    assert project.tables["orders"].cursor == "updated_at"
    declared = {name: mart for mart in project.marts.values() for name in mart.variables}
    named = set(yaml.safe_load(variables)["variables"])
    webshop = {name for name in declared if not name.startswith(("incentive", "declining"))}
    assert named == webshop


def test_a_view_brings_other_columns(shop: Shop) -> None:
    """The page's view in the place of product_inventory gives the same scores."""
    before = mart(shop, "inventory_analytics")
    (view,) = blocks("docs/webshop.md", "sql")
    with closing(sqlite3.connect(shop.folder / "shop.db")) as connection:
        connection.executescript(
            "CREATE TABLE stock (id INTEGER PRIMARY KEY, article_id INTEGER, depot INTEGER,"
            " pieces INTEGER, counted_at DATETIME, space INTEGER);"
            "INSERT INTO stock SELECT * FROM product_inventory;"
            f"DROP TABLE product_inventory; {view}"
        )
    shop.sales("sales_new.csv", [])
    shop.run()
    assert mart(shop, "inventory_analytics") == before


def test_a_column_of_a_feed_comes_to_its_mart(shop: Shop) -> None:
    """The page's two lines make a spelling known, and a column of what was in the extras."""
    (lines,) = blocks("docs/markets.md", "yaml")
    feed = shop.folder / "feeds" / "orders_export.yml"
    text = re.sub(r"^  payment_method:.*\n", lines.split("\n", 1)[1], feed.read_text(), flags=re.M)
    feed.write_text(text)
    shop.drop(
        "market3/orders.csv",
        "Order ID,Order Status,Paid By,Tip,Order Total\n1,COMPLETED,Cheque,2.50,12.50\n",
    )
    shop.run()
    row = one(shop, "market_orders", market="market3")
    assert (row["payment_method"], str(row["tip"])) == ("Cheque", "2.50")


def test_the_tills_page_names_all_columns_that_are_read(shop: Shop, tmp_path: Path) -> None:
    """A shop whose tables have no others, some under the page's other names, has the same marts."""
    text = Path(__file__).parents[2].joinpath("docs/till.md").read_text(encoding="utf-8")
    feed = shop.open().project.feeds["sales"]
    rows = re.findall(r"^\| (\w+) \| ([A-Z][\w(),]*) \|", text, flags=re.MULTILINE)
    assert rows == [(column.name, str(column.type)) for column in feed.columns]
    other = Shop(tmp_path / "other")
    write_project(other.folder, sample=True, stories=["tills"])
    (document,) = blocks("docs/till.md", "yaml")
    (other.folder / "tables" / "customer.yml").write_text(document)
    read: dict[str, list[str]] = {}
    for table, columns in re.findall(r"^\| (\w+), (\w.*?) \|", text, flags=re.MULTILINE):
        read.setdefault(table, []).extend(re.findall(r"\b(?!and\b)\w+", columns))
    assert list(read) == ["customer", "store", "sales_team"]
    with closing(sqlite3.connect(other.folder / "shop.db")) as connection:
        for table, names in read.items():
            for _, name, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if name not in names:
                    connection.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        for name, names in yaml.safe_load(document)["aliases"].items():
            connection.execute(f"ALTER TABLE customer RENAME COLUMN {name} TO {names[-1]}")
        connection.execute("ALTER TABLE customer RENAME TO clients")
    other.run()
    for name in STORIES["tills"].marts:
        columns = "COLUMNS('^[^_]')"  # without _file_id: files have other numbers there
        assert other.mart(name, columns) == shop.mart(name, columns), name
