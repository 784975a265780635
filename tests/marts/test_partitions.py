"""A mart may be partitioned by any type; what folders and the table's log can't hold is told."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import deltalake
import pytest

import retailmart
from retailmart.errors import SettingsError
from retailmart.operations.check import check_definitions
from retailmart.project import load_project
from tests.support.shop import bare_project

_FEED = """files: ["sales*.csv"]
month: day
columns:
  id: {type: INT, mandatory: true}
  day: {type: DATE, mandatory: true}
  note: STRING
"""
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
# By type: values as SQL, and as they must be read. All marts also have a row without a value.
VALUES: dict[str, list[tuple[str, object]]] = {
    "INTEGER": [("-2147483648", -(2**31)), ("0", 0)],
    "BIGINT": [("9223372036854775807", 2**63 - 1), ("0", 0)],
    "BOOLEAN": [("true", True), ("false", False)],
    "DOUBLE": [("0.1", 0.1), ("-1e300", -1e300), ("1e-5", 1e-5)],
    # None below zero: deltalake itself makes '-1.-50' of -1.50 before it reads it.
    "DECIMAL(12,2)": [("0", Decimal("0.00")), ("9999999999.99", Decimal("9999999999.99"))],
    "DECIMAL(38,10)": [("0", Decimal("0E-10")), ("0.0000000001", Decimal("0.0000000001"))],
    "DATE": [("'0001-01-01'", date(1, 1, 1)), ("'9999-12-31'", date(9999, 12, 31))],
    "TIMESTAMPTZ": [
        ("'2024-02-29 10:00:00.000001+02'", datetime(2024, 2, 29, 8, 0, 0, 1, tzinfo=UTC)),
        ("'9999-12-31 23:59:59+00'", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
    "VARCHAR": [(f"'{text}'", text) for text in (NULL_FOLDER, "a/b", "50%", "é=1", " ", "..")],
}
BEYOND = {
    "DATE": ("'10000-01-30'", "'infinity'", "'0044-03-15 (BC)'"),
    "TIMESTAMPTZ": ("'10000-01-30 00:00:00+00'", "'-infinity'"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of one feed, and three of its rows in landing."""
    bare_project(tmp_path)
    (tmp_path / "feeds" / "sales.yml").write_text(_FEED)
    (tmp_path / "landing" / "sales_1.csv").write_text("id,day,note\n1,2024-01-15,x\n")
    return tmp_path


def define(folder: Path, name: str, refresh: str, kind: str, *values: str) -> None:
    """A mart that has each sale once for each value of this type, and once for none."""
    listed = ", ".join((*values, "NULL"))
    (folder / "marts" / f"{name}.sql").write_text(
        f"-- refresh: {refresh}\n-- partitions: [_month, v]\n"
        f"SELECT _month, id, unnest(list_value({listed})::{kind}[]) AS v FROM sales\n"
    )


@pytest.mark.parametrize("refresh", ["append", "months", "full"])
def test_values_of_every_type_come_back(folder: Path, refresh: str) -> None:
    """As folders of a mart they are read back as they were, by another library, too."""
    for number, (kind, values) in enumerate(VALUES.items()):
        define(folder, f"m{number}", refresh, kind, *(value for value, _ in values))
    project = retailmart.open_project(folder)
    assert project.run().held == ()
    assert not project.verify(["duckdb"]).different
    for number, values in enumerate(VALUES.values()):
        expected = in_order([None, *(value for _, value in values)])
        rows = project.mart(f"m{number}").project("v").fetchall()
        assert in_order([value for (value,) in rows]) == expected
        table = deltalake.DeltaTable(folder / "lake" / "marts" / f"m{number}").to_pyarrow_table()
        assert in_order(table.column("v").to_pylist()) == expected


def in_order(values: list[object]) -> list[object]:
    """Values of a column, NULL among them."""
    return sorted(values, key=lambda value: (value is None, str(value)))


@pytest.mark.parametrize("refresh", ["append", "months", "full"])
def test_days_that_a_log_cannot_hold_hold_their_mart_back(folder: Path, refresh: str) -> None:
    """The mart alone, with column and value; all others are built, and the next run works."""
    define(folder, "good", refresh, "DATE", "'2024-01-01'")
    cases = [(kind, value) for kind, values in BEYOND.items() for value in values]
    for number, (kind, value) in enumerate(cases):
        define(folder, f"bad{number}", refresh, kind, value)
    project = retailmart.open_project(folder)
    held = {one.mart: one.message for one in project.run().held}
    assert held.keys() == {f"bad{number}" for number in range(len(cases))}
    for number, (_, value) in enumerate(cases):
        assert f"v is {value[1:6]}" in held[f"bad{number}"]
    define(folder, "bad0", refresh, "DATE", "'2024-01-02'")
    (folder / "landing" / "sales_2.csv").write_text("id,day,note\n2,2024-02-15,x\n")
    project = retailmart.open_project(folder)
    assert "bad0" not in {one.mart for one in project.run().held}
    assert len(project.mart("good").fetchall()) == len(project.mart("bad0").fetchall()) == 4


@pytest.mark.parametrize("name", ["../../up", "a/b", "a=b", "a\\b", "a?*[b]", "%41", "", "a\nb"])
def test_a_column_that_makes_no_folder_is_refused(folder: Path, name: str) -> None:
    """Before anything is written: a path of its own would lead out of the lake."""
    quoted, listed = name.replace('"', '""'), name.replace("\\", "\\\\").replace("\n", "\\n")
    (folder / "marts" / "m.sql").write_text(
        f'-- refresh: months\n-- partitions: [_month, "{listed}"]\n'
        f'SELECT _month, id, note AS "{quoted}" FROM sales\n'
    )
    with pytest.raises(SettingsError, match="becomes a part of folders' names"):
        check_definitions(load_project(folder))


def test_names_of_any_alphabet_make_folders(folder: Path) -> None:
    """Letters, digits, blanks, _ and -."""
    (folder / "marts" / "m.sql").write_text(
        '-- refresh: months\n-- partitions: [_month, "Größe in m-2"]\n'
        'SELECT _month, id, note AS "Größe in m-2" FROM sales\n'
    )
    project = retailmart.open_project(folder)
    assert project.run().held == ()
    assert project.mart("m").fetchall() == [("2024-01", 1, "x")]
    assert not project.verify(["duckdb"]).different
