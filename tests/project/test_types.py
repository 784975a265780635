"""Column types: the few that every engine and database has."""

from __future__ import annotations

import pytest

from retailmart.project.types import ColumnType, parse_type


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("INT", ColumnType("INT")),
        ("integer", ColumnType("INT")),
        (" bigint ", ColumnType("BIGINT")),
        ("text", ColumnType("STRING")),
        ("Varchar", ColumnType("STRING")),
        ("timestamp  with time zone", ColumnType("TIMESTAMP")),
        ("bool", ColumnType("BOOLEAN")),
        ("FLOAT", ColumnType("DOUBLE")),
        ("DECIMAL(12,2)", ColumnType("DECIMAL", 12, 2)),
        ("decimal( 38 , 38 )", ColumnType("DECIMAL", 38, 38)),
        ("DECIMAL(1,0)", ColumnType("DECIMAL", 1, 0)),
    ],
)
def test_types_are_read_as_written(text: str, kind: ColumnType) -> None:
    """Letter case, padding and other names of a type make no difference, and it reads back."""
    assert parse_type(text) == kind
    assert parse_type(str(kind)) == kind


@pytest.mark.parametrize("text", ["DECIMAL(39,2)", "DECIMAL(0,0)", "DECIMAL(2,3)"])
def test_impossible_decimals_are_refused(text: str) -> None:
    """A decimal has 1 to 38 digits and no more of them after the point than in all."""
    with pytest.raises(ValueError, match="a decimal has 1 to 38 digits"):
        parse_type(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("INTT", "did you mean 'INT'?"),
        ("DATETIM", "did you mean 'DATE'?"),
        ("MONEY", "known: INT, BIGINT, STRING, DATE, TIMESTAMP, BOOLEAN, DOUBLE, DECIMAL(12,2)"),
        ("DECIMAL", "did you mean"),
        ("DECIMAL(12", "put it in quotes"),
        ("", "known: INT"),
    ],
)
def test_unknown_types_come_with_a_hint(text: str, hint: str) -> None:
    """A type that is none is shown with the nearest one, or with all there are."""
    with pytest.raises(ValueError, match="is no column type; ") as caught:
        parse_type(text)
    assert repr(text) in str(caught.value)
    if text != "DECIMAL":
        assert hint in str(caught.value)
