"""What `init` writes: a good project, schemas that fit it, and never over what is there."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

import retailmart
from retailmart.errors import SettingsError
from retailmart.project import load_project
from retailmart.template import STORIES, write_project
from tests.support.backends import shop_tables
from tests.support.shop import AS_OF, HEADER, Called, sale

FEEDS = {"sales", "orders_export", "deliveries_export", "users_export"}
TABLES = {
    *("customer", "store", "product", "sales_team"),
    *("customers", "products", "orders", "order_items"),
    *("inventory_locations", "product_inventory"),
}
MARTS = {
    *("customer_mart", "sales_mart"),
    *("customer_monthly_purchase", "sales_team_incentive", "declining_customers"),
    *("inventory_analytics", "warehouse_utilization", "inventory_turnover"),
    *("order_analytics", "peak_hours", "customer_segments"),
    *("market_orders", "market_order_totals", "market_users", "market_deliveries"),
    *("market_metrics", "market_user_totals", "market_category_metrics"),
    *("market_merchant_metrics", "market_payment_metrics"),
}
WRITTEN = {
    *(".env", ".gitignore", "retailmart.yml"),
    *(f".schema/{name}.schema.json" for name in ("feed", "retailmart", "table")),
    *(f"feeds/{name}.yml" for name in FEEDS),
    *(f"tables/{name}.yml" for name in TABLES),
    *(f"marts/{name}.sql" for name in MARTS),
}
KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
# What this small judge of JSON Schema understands; a schema that says more must teach it.
KNOWN = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum",
    "items", "maxLength", "minItems", "minLength", "minimum", "pattern", "properties", "required",
    "title", "type", "$schema",
}  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value is one that a JSON Schema accepts."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema and not any(fits(value, option, root) for option in schema["anyOf"]):
        return False
    kind = schema.get("type")
    if kind and not isinstance(value, KINDS[kind]):
        return False
    if kind in ("integer", "number") and isinstance(value, bool):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "minimum" in schema and value < schema["minimum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if isinstance(value, str):
        return bool(
            re.search(schema.get("pattern", ""), value)
            and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        )
    if isinstance(value, list):
        items = schema.get("items", {})
        return len(value) >= schema.get("minItems", 0) and all(
            fits(item, items, root) for item in value
        )
    if isinstance(value, dict):
        known = schema.get("properties", {})
        more = schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= set(value) and all(
            fits(item, known[key], root)
            if key in known
            else (more if isinstance(more, bool) else fits(item, more, root))
            for key, item in value.items()
        )
    return True


def schema_of(folder: Path, name: str) -> dict[str, Any]:
    """A schema as it was written."""
    schema = json.loads((folder / ".schema" / f"{name}.schema.json").read_text())
    assert isinstance(schema, dict)
    return schema


def test_a_new_project_is_whole_and_good(tmp_path: Path) -> None:
    """All files are there, landing too, and none has a mistake."""
    written = write_project(tmp_path / "shop", sample=False)
    assert set(files_of(tmp_path / "shop")) == WRITTEN
    assert {path.relative_to(tmp_path / "shop").as_posix() for path in written} == WRITTEN
    assert (tmp_path / "shop" / "landing").is_dir()
    project = load_project(tmp_path / "shop")
    assert (set(project.feeds), set(project.tables)) == (FEEDS, TABLES)
    assert set(project.marts) == MARTS


def test_all_but_the_sales_are_published(tmp_path: Path) -> None:
    """Each under its own name; the two marts with every sale stay in the lake."""
    write_project(tmp_path, sample=False)
    marts = load_project(tmp_path).marts
    lake_only = {"customer_mart", "sales_mart"}
    assert {name: mart.publish_as for name, mart in marts.items()} == {
        name: None if name in lake_only else name for name in MARTS
    }


def test_dimensions_of_the_tills_have_a_history(tmp_path: Path) -> None:
    """A sale shows its customer, store and salesperson as they were; the webshop's are current."""
    write_project(tmp_path, sample=False)
    tables = load_project(tmp_path).tables
    dimensions = {"customer", "store", "product", "sales_team"}
    assert {name for name, table in tables.items() if table.history} == dimensions
    assert all(table.key for table in tables.values())


def test_the_settings_are_written_out(tmp_path: Path) -> None:
    """The user sees each setting's value where it can be changed."""
    write_project(tmp_path, sample=False)
    lines = (tmp_path / "retailmart.yml").read_text().splitlines()
    for line in (
        "landing: landing",
        "database: sqlite:///retail.db",
        "sources: {shop: sqlite:///shop.db}",
        "engine: duckdb",
    ):
        assert line in lines


def test_secrets_and_data_stay_out_of_git(tmp_path: Path) -> None:
    """Git ignores .env, the private folder and all data."""
    write_project(tmp_path, sample=False)
    ignored = (tmp_path / ".gitignore").read_text().split()
    assert {".env", ".retailmart/", "landing/", "lake/", "archive/", "*.db"} <= set(ignored)


def test_the_sample_brings_a_shop(tmp_path: Path) -> None:
    """With a sample there are files of every feed to load and a database of the shop."""
    write_project(tmp_path, sample=True)
    assert (tmp_path / "shop.db").is_file()
    landed = [
        path.relative_to(tmp_path / "landing").as_posix()
        for path in (tmp_path / "landing").rglob("*.*")
    ]
    for feed in load_project(tmp_path).feeds.values():
        assert any(feed.matches(path) for path in landed), feed.name


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    """A single file that is there already stops all writing, and is told by name."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(SettingsError, match=re.escape(f"{tmp_path / name} is there already")):
        write_project(tmp_path, sample=True)
    assert files_of(tmp_path) == {name: b"mine"}


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    """A link to nowhere is there already: writing would make a file somewhere else."""
    (tmp_path / ".env").symlink_to(tmp_path.parent / "elsewhere")
    with pytest.raises(SettingsError, match="is there already"):
        write_project(tmp_path, sample=False)


def test_a_project_twice_is_refused(tmp_path: Path) -> None:
    """The second init names every file of the first, and changes none."""
    write_project(tmp_path, sample=True)
    before = files_of(tmp_path)
    with pytest.raises(SettingsError) as caught:
        write_project(tmp_path, sample=True)
    assert len(caught.value.problems) >= len(WRITTEN)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("place", ["", "feeds", "landing"])
def test_a_file_where_a_folder_belongs(tmp_path: Path, place: str) -> None:
    """A file in the place of a folder is told before anything is written."""
    folder = tmp_path / "shop"
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("mine")
    with pytest.raises(SettingsError, match="is no folder"):
        write_project(folder, sample=False)
    assert list(files_of(tmp_path).values()) == [b"mine"]


def test_the_samples_database_is_not_overwritten(tmp_path: Path) -> None:
    """A shop.db or a landed file of the user's own stays as it is."""
    (tmp_path / "landing").mkdir()
    for name in ("shop.db", "landing/sales.csv"):
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(SettingsError) as caught:
        write_project(tmp_path, sample=True)
    assert len(caught.value.problems) == 2
    assert files_of(tmp_path) == {"shop.db": b"mine", "landing/sales.csv": b"mine"}


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("retailmart", "retailmart.yml"),
        *(("feed", f"feeds/{name}.yml") for name in sorted(FEEDS)),
        *(("table", f"tables/{name}.yml") for name in sorted(TABLES)),
    ],
)
def test_the_files_fit_their_schemas(tmp_path: Path, schema: str, file: str) -> None:
    """The editor that follows the schema named in the file's first line finds no fault with it."""
    write_project(tmp_path, sample=False)
    text = (tmp_path / file).read_text()
    named = re.match(r"# yaml-language-server: \$schema=(\S+)", text)
    assert named is not None
    path = (tmp_path / file).parent / named[1]
    assert path.resolve() == (tmp_path / ".schema" / f"{schema}.schema.json").resolve()
    root = schema_of(tmp_path, schema)
    assert fits(yaml.safe_load(text), root, root)


@pytest.mark.parametrize(
    ("schema", "document", "good"),
    [
        ("feed", "{files: [a.csv], columns: {id: INT}}", True),
        ("feed", "{files: [a.csv], columns: {id: {type: INT, mandatory: true}}}", True),
        ("feed", "{files: [a.csv], columns: {id: [INT]}}", False),
        ("feed", "{files: [], columns: {id: INT}}", False),
        ("feed", "{columns: {id: INT}}", False),
        ("feed", "{files: [a.csv], columns: {id: INT}, delimter: ';'}", False),
        ("feed", "{files: [a.csv], columns: {id: INT}, rules: [{name: a, action: wran}]}", False),
        ("retailmart", "{variables: {incentive_rate: 0.02, incentive_scope: company}}", True),
        ("retailmart", "{threads: 4, memory_limit: 2GB}", True),
        ("table", "{}", True),
        ("table", "{key: [id], refresh: incremental, cursor: updated_at}", True),
        ("table", "{key: id}", False),
        ("table", "{refresh: daily}", False),
        ("retailmart", "{lanes: 3}", False),
        ("retailmart", "{engine: sparc}", False),
        ("retailmart", "{threads: 0}", False),
        ("retailmart", "{sources: [a]}", False),
    ],
)
def test_schemas_agree_with_the_product(
    tmp_path: Path, schema: str, document: str, good: bool
) -> None:
    """What the product takes an editor takes, and what it refuses an editor underlines."""
    write_project(tmp_path, sample=False)
    root = schema_of(tmp_path, schema)
    assert fits(yaml.safe_load(document), root, root) is good


@pytest.mark.parametrize("name", ["retailmart", "feed", "table"])
def test_schemas_describe_every_key(tmp_path: Path, name: str) -> None:
    """Completion shows what a key is for."""
    write_project(tmp_path, sample=False)
    root = schema_of(tmp_path, name)
    named = {"columns", "format", "delimiter", "rules", "type", "name", "action", "engine"}
    for key, entry in root["properties"].items():
        assert "description" in entry or key in named, key


# stories

SOME = [names for count in (1, 2) for names in combinations(STORIES, count)]


def told_by_the_template() -> set[str]:
    """The files that `init` can write, without those that all projects have."""
    return WRITTEN - {name for name in WRITTEN if "/" not in name or name.startswith(".schema/")}


def test_each_file_is_of_one_story() -> None:
    """A feed, table or mart that no story names would be in every project, whatever it has."""
    named = [name for story in STORIES.values() for name in story.files]
    assert sorted(named) == sorted(told_by_the_template())


@pytest.mark.parametrize("stories", SOME, ids=",".join)
def test_a_shop_sees_only_what_it_has(tmp_path: Path, called: Called, stories: list[str]) -> None:
    """The feeds, tables, marts, settings and sample data of these stories, and of no other."""
    done = called(tmp_path, "init", "shop", "--with", ",".join(stories), "--sample")
    assert done.returncode == 0
    shop = tmp_path / "shop"
    expected = {name for story in stories for name in STORIES[story].files}
    assert {name for name in files_of(shop) if name in told_by_the_template()} == expected
    tables = {name for story in stories for name in STORIES[story].tables}
    settings = yaml.safe_load((shop / "retailmart.yml").read_text())
    assert ("sources" in settings) == (shop / "shop.db").exists() == bool(tables)
    if tables:
        with closing(sqlite3.connect(shop / "shop.db")) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            assert {name for (name,) in found} == tables
    project = load_project(shop)
    landed = [
        path.relative_to(shop / "landing").as_posix()
        for path in (shop / "landing").rglob("*")
        if path.is_file()
    ]
    for feed in project.feeds.values():
        assert any(feed.matches(path) for path in landed), feed.name
    assert any(path.startswith("market") for path in landed) == ("markets" in stories)
    assert any(path.startswith("sales") for path in landed) == ("tills" in stories)


@pytest.mark.parametrize("story", STORIES)
def test_a_story_is_the_same_without_the_others(tmp_path: Path, story: str) -> None:
    """Its files are those of a project with all stories, byte for byte."""
    write_project(tmp_path / "all", sample=True)
    write_project(tmp_path / "one", sample=True, stories=[story])
    whole, alone = files_of(tmp_path / "all"), files_of(tmp_path / "one")
    differing = {name for name, content in alone.items() if whole.get(name) != content}
    assert differing <= {"shop.db", "retailmart.yml"}


@pytest.mark.parametrize("stories", SOME, ids=",".join)
def test_stories_run_without_the_others(tmp_path: Path, called: Called, stories: list[str]) -> None:
    """`check` is content, and a run of the sample builds every mart and holds none back."""
    shop = tmp_path / "shop"
    write_project(shop, sample=True, stories=stories)
    assert called(shop, "check").returncode == 0
    report = retailmart.open_project(shop).run(AS_OF)
    built = {mart.name for batch in report.batches for mart in batch.marts}
    assert built == {name for story in stories for name in STORIES[story].marts}
    assert [dict(batch.unavailable) for batch in report.batches] == [{}]
    assert (report.held, dict(report.unreadable), report.expected) == ((), {}, ())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tils", "there is no part 'tils'; did you mean 'tills'?"),
        ("webshop,market", "there is no part 'market'; did you mean 'markets'?"),
        ("hotel", "there is no part 'hotel'; known: markets, tills, webshop"),
        (" , ", "no part of a shop is named"),
        ("", "no part of a shop is named"),
    ],
)
def test_an_unknown_part_is_a_mistake(
    tmp_path: Path, called: Called, given: str, said: str
) -> None:
    """It ends with exit code 2, a suggestion and the known parts, and writes nothing."""
    done = called(tmp_path, "init", "shop", "--with", given)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Write one or more of: tills, webshop, markets" in done.stderr
    assert not (tmp_path / "shop").exists()


def test_parts_are_read_with_blanks_and_twice(tmp_path: Path, called: Called) -> None:
    """People write blanks after commas, and a part named twice is one part."""
    done = called(tmp_path, "init", "shop", "--with", "webshop, tills,webshop")
    assert done.returncode == 0
    assert set(load_project(tmp_path / "shop").tables) == TABLES


def test_a_shop_without_tables_may_have_a_shop_db(tmp_path: Path) -> None:
    """The sample of the markets writes no shop.db, so that of the user is not in its way."""
    (tmp_path / "shop.db").write_bytes(b"mine")
    write_project(tmp_path, sample=True, stories=["markets"])
    assert (tmp_path / "shop.db").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (
            "tills",
            [
                "files in landing: sales*.csv",
                "tables in shop (sqlite:///shop.db): customer, sales_team, store",
            ],
        ),
        (
            "webshop",
            [
                "tables in shop (sqlite:///shop.db): customers, inventory_locations, order_items,"
                " orders, product_inventory, products"
            ],
        ),
        (
            "markets",
            [
                "files in landing: market*/deliveries*.csv, market*/orders*.csv,"
                " market*/users*.json*"
            ],
        ),
    ],
)
def test_an_empty_shop_is_told_what_is_expected(
    tmp_path: Path, called: Called, story: str, expected: list[str]
) -> None:
    """Before any input, `status` and `run` say which files and tables belong where."""
    done = called(tmp_path, "init", "shop", "--with", story)
    assert "retailmart status" in done.stderr
    shop = tmp_path / "shop"
    lines = [f"expected   {words}" for words in expected]
    assert called(shop, "status").stdout.splitlines() == ["no run yet", *lines]
    done = called(shop, "run", "--output", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["expected"] == expected
    assert done.stderr.splitlines()[-len(lines) - 1 : -1] == lines
    assert "retailmart doctor" in done.stderr.splitlines()[-1]
    assert json.loads(called(shop, "status", "--output", "json").stdout)["expected"] == expected


def test_what_has_not_come_yet_stays_listed(tmp_path: Path, called: Called) -> None:
    """After a first run that failed or found nothing, too, until each feed and table came."""
    called(tmp_path, "init", "shop", "--with", "tills")
    shop = tmp_path / "shop"
    tables = "tables in shop (sqlite:///shop.db): customer, sales_team, store"

    def expected() -> list[str]:
        return list(retailmart.open_project(shop).status().expected)

    retailmart.open_project(shop).run(AS_OF)
    assert expected() == ["files in landing: sales*.csv", tables]
    (shop / "landing" / "sales_1.csv").write_text(f"{HEADER}\n{sale()}\n")
    done = called(shop, "run")
    assert done.returncode == 1
    assert "source shop: the source database" in done.stderr
    assert "from it are read: customer, sales_team, store" in done.stderr
    assert expected() == [tables]
    with closing(sqlite3.connect(shop / "shop.db")) as connection:
        for statement in shop_tables():
            connection.execute(statement)
        connection.execute("DROP TABLE sales_team")
        connection.commit()
    done = called(shop, "run")
    assert done.returncode == 0, done.stderr
    assert expected() == ["tables in shop (sqlite:///shop.db): sales_team"]


def test_a_source_that_nobody_named_is_told(tmp_path: Path) -> None:
    """Without `sources` the tables have no place yet; the message says which setting names it."""
    write_project(tmp_path, sample=False, stories=["webshop"])
    settings = tmp_path / "retailmart.yml"
    settings.write_text(re.sub(r"(?m)^sources:.*\n", "", settings.read_text()))
    (words,) = retailmart.open_project(tmp_path).run(AS_OF).expected
    assert words.startswith("tables in a database that `sources` names: customers, ")
