"""marts/*.sql: the header, the SELECT, and what holds between files."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from retailmart.errors import SettingsError
from retailmart.project import load_project
from retailmart.project.mart import Mart, Refresh, read_mart
from tests.support.shop import Shop, all_marts

GOOD = """\
-- about: totals
-- refresh: months
-- partitions: [_month]
-- key: [_month, id]
-- publish: true
-- variables: {rate: 0.010, scope: store}
SELECT _month, id FROM sales
"""


def read(tmp_path: Path, text: str, name: str = "totals.sql") -> tuple[Mart | None, list[str]]:
    """A mart's file read, and its mistakes."""
    path = tmp_path / "marts" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    problems: list[str] = []
    return read_mart(path, tmp_path, problems), problems


def good(tmp_path: Path, text: str) -> Mart:
    """A mart that must have no mistake."""
    mart, problems = read(tmp_path, text)
    assert problems == []
    assert mart is not None
    return mart


def problems_of(shop: Shop) -> list[str]:
    """All mistakes in the project's files."""
    with pytest.raises(SettingsError) as caught:
        load_project(shop.folder)
    return list(caught.value.problems)


def test_a_mart_is_read_whole(tmp_path: Path) -> None:
    """The header's keys and the query below it; a rate is an exact decimal."""
    mart = good(tmp_path, GOOD)
    assert (mart.name, mart.refresh, mart.partitions) == ("totals", Refresh.MONTHS, ("_month",))
    assert (mart.key, mart.publish_as, mart.about) == (("_month", "id"), "totals", "totals")
    assert mart.variables == {"rate": Decimal("0.010"), "scope": "store"}
    assert (mart.query, mart.first_line) == ("SELECT _month, id FROM sales", 7)
    assert mart.month == "_month"


@pytest.mark.parametrize(
    ("text", "query", "line"),
    [
        ("-- refresh: full\n\n\nSELECT 1 AS a;\n", "SELECT 1 AS a", 4),
        ("-- refresh: full\r\nSELECT 1 AS a ;\r\n", "SELECT 1 AS a", 2),
        (
            "--refresh: full\nWITH a AS (SELECT 1 AS a) FROM a",
            "WITH a AS (SELECT 1 AS a) FROM a",
            2,
        ),
        ("-- refresh: full\nFROM x -- why\n", "FROM x -- why\n", 2),
        ("-- refresh: full\n\n-- why\nfrom x", "-- why\nfrom x", 3),
        ("-- refresh: full\n/* why */ (SELECT 1 AS a)", "/* why */ (SELECT 1 AS a)", 2),
        ("\ufeff-- refresh: full\nVALUES (1)", "VALUES (1)", 2),
        ("-- refresh: full\nSELECT 'a\u2028b' AS a", "SELECT 'a\u2028b' AS a", 2),
    ],
)
def test_the_query_begins_where_it_stands(tmp_path: Path, text: str, query: str, line: int) -> None:
    """Blank lines, comments, a last semicolon and line ends change neither query nor line."""
    mart = good(tmp_path, text)
    assert (mart.query, mart.first_line) == (query, line)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("SELECT _month, id FROM sales\n", "", ": holds no SELECT below its header"),
        ("SELECT _month,", "\nDELETE", ":8: a mart is one SELECT; this begins with 'DELETE'"),
        ("SELECT _month", "SELECTED", ":7: a mart is one SELECT; this begins with 'SELECTED,'"),
        ("-- refresh: months\n", "", ":1: 'refresh' is missing"),
        ("refresh: months", "refresh: month", ":2: refresh: 'month' is unknown; did you mean"),
        ("-- partitions: [_month]\n", "", ":2: refresh: months needs `partitions` that begin with"),
        ("-- key: [_month, id]\n", "", ":4: publish: needs `key`, the columns that tell rows"),
        ("publish: true", "publish: my table", ":5: publish: 'my table' is no table name"),
        ("publish: true", "publish: [a]", ":5: publish: ['a'] is neither true or false nor a text"),
        (
            "publish: true",
            "publish: {collation: database}",
            ":5: publish: is true, false or the table's name; how the tables of all marts are"
            " created, as in publish: {collation: database}, belongs into retailmart.yml",
        ),
        ("publish: true", "publish: retailmart_runs", ":5: publish: 'retailmart_runs': names"),
        ("about: totals", "abuot: totals", ":1: unknown key 'abuot'; did you mean 'about'?"),
        ("key: [_month, id]", "key: id", ":4: key: should be a valid list"),
        ("key: [_month, id]", "key: [_month, id", ":4: "),
        ("about: totals", "about: a: b", ":1: mapping values are not allowed here"),
        ("about: totals", "publish: false", ":5: 'publish' stands here twice"),
        ("about: totals", "split_by: id", ":1: split_by: should be a valid list"),
        ("about: totals", "split_by: [id, ID]", ":1: split_by: 'ID' is listed twice"),
        ("about: totals", 'split_by: [" "]', ":1: split_by: an empty text is not a column"),
        ("rate: 0.010", "rate: [1]", ":6: variables.rate: [1] is neither a number nor a whole"),
    ],
)
def test_each_mistake_has_its_line(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """A mistake in the header is told at its own line of the file."""
    assert old in GOOD
    mart, problems = read(tmp_path, GOOD.replace(old, new))
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"marts/totals.sql{problem}")
    assert mart is None or "twice" in problem


def test_mistakes_do_not_hide_each_other(tmp_path: Path) -> None:
    """A missing query, an unknown key and a lacking one are told together."""
    text = "-- refresh: append\n-- publish: true\n-- ky: [a]\n"
    mart, problems = read(tmp_path, text)
    assert mart is None
    assert problems == [
        "marts/totals.sql:3: unknown key 'ky'; did you mean 'key'?",
        "marts/totals.sql: holds no SELECT below its header",
        "marts/totals.sql:1: refresh: append needs `partitions` that begin with the month"
        " ('YYYY-MM'), as in [_month]",
        "marts/totals.sql:2: publish: needs `key`, the columns that tell rows apart",
    ]


def test_a_file_without_header_lacks_its_refresh(tmp_path: Path) -> None:
    """A bare query does not say how it refreshes."""
    assert read(tmp_path, "SELECT 1 AS a\n")[1] == ["marts/totals.sql: 'refresh' is missing"]


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"rate": Decimal("0.02"), "scope": "store"}, False),
        ({"rate": Decimal("0.010"), "scope": "store", "other": 1}, True),
    ],
)
def test_the_fingerprint_follows_what_is_computed(
    tmp_path: Path, changed: dict[str, Decimal | int | bool | str], same: bool
) -> None:
    """A variable of the mart changes its fingerprint; one of another mart does not."""
    mart = good(tmp_path, GOOD)
    before = mart.fingerprint(mart.variables)
    assert (mart.fingerprint(changed) == before) is same


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("about: totals", "about: other words", True),
        ("SELECT _month, id", "SELECT _month,  id", False),
        ("about: totals", "split_by: [store_id]", True),
        ("publish: true", "publish: elsewhere", False),
        ("key: [_month, id]", "key: [id, _month]", False),
    ],
)
def test_the_fingerprint_follows_the_definition(
    tmp_path: Path, old: str, new: str, same: bool
) -> None:
    """Query, key, partitions and place of publication count; words about the mart do not."""
    mart, other = good(tmp_path, GOOD), good(tmp_path, GOOD.replace(old, new))
    assert (mart.fingerprint({}) == other.fingerprint({})) is same


def test_a_mart_says_how_its_months_can_be_cut(tmp_path: Path) -> None:
    """`split_by` is read as it is written; without it a month stays whole."""
    text = GOOD.replace("about: totals", "split_by: [Store_ID, region]")
    assert good(tmp_path, text).split_by == ("Store_ID", "region")
    assert good(tmp_path, GOOD).split_by == ()


def test_a_full_mart_is_not_cut(tmp_path: Path) -> None:
    """A mart without months has none that could be cut; the mistake is at its line."""
    text = "-- refresh: full\n-- split_by: [store_id]\nSELECT 1 AS a\n"
    assert read(tmp_path, text)[1] == [
        "marts/totals.sql:2: split_by: cuts a month; it needs refresh: append or months"
    ]


def test_a_name_means_one_table(shop: Shop) -> None:
    """Two files whose tables SQL could not tell apart are a mistake, whatever their case."""
    feed = shop.folder / "feeds" / "sales.yml"
    (shop.folder / "feeds" / "sales.yaml").write_text(feed.read_text())
    (shop.folder / "marts" / "Sales.sql").write_text("-- refresh: full\nSELECT 1 AS a\n")
    assert problems_of(shop) == [
        "feeds/sales.yml: feeds/sales.yaml has this name too; a name means one table",
        "marts/Sales.sql: feeds/sales.yaml has this name too; a name means one table",
    ]


@all_marts
def test_two_marts_cannot_be_published_as_one_table(shop: Shop) -> None:
    """The second mart would replace the first one's rows."""
    (shop.folder / "marts" / "zz.sql").write_text(
        "-- refresh: full\n-- key: [a]\n-- publish: Declining_Customers\nSELECT 1 AS a\n"
    )
    assert problems_of(shop) == [
        "marts/zz.sql:3: publish: 'Declining_Customers' is published by 'declining_customers' too"
    ]


def test_a_mart_balances_against_a_feed_that_can(shop: Shop) -> None:
    """`balance` names a feed with a balance column, at its line and with a hint."""
    (shop.folder / "marts" / "zz.sql").write_text(
        "-- refresh: months\n-- partitions: [_month]\n-- balance:\n--   sale: total\n"
        "SELECT 1 AS a\n"
    )
    assert problems_of(shop) == [
        "marts/zz.sql:4: balances against 'sale', no feed that has a `balance` column; did you"
        " mean 'sales'?"
    ]


def test_a_broken_feed_is_not_missed_by_its_marts(shop: Shop) -> None:
    """A mistake is told where it is, not once more in each file that builds on it."""
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(path.read_text().replace("quantity: {type: INT", "quantity: {type: INTT"))
    (problem,) = problems_of(shop)
    assert problem.startswith("feeds/sales.yml:11: columns.quantity.type")


def test_a_full_mart_has_no_balance(shop: Shop) -> None:
    """Totals are proven by month; a mart without months that asks for it is told so."""
    (shop.folder / "marts" / "zz.sql").write_text(
        "-- refresh: full\n-- balance: {sales: total}\nSELECT 1 AS total\n"
    )
    assert problems_of(shop) == [
        "marts/zz.sql:2: balance: is proven by month; it needs refresh: append or months"
    ]
