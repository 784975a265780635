"""What is said of names without asking a database is what the database does with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.exc import SQLAlchemyError

from retailmart.database import known, open_database
from retailmart.database.dialect import dialect_of, names_in
from tests.support.shop import Called, Shop, keep_only, sale

if TYPE_CHECKING:
    from sqlalchemy import Engine

pytestmark = pytest.mark.every_database
_COLUMNS = (
    *("plain", "Order No", " begins", "ends ", "a\ttab", "50 %", 'a "quote"', "a`tick", "select"),
    *("ctid", "xmin", "XMIN", "cmax", "tableoid", "oid", "rowid", "DB_ROW_ID", "db_trx_id"),
    *("fts_doc_id", "FTS_DOC_ID", "sqlite_x", "pg_x", "größe", "\N{SHOPPING TROLLEY}"),
    *("n" * 63, "n" * 64, "n" * 65, "ä" * 31, "ä" * 32, "ä" * 64, "ä" * 65),
)
_PAIRS = (("a", "A"), ("ä", "Ä"), ("a", "b"), ("a_", "a"))


def _holds(engine: Engine, *columns: str) -> bool:
    """Whether the database makes a table of these columns, under just these names."""
    name = "names_tried"
    table = Table(name, MetaData(), *(Column(column, Integer) for column in columns))
    try:
        with engine.begin() as connection:
            table.drop(connection, checkfirst=True)
            table.create(connection)
            found = list(dialect_of(connection).columns_of(connection, name))
            table.drop(connection)
    except SQLAlchemyError:
        return False
    return found == list(columns)


def test_columns_that_a_database_cannot_hold_are_known(shop: Shop) -> None:
    """Neither more nor fewer: of one name, and of two that may be one to it."""
    engine = open_database(shop.open().project.database_url(), shop.folder)
    names = names_in(engine)
    for columns in (*((name, "other") for name in _COLUMNS), *_PAIRS):
        wrong = list(names.wrong_columns(columns))
        assert _holds(engine, *columns) is not bool(wrong), (columns, wrong)
    engine.dispose()


def test_check_tells_names_that_the_database_cannot_hold(shop: Shop, called: Called) -> None:
    """With the fix; a run says so too, of a table at once, of a column by holding the mart back."""
    keep_only(shop.folder, marts=())
    table, column = {
        "sqlite": ("sqlite_z", None),
        "mysql": (None, "n" * 65),
        "postgres": ("pg_class", "ctid"),
    }[shop.backend.speaks]
    mart = shop.folder / "marts" / "odd.sql"
    text = "-- refresh: full\n-- key: [customer_id]\n-- publish: {}\nSELECT customer_id,"
    text += ' count(*) AS "{}" FROM sales GROUP BY ALL'
    shop.sales("sales_1.csv", [sale()])
    if table is not None:
        mart.write_text(text.format(table, "n"))
        for command in ("check", "run"):
            done = called(shop.folder, command)
            assert done.returncode == 2
            assert f"odd.sql:3: publish: '{table}': " in done.stderr
            assert "`publish: NAME` in its header" in done.stderr
    if column is not None:
        mart.write_text(text.format("odd", column))
        done = called(shop.folder, "check")
        assert done.returncode == 2
        assert f"odd.sql:4: the column '{column}': " in done.stderr
        assert f'"{column}" AS another_name' in done.stderr
        (held,) = shop.run().held
        assert f"the column '{column}': " in held.message
        assert "AS another_name" in str(held.hint)
    mart.write_text(text.format("even", "n"))
    assert called(shop.folder, "check").returncode == 0
    assert shop.run().held == ()


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("mysql://me@host/mysql", True),
        ("mysql://me@host/SYS", True),
        ("mysql://me@host/retail", False),
        ("postgresql://me@host/retail?schema=pg_catalog", True),
        ("postgresql://me@host/retail?schema=information_schema", True),
        ("postgresql://me@host/retail?schema=marts", False),
        ("postgresql://me@host/pg_retail", False),
        ("sqlite:///mysql", False),
    ],
)
def test_schemas_of_the_server_itself_are_known(url: str, is_own: bool) -> None:
    """Nothing is published beside the server's own tables."""
    kind, parsed = known(url)
    assert bool(kind.names.wrong_schema(kind.schema(parsed))) is is_own
