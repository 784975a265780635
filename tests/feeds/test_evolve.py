"""The schema of a feed from batch to batch: wider types, fit names, and what raw would lose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retailmart.errors import SettingsError
from retailmart.feeds.evolve import (
    MOST_BROUGHT,
    Need,
    as_known,
    can_widen,
    changes,
    compare,
    effective,
    fit,
    joined,
    remembered,
    widened,
    with_brought,
)
from retailmart.files.checked import Layout, Refusal
from retailmart.files.header import known_names, read_header
from retailmart.files.records import Record
from retailmart.ledger.values import ColumnChange, SchemaColumn
from retailmart.project.feed import Column, Feed, Policy, SchemaPolicies
from retailmart.project.types import parse_type
from retailmart.tables import Field

_PLAIN = SchemaPolicies()


def column(name: str, kind: str = "INT", *aliases: str, mandatory: bool = False) -> Column:
    return Column(name, parse_type(kind), mandatory, aliases, None)


def feed_of(*columns: Column, schema: SchemaPolicies = _PLAIN, extra: str = "") -> Feed:
    """A feed of these columns."""
    return Feed(
        "till", ("*.csv",), ",", "utf-8", columns, extra or None, None, None, (), schema=schema
    )


def raw(**kinds: str) -> tuple[Field, ...]:
    """What a raw table of these columns holds, lineage included."""
    fields = [Field(name, parse_type(kind)) for name, kind in kinds.items()]
    return (*fields, Field("_file_id", parse_type("INT")), Field("_origin", parse_type("STRING")))


EVOLVES = SchemaPolicies(columns=Policy.EVOLVE, types=Policy.EVOLVE)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("INT", "INT", "INT"),
        ("INT", "BIGINT", "BIGINT"),
        ("INT", "DECIMAL(12,2)", "DECIMAL(12,2)"),
        ("INT", "DECIMAL(5,2)", "DECIMAL(12,2)"),
        ("BIGINT", "DECIMAL(12,2)", "DECIMAL(21,2)"),
        ("DECIMAL(12,2)", "DECIMAL(10,4)", "DECIMAL(14,4)"),
        ("DECIMAL(38,0)", "DECIMAL(2,1)", None),
        ("DATE", "TIMESTAMP", "TIMESTAMP"),
        ("DATE", "INT", None),
        ("DOUBLE", "DECIMAL(12,2)", None),
        ("DOUBLE", "INT", None),
        ("BOOLEAN", "INT", None),
        ("DATE", "STRING", "STRING"),
    ],
)
def test_the_narrowest_type_that_holds_both(one: str, other: str, both: str | None) -> None:
    """Whole numbers keep all their digits beside a scale; what is no number never becomes one."""
    kind = parse_type(both) if both else None
    assert joined(parse_type(one), parse_type(other)) == kind
    assert joined(parse_type(other), parse_type(one)) == kind


@pytest.mark.parametrize(
    ("delivered", "name"),
    [
        ("till", "till"),
        ("Payment Mode", "Payment_Mode"),
        ("Distance (in km)", "Distance_in_km"),
        ("customer.address.zip", "customer_address_zip"),
        ("2nd price", "c_2nd_price"),
        ("_hidden", "hidden"),
        ("Café", "Cafe"),
        ("цена", "column"),
        ("₦", "column"),
        ('"; DROP TABLE till; --', "DROP_TABLE_till"),
        ("x" * 80, "x" * 63),
    ],
)
def test_delivered_names_are_made_fit(delivered: str, name: str) -> None:
    """Letters, digits and _, a letter first, and no longer than any database takes."""
    assert fit(delivered) == name


def test_names_that_look_alike_get_columns_of_their_own() -> None:
    """None falls together with the feed's own columns, the extras or another; fit ones stay."""
    feed = feed_of(column("id"), schema=EVOLVES, extra="more")
    layout = Layout(("id", "ID (€)", "ID ($)", "more!", "a b", "a_b"))
    whole, causes = with_brought(feed, [("x.csv", layout)])
    brought = {one.delivered[0]: one.name for one in whole.columns if one.evolved}
    assert brought == {
        "a_b": "a_b",
        "ID (€)": "ID_2",
        "ID ($)": "ID_3",
        "more!": "more_2",
        "a b": "a_b_2",
    }
    assert set(causes.values()) == {"x.csv"}
    assert as_known(layout, whole).columns == ("id", "ID_2", "ID_3", "more_2", "a_b_2", "a_b")


def test_two_files_that_spell_a_column_in_two_ways_bring_one() -> None:
    """Letter case and padding tell no columns apart; the first file is the cause."""
    feed = feed_of(column("id"), schema=EVOLVES)
    files = [("a.csv", Layout(("id", "Till No"))), ("b.csv", Layout(("TILL  no", "id")))]
    whole, causes = with_brought(feed, files)
    assert causes == {"Till_No": "a.csv"}
    assert as_known(files[1][1], whole).columns == ("Till_No", "id")


def test_a_hostile_header_brings_no_thousand_columns() -> None:
    """More columns than a published table can have are refused, and the file is named."""
    feed = feed_of(column("id"), schema=EVOLVES)
    names = tuple(f"c{n}" for n in range(MOST_BROUGHT + 1))
    with pytest.raises(SettingsError, match=r"wide\.csv would bring feed till to 151 columns"):
        with_brought(feed, [("wide.csv", Layout(("id", *names)))])


def test_the_definition_goes_before_delivered_names() -> None:
    """A name that files brought a column under is another column's once the feed says so."""
    feed = feed_of(column("id"), column("no", "INT", "Till"))
    whole = effective(
        feed, raw(id="INT", Till="STRING"), [SchemaColumn("Till", "STRING", None, ("Till",))]
    )
    assert known_names(whole) == {"id": "id", "no": "no", "till": "no"}
    assert [one.name for one in whole.columns] == ["id", "no", "Till"]


def test_a_feed_without_a_table_is_as_defined() -> None:
    """Nothing is compared with what is not there, and its policy on tables stays."""
    feed = feed_of(column("id"), schema=SchemaPolicies(table=Policy.FREEZE))
    assert effective(feed, None, ()) is feed
    assert effective(feed, raw(id="INT"), ()).schema.table is Policy.EVOLVE


@pytest.mark.parametrize(
    ("defined", "held", "said", "becomes"),
    [
        ("INT", "INT", None, "INT"),
        ("BIGINT", "INT", None, "BIGINT"),
        ("INT", "BIGINT", "INT", "BIGINT"),
        ("DECIMAL(12,2)", "BIGINT", "INT", "DECIMAL(21,2)"),
        ("STRING", "DATE", None, "STRING"),
        ("DECIMAL(14,2)", "DECIMAL(12,4)", "DECIMAL(12,2)", "DECIMAL(16,4)"),
    ],
)
def test_the_wider_type_of_both(defined: str, held: str, said: str | None, becomes: str) -> None:
    """What files have widened stays wide, and what the definition widens is taken."""
    known = [SchemaColumn("n", held, said)] if said else []
    whole = effective(feed_of(column("n", defined)), raw(n=held), known)
    assert str(whole.columns[0].type) == becomes


@pytest.mark.parametrize(
    ("defined", "held", "said", "words"),
    [
        ("INT", "BIGINT", None, "column n is INT, but raw/till holds BIGINT, of which that has no"),
        ("INT", "BIGINT", "BIGINT", "column n is INT, but raw/till holds BIGINT"),
        ("INT", "DECIMAL(20,1)", "BIGINT", "column n is INT, but was BIGINT when raw/till took"),
        ("DECIMAL(12,2)", "DECIMAL(14,2)", None, "is DECIMAL(12,2), but raw/till holds DECIMAL(14"),
        ("DECIMAL(5,2)", "INT", None, "column n is DECIMAL(5,2), but raw/till holds INT"),
        ("INT", "STRING", None, "column n is INT, but raw/till holds STRING"),
        ("DATE", "TIMESTAMP", None, "column n is DATE, but raw/till holds TIMESTAMP"),
        ("DOUBLE", "DECIMAL(9,2)", None, "column n is DOUBLE, but raw/till holds DECIMAL(9,2)"),
        ("TIMESTAMP", "DATE", None, "write `schema: {date_to_timestamp: true}`"),
        ("DECIMAL(38,0)", "DECIMAL(20,1)", "INT", "has grown to DECIMAL(20,1), and no type holds"),
    ],
)
def test_narrowing_is_refused(defined: str, held: str, said: str | None, words: str) -> None:
    """Both sides are named, before anything is loaded."""
    known = [SchemaColumn("n", held, said)] if said else []
    with pytest.raises(SettingsError) as caught:
        effective(feed_of(column("n", defined)), raw(n=held), known)
    assert words in str(caught.value)
    assert str(caught.value).startswith("feeds/till.yml: column n is ")
    assert caught.value.hint


def test_days_become_moments_where_the_feed_allows_it() -> None:
    """The word beside the axes is what it takes."""
    feed = feed_of(column("n", "TIMESTAMP"), schema=SchemaPolicies(date_to_timestamp=True))
    assert str(effective(feed, raw(n="DATE"), ()).columns[0].type) == "TIMESTAMP"


def test_dropping_a_column_is_refused_unless_files_brought_it() -> None:
    """All that would be lost is told at once; what files brought stays as they brought it."""
    known = [SchemaColumn("n", "INT", "INT"), SchemaColumn("till", "STRING", None, ("Till",))]
    with pytest.raises(SettingsError) as caught:
        effective(
            feed_of(column("id")), raw(id="INT", n="INT", more="STRING", till="STRING"), known
        )
    assert caught.value.problems == (
        "feeds/till.yml: names no column n any more, but raw/till holds n INT",
        "feeds/till.yml: names no column more any more, but raw/till holds more STRING",
    )


def test_letter_case_tells_no_columns_apart() -> None:
    """A column renamed in letter case only is the same one, in the definition's spelling."""
    whole, found = compare(feed_of(column("Till", "BIGINT")), raw(till="INT"), ())
    assert [(one.name, str(one.type)) for one in whole.columns] == [("Till", "BIGINT")]
    assert [one.refused for one in found] == [None]


def test_what_is_remembered_is_what_is_known_again() -> None:
    """From batch to batch nothing is lost: types, delivered names, what the feed itself says."""
    feed = feed_of(column("id"), column("n"), schema=EVOLVES, extra="more")
    whole, _ = with_brought(feed, [("a.csv", Layout(("id", "n", "Till No")))])
    whole, causes = widened(whole, [Need("n", "a.csv", 2, 1, 3, 1)])
    assert causes == {"n": "a.csv"}
    held = raw(id="INT", n="DECIMAL(11,1)", Till_No="STRING", more="STRING")
    again = effective(feed, held, remembered(whole))
    assert again.columns == whole.columns
    assert effective(again, held, ()).columns == whole.columns


def test_changes_name_their_cause() -> None:
    """A file, or the feed's own file where its user did it; what stays is not told."""
    feed = feed_of(column("id"), column("n", "BIGINT"), column("new"), schema=EVOLVES)
    whole, causes = with_brought(feed, [("a.csv", Layout(("id", "Till No")))])
    assert changes(whole, raw(id="INT", n="INT"), causes) == (
        ColumnChange("n", "INT", "BIGINT", "feeds/till.yml"),
        ColumnChange("new", None, "INT", "feeds/till.yml"),
        ColumnChange("Till_No", None, "STRING", "a.csv"),
    )


@pytest.mark.parametrize(
    ("kind", "found", "becomes"),
    [
        ("INT", [Need("n", "a", 2, 2, 10, 0)], "BIGINT"),
        ("INT", [Need("n", "a", 1, 0, 1, 1)], "DECIMAL(11,1)"),
        ("INT", [Need("n", "a", 1, 1, 10, 0), Need("n", "b", 1, 0, 25, 0)], "DECIMAL(25,0)"),
        ("BIGINT", [Need("n", "a", 1, 0, 1, 2)], "DECIMAL(21,2)"),
        ("DECIMAL(6,2)", [Need("n", "a", 1, 0, 7, 3)], "DECIMAL(10,3)"),
        ("INT", [Need("n", "a", 1, 0, 30, 0), Need("n", "b", 1, 0, 1, 20)], "INT"),
        ("INT", [Need("n", "a", 2, 1, 30, 0), Need("n", "b", 1, 0, 1, 20)], "BIGINT"),
        ("INT", [Need("n", "a", 0, 0, 0, 0)], "INT"),
        ("DATE", [Need("n", "a", 1, 0, 0, 0)], "TIMESTAMP"),
    ],
)
def test_a_column_is_widened_to_what_holds_all(kind: str, found: list[Need], becomes: str) -> None:
    """As little as possible; where nothing holds all, what helps some; else not at all."""
    whole, causes = widened(feed_of(column("n", kind), column("m")), found)
    assert [str(one.type) for one in whole.columns] == [becomes, "INT"]
    assert bool(causes) == (kind != becomes)


def test_the_month_stays_a_day() -> None:
    """A time of day would move rows into another month; other columns need the feed's word."""
    day, other = column("day", "DATE"), column("other", "DATE")
    allowed = SchemaPolicies(types=Policy.EVOLVE, date_to_timestamp=True)
    feed = replace(feed_of(day, other, schema=allowed), month="day")
    assert [can_widen(feed, one) for one in feed.columns] == [False, True]
    silent = replace(feed, schema=SchemaPolicies(types=Policy.EVOLVE))
    assert [can_widen(silent, one) for one in feed.columns] == [False, False]
    assert not can_widen(feed, column("word", "STRING"))


def header(feed: Feed, *cells: str) -> Layout | Refusal:
    return read_header(Record(1, ",".join(cells), cells), feed)


def test_a_frozen_feed_refuses_a_column_it_does_not_name() -> None:
    """The column is named in one sentence; a known one in any order is no reason."""
    feed = feed_of(column("id"), column("n"), schema=SchemaPolicies(columns=Policy.FREEZE))
    assert header(feed, "n", "ID") == Layout(("n", "id"))
    refusal = header(feed, "id", "Till No", "n")
    assert isinstance(refusal, Refusal)
    assert refusal.message == (
        "brings the column Till No, which feeds/till.yml does not name; its columns are frozen"
    )


def test_one_header_cannot_spell_a_new_column_in_two_ways() -> None:
    """Both would be the same column: where columns evolve, the file is refused."""
    refusal = header(feed_of(column("id"), schema=EVOLVES), "id", "Till", "till")
    assert isinstance(refusal, Refusal)
    assert refusal.message == "its header names Till, till more than once"
