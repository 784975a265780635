"""feeds/*.yml: what a feed may say, and what is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from retailmart.project.feed import Action, Feed, read_feed
from retailmart.project.types import ColumnType
from retailmart.project.writing import Marks

GOOD = """\
files: ["till*.csv"]
columns:
  id: INT
  day: {type: DATE, mandatory: true, aliases: [Date of sale]}
  amount: {type: "DECIMAL(12,2)", references: store.id}
  kind: STRING
  sure: BOOLEAN
extra_columns: more
month: day
balance: amount
"""


def read(tmp_path: Path, text: str, name: str = "till.yml") -> tuple[Feed | None, list[str]]:
    """A feed's file read, and its mistakes."""
    path = tmp_path / "feeds" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    problems: list[str] = []
    return read_feed(path, tmp_path, problems), problems


def good(tmp_path: Path, text: str) -> Feed:
    """A feed that must have no mistake."""
    feed, problems = read(tmp_path, text)
    assert problems == []
    assert feed is not None
    return feed


def mistakes(tmp_path: Path, old: str, new: str) -> list[str]:
    """The mistakes of the good feed with one part of it replaced."""
    assert old in GOOD
    feed, problems = read(tmp_path, GOOD.replace(old, new))
    assert problems or feed
    return problems


def test_a_feed_is_read_whole(tmp_path: Path) -> None:
    """A column is a bare type or a mapping with more."""
    feed = good(tmp_path, GOOD)
    assert feed.name == "till"
    assert [str(column.type) for column in feed.columns] == [
        "INT",
        "DATE",
        "DECIMAL(12,2)",
        "STRING",
        "BOOLEAN",
    ]
    day = feed.columns[1]
    assert (day.mandatory, day.aliases) == (True, ("Date of sale",))
    assert feed.columns[2].references == ("store", "id")
    assert (feed.month, feed.balance, feed.extra_columns) == ("day", "amount", "more")
    assert (feed.delimiter, feed.encoding, feed.rules) == (",", "utf-8", ())


@pytest.mark.parametrize(
    ("pattern", "path", "claimed"),
    [
        ("till*.csv", "till_1.csv", True),
        ("till*.csv", "north/till_1.csv", True),
        ("till*.csv", "TILL_1.CSV", True),
        ("till*.csv", "old_till_1.csv", False),
        ("north/till*.csv", "north/till.csv", True),
        ("north/till*.csv", "south/till.csv", False),
        ("till?.csv", "till12.csv", False),
    ],
)
def test_patterns_claim_files(tmp_path: Path, pattern: str, path: str, claimed: bool) -> None:
    """A pattern speaks of the name, or of the whole path where it has a slash."""
    assert good(tmp_path, GOOD.replace("till*.csv", pattern)).matches(path) is claimed


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("id: INT", "id: INTT", "3: columns.id: 'INTT' is no column type; did you mean"),
        ("kind: STRING", "kind: {type: STRING, mandatry: true}", "6: unknown key 'mandatry'; did"),
        ("kind: STRING", "kind: {mandatory: true}", "6: 'columns.kind.type' is missing"),
        ("kind: STRING", "kind: [STRING]", "6: columns.kind: should be"),
        ("kind: STRING", "id: STRING", "6: 'id' stands here twice"),
        ("kind: STRING", "ID: STRING", "6: 'ID' in a header would mean 'id' as well as 'ID'"),
        ("kind:", "_kind:", "6: column '_kind': a name is letters, digits and _, letter first"),
        ("kind:", "_file_id:", "6: column '_file_id': a name is letters, digits and _, letter"),
        ("kind:", "my kind:", "6: column 'my kind': a name is letters, digits and _, letter"),
        ("kind: STRING", "no: STRING\n  7: INT", "7: column '7': a name is letters, digits"),
        ("[Date of sale]", "[amount]", "5: 'amount' in a header would mean 'day' as well as"),
        ("[Date of sale]", "[ ' ID ' ]", "4: ' ID ' in a header would mean 'id' as well as 'day'"),
        ("store.id", "store", "5: columns.amount.references: 'store' should be table.column"),
        ("month: day", "month: dya", "9: month: there is no column 'dya'; did you mean 'day'?"),
        (
            "month: day",
            "month: kind",
            "9: month: 'kind' must be a DATE or TIMESTAMP column; give it",
        ),
        (", mandatory: true", "", "4: month: 'day' must be `mandatory: true`; a row without it is"),
        (" mandatory: true", " mandatory: false", "4: month: 'day' must be `mandatory: true`"),
        ("balance: amount", "balance: amont", "10: balance: there is no column 'amont'; did you"),
        ("balance: amount", "balance: id", "10: balance: 'id' must be a DECIMAL column"),
        ("month: day\n", "", "9: balance: needs `month` too, totals balance by month"),
        ("extra_columns: more", "extra_columns: Kind", "8: extra_columns: 'Kind' is one of the"),
        ("extra_columns: more", "extra_columns: _month", "8: extra_columns: '_month': a name is"),
        ('files: ["till*.csv"]', "files: till*.csv", "1: files: should be a valid list"),
        ('files: ["till*.csv"]', "files: []", "1: files: List should have at least 1 item"),
        ('files: ["till*.csv"]\n', "", "1: 'files' is missing"),
        ("month: day", "month: day\nformat: cvs", "10: format: 'cvs' is unknown; did you mean"),
        ("month: day", "month: day\nencoding: utf-9", "10: encoding: 'utf-9' is no encoding; try"),
        (
            "month: day",
            "month: day\ndelimiter: tab",
            "10: delimiter: 'tab' cannot separate cells; one",
        ),
        ("month: day", "month: day\ndelimiter: [';', tab]", "10: delimiter: 'tab' cannot separate"),
        ("month: day", "month: day\ndelimiter: []", "10: delimiter: name at least one"),
        ("month: day", "month: day\ndelimiter: ';'\nescape: ';'", "11: escape: ';' separates"),
        ("month: day", "month: day\nquote: '**'", "10: quote: String should have at most 1"),
        ("month: day", "month: day\nescape: ''", "10: escape: String should have at least 1"),
        ("month: day", "month: day\nskip_lines: -1", "10: skip_lines: should be greater"),
        ("month: day", "month: day\ndelimiter: '\"'", "10: delimiter: '\"' cannot separate cells"),
        ("month: day", "month: day\ndelimitr: ;", "10: unknown key 'delimitr'; did you mean"),
    ],
)
def test_each_mistake_has_its_line_and_a_hint(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    """One thing wrong gives one sentence, at the line where it stands."""
    problems = mistakes(tmp_path, old, new)
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"feeds/till.yml:{problem}")


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{name: a, action: warn}", "12: rules.0: rule 'a' needs one of check, not_null, range,"),
        ("{name: a, action: warn, check: x > 0, not_null: true}", "12: rules.0: rule 'a' needs"),
        ("{name: a, action: warn, not_null: true}", "12: rules.0: rule 'a' needs the `column`"),
        ("{name: a, action: wran, check: id > 0}", "12: rules.0.action: 'wran' is unknown; did"),
        ("{name: a, action: stop, check: id > 0}", "12: rules.0.action: 'stop' is unknown; known:"),
        ("{action: warn, check: id > 0}", "12: 'rules.0.name' is missing"),
        ("{name: a, check: id > 0}", "12: 'rules.0.action' is missing"),
        ("{name: a, action: warn, column: knd, not_null: true}", "12: rule a: there is no column"),
        ("{name: a, action: warn, column: id, range: [1]}", "12: rules.0: rule 'a': range is"),
        ("{name: a, action: warn, column: id, range: [1, 2, 3]}", "12: rules.0: rule 'a': range"),
        ("{name: a, action: warn, column: id, allowed: []}", "12: rules.0: rule 'a' needs one"),
        (
            "{name: a, action: warn, column: kind, allowed: [yes]}",
            "12: rule a, allowed: YAML reads",
        ),
        ("{name: a, action: warn, column: kind, allowed: [x, null]}", "12: rule a, allowed: an"),
        ("{name: a, action: warn, column: kind, allowed: [[x]]}", "12: rule a, allowed: ['x'] is"),
        ("{name: a, action: warn, chek: id > 0}", "12: unknown key 'chek'; did you mean 'check'?"),
    ],
)
def test_each_mistake_of_a_rule(tmp_path: Path, rule: str, problem: str) -> None:
    """A rule has one kind, a known action and a column that is there."""
    feed, problems = read(tmp_path, f"{GOOD}rules:\n  - {rule}\n")
    assert feed is None
    assert problems[0].startswith(f"feeds/till.yml:{problem}"), problems


def test_two_rules_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    """The report counts by rule name: two of one name could not be told apart."""
    rules = "rules:\n" + "  - {name: a, action: warn, check: id > 0}\n" * 2
    assert read(tmp_path, GOOD + rules)[1] == ["feeds/till.yml:13: rule 'a' stands here twice"]


def test_mistakes_do_not_hide_each_other(tmp_path: Path) -> None:
    """A wrong type in one place leaves all checks between the file's parts in force."""
    text = GOOD.replace("id: INT", "id: INTT").replace("month: day", "month: dya")
    text = text.replace("extra_columns: more", "extra_columns: kind").replace(
        "  kind", "  _x: INT\n  kind"
    )
    feed, problems = read(tmp_path, text + "rules:\n  - {name: a, action: stop, column: zz}\n")
    assert feed is None
    assert sorted(problem.split(":")[1] for problem in problems) == sorted(
        ["3", "13", "6", "9", "10", "13"]
    )


@pytest.mark.parametrize(
    ("rule", "condition"),
    [
        ("column: id, not_null: true", '"id" IS NOT NULL'),
        ("column: id, range: [1, null]", '"id" >= 1'),
        ("column: id, range: [null, 9]", '"id" <= 9'),
        (
            "column: amount, range: [0.10, 99999999999999999.99]",
            '"amount" >= 0.10 AND "amount" <= 99999999999999999.99',
        ),
        ("column: day, range: [2024-01-01, null]", "\"day\" >= '2024-01-01'"),
        ('column: kind, allowed: ["it\'s", b]', "\"kind\" IN ('it''s', 'b')"),
        ("column: sure, allowed: [yes]", '"sure" IN (true)'),
        ("check: id > 0", "id > 0"),
    ],
)
def test_rules_become_conditions(tmp_path: Path, rule: str, condition: str) -> None:
    """Each kind of rule is one SQL condition; amounts keep the digits that are written."""
    feed = good(tmp_path, f"{GOOD}rules:\n  - {{name: a, action: fail, {rule}}}\n")
    assert feed.rules[0].condition == condition
    assert feed.rules_that(Action.FAIL) == feed.rules
    assert feed.rules_that(Action.WARN, Action.QUARANTINE) == ()


def test_a_column_may_have_a_word_of_yaml_as_its_name(tmp_path: Path) -> None:
    """no, on and yes are fine column names, quoted or not."""
    feed = good(tmp_path, GOOD.replace("kind:", "no: STRING\n  on: INT\n  kind:"))
    assert [column.name for column in feed.columns][3:5] == ["no", "on"]
    assert feed.columns[4].type == ColumnType("INT")


@pytest.mark.parametrize("name", ["2till.yml", "_till.yml", "till-north.yml", "till north.yml"])
def test_the_files_name_is_the_tables(tmp_path: Path, name: str) -> None:
    """A feed's file is called as its table can be."""
    feed, problems = read(tmp_path, GOOD, name)
    assert feed is None
    assert problems == [
        f"feeds/{name}: a feed's file is named with letters, digits and _, letter first"
    ]


def test_an_unquoted_decimal_in_braces_is_explained(tmp_path: Path) -> None:
    """Within braces a comma ends the value: the hint says to quote the type."""
    problems = mistakes(tmp_path, "kind: STRING", "kind: {type: DECIMAL(12,2)}")
    assert problems[0].startswith("feeds/till.yml:6: columns.kind.type: 'DECIMAL(12' is no column")
    assert "put it in quotes" in problems[0]


def test_a_feed_of_json_keeps_to_json(tmp_path: Path) -> None:
    """What is for CSV alone is a mistake in it, and the other way round; CSV is the default."""
    assert (good(tmp_path, GOOD).format, good(tmp_path, GOOD).nested) == ("csv", "flatten")
    feed = good(tmp_path, f"{GOOD}format: json\nnested: keep\n")
    assert (feed.format, feed.nested) == ("json", "keep")
    _, problems = read(tmp_path, f'{GOOD}format: json\ndelimiter: ";"\nencoding: cp1252\n')
    assert [problem.split(": ", 1)[1] for problem in problems] == [
        "delimiter: is for CSV; nothing separates the cells of JSON",
        "encoding: JSON is always utf-8; leave it out",
    ]
    _, problems = read(tmp_path, f"{GOOD}nested: keep\n")
    assert problems[0].endswith("nested: is for JSON; add `format: json`, or leave it out")


def test_what_is_written_otherwise_is_declared(tmp_path: Path) -> None:
    """Marks and nulls of the feed hold where a column says nothing; a format may be several."""
    text = GOOD.replace("id: INT", 'id: {type: INT, thousands: " ", nulls: [none]}')
    text = text.replace("{type: DATE,", '{type: DATE, format: "%d.%m.%Y",')
    text += 'decimal: ","\nthousands: "."\ncurrency: [€, EUR]\nparentheses: true\n'
    text += 'nulls: ["\\\\N", "-"]\n'
    feed = good(tmp_path, text)
    number, day, amount, kind, sure = feed.columns
    assert amount.marks == Marks(",", ".", ("€", "EUR"), True)
    assert number.marks == Marks(",", " ", ("€", "EUR"), True)
    assert day.formats == ("%d.%m.%Y",)
    assert [feed.nulls_of(c) for c in (number, day, kind)] == [("none",), ("\\N", "-"), ("\\N",)]
    assert (kind.marks, sure.marks) == (Marks(), Marks())
    feed = good(tmp_path, GOOD.replace("kind: STRING", "kind: {type: STRING, nulls: [n/a]}"))
    assert feed.nulls_of(feed.columns[3]) == ("n/a",)
    feed = good(tmp_path, GOOD + 'string_nulls: ["NULL"]\nempty: allowed\nall_refused: fail\n')
    assert feed.nulls_of(feed.columns[3]) == ("NULL",)
    assert (feed.takes_empty, feed.fails_all_refused) == (True, True)


@pytest.mark.parametrize(
    ("kind", "more", "default", "sent"),
    [
        ("INT", "", "-5", "-5"),
        ('"DECIMAL(9,2)"', ', decimal: ","', "1.50", "1,50"),
        ("DATE", ', format: "%m/%d/%Y"', "2024-01-05", "01/05/2024"),
        ("DATE", "", "2024-01-05", "2024-01-05"),
        ("TIMESTAMP", "", "2024-01-05T10:00:00+01:00", "2024-01-05T09:00:00Z"),
        ("BOOLEAN", "", "no", "false"),
        ("STRING", "", "Main street", "Main street"),
        ("DOUBLE", "", "1.5", "1.5"),
    ],
)
def test_a_default_is_written_as_senders_do(
    tmp_path: Path, kind: str, more: str, default: str, sent: str
) -> None:
    """A mandatory column with one need not be in a file."""
    column = f"kind: {{type: {kind}, mandatory: true, default: {default}{more}}}"
    found = good(tmp_path, GOOD.replace("kind: STRING", column)).columns[3]
    assert (found.default, found.is_expected) == (sent, False)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("kind: STRING", "kind: {type: STRING, format: '%d'}", "6: kind, format: is for DATE and"),
        (
            "{type: DATE,",
            "{type: DATE, format: '%m/%d',",
            "4: day, format: '%m/%d' needs one %Y or",
        ),
        (
            "{type: DATE,",
            "{type: DATE, format: '%q%m%Y',",
            "4: day, format: '%q%m%Y' has %q, which",
        ),
        (
            "{type: DATE,",
            "{type: DATE, format: '%d%m%Y %H:%M',",
            "4: day, format: '%d%m%Y %H:%M' t",
        ),
        ("{type: DATE,", "{type: DATE, format: '%d%m%Y%',", "4: day, format: '%d%m%Y%' ends with"),
        ("{type: DATE,", "{type: DATE, format: '%d%d%m%Y',", "4: day, format: '%d%d%m%Y' says a p"),
        ("kind: STRING", "kind: {type: STRING, decimal: ','}", "6: kind, decimal: is for numbers"),
        ("kind: STRING", "kind: {type: INT, default: 1.5}", "6: kind, default: Decimal('1.5') is"),
        (
            "kind: STRING",
            "kind: {type: DATE, default: soon}",
            "6: kind, default: 'soon' is no DATE",
        ),
        ("kind: STRING", "kind: {type: INT, default: 3000000000}", "6: kind, default: 3000000000"),
        ("kind: STRING", "kind: {type: INT, folder: 1, default: 1}", "6: kind, default: a file's"),
        ("kind: STRING", "kind: {type: BOOLEAN, default: 7}", "6: kind, default: 7 should be true"),
        (
            "month: day",
            "month: day\nthousands: '.'",
            "10: thousands: '.' stands before the decimals",
        ),
        ("month: day", "month: day\ndecimal: x", "10: decimal: 'x' is unknown"),
        ("month: day", "month: day\ncurrency: '-'", "10: currency: '-' is no sign"),
        ("month: day", 'month: day\nnulls: ["\\N"]', "10: nulls: "),
        ("month: day", "month: day\nnulls: [NULL]", "10: nulls: YAML reads a bare null or NULL"),
        ("month: day", "month: day\nrecords: orders", "10: records: is for JSON; add"),
        ("month: day", "month: day\nempty: yes", "10: empty: "),
        ("month: day", "month: day\nall_refused: stop", "10: all_refused: 'stop' is unknown"),
    ],
)
def test_each_mistake_of_writing(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """Formats, marks, nulls and defaults that cannot be followed are told with their line."""
    problems = mistakes(tmp_path, old, new)
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"feeds/till.yml:{problem}")


def test_a_feeds_dialect_is_read(tmp_path: Path) -> None:
    """One delimiter or several, and how cells are quoted; what is not said is RFC 4180."""
    told = """
delimiter: [",", "\\t"]
quote: "'"
escape: "\\\\"
header: false
skip_lines: 2
comment: "#"
max_record_lines: 50
"""
    feed = good(tmp_path, GOOD + told)
    assert (feed.delimiter, feed.delimiters) == (",", (",", "\t"))
    assert (feed.quote, feed.escape, feed.comment) == ("'", "\\", "#")
    assert (feed.header, feed.skip_lines, feed.max_record_lines) == (False, 2, 50)
    plain = good(tmp_path, GOOD)
    assert (plain.delimiters, plain.quote, plain.escape, plain.header) == ((",",), '"', None, True)
    assert plain.is_plain
    assert good(tmp_path, GOOD + "escape: '\"'\n").is_plain


def test_json_has_no_dialect(tmp_path: Path) -> None:
    """What says how cells are written is a mistake where there are none."""
    _, problems = read(tmp_path, f"{GOOD}format: json\nheader: false\ncomment: '#'\n")
    assert len(problems) == 2
    assert all("is for CSV; leave it out" in problem for problem in problems)
