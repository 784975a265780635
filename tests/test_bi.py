"""What docs/bi.md says to type opens the marts as it says, and no more than it says."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from retailmart.template import write_project
from retailmart.template.sample import write_sample
from tests.support.backends import MySQLBackend, PostgresBackend, shop_tables
from tests.support.pages import blocks
from tests.support.services.mariadb import Database, DatabaseServer
from tests.support.services.postgres import Postgres, PostgresDatabase
from tests.support.shop import AS_OF, Shop, keep_only, sale

_PAGE = "docs/bi.md"
_MARTS = ("customer_monthly_purchase", "sales_team_incentive", "customer_mart")


def shop_on(backend: MySQLBackend | PostgresBackend) -> Shop:
    """A shop with the page's marts, and one run."""
    folder = backend.folder
    write_project(folder, sample=False, stories=("tills",))
    keep_only(folder, marts=_MARTS)
    backend.settle(folder)
    backend.execute_in_shop(*shop_tables())
    shop = Shop(folder, backend)
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    return shop


def uri_of(dialect: str) -> str:
    """The page's URI for Superset."""
    (text,) = (block for block in blocks(_PAGE, "text") if "://" in block)
    return next(line for line in text.splitlines() if line.startswith(dialect))


def as_bi(uri: str, database: Database | PostgresDatabase, name: str) -> sa.URL:
    """The page's URI, but for this machine's host and names."""
    url = sa.make_url(uri)
    assert (url.database, url.username) == ("retail", "bi")
    return url.set(host=database.host, port=database.port, database=database.name, username=name)


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the sample: the file is there, and money is decimal in pandas and Polars."""
    folder = tmp_path / "shop"
    write_project(folder, sample=True, stories=("tills",))
    write_sample(folder, ("tills",))
    (line,) = blocks(_PAGE, "yaml")
    assert line in (folder / "retailmart.yml").read_text(encoding="utf-8")
    Shop(folder).run(AS_OF)
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    for number, code in enumerate(blocks(_PAGE, "python")):
        exec(compile(code, f"{_PAGE}, block {number}", "exec"), found)
    shown = capsys.readouterr().out
    assert "sales_team_incentive" in shown
    assert "decimal[38,2]" in shown


def test_the_account_for_tools_on_mysql(tmp_path: Path, mariadb: DatabaseServer) -> None:
    """It reads the marts it was given, also once they are built again, and nothing else."""
    mariadb.require_ours("makes accounts of its own")
    database = mariadb.database()
    shop = shop_on(MySQLBackend(tmp_path / "shop", database, mariadb.database()))
    name = f"bi_{database.name[-8:]}"
    (sql,) = blocks(_PAGE, "sql")
    sql = sql.replace("'bi'@", f"'{name}'@").replace("retail.", f"{database.name}.")
    for statement in filter(None, map(str.strip, sql.split(";"))):
        mariadb.ask(statement)
    try:
        reads_only(shop, sa.create_engine(as_bi(uri_of("mysql"), database, name)))
    finally:
        mariadb.ask(f"DROP USER '{name}'@'%'")


def test_the_account_for_tools_on_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    """It reads the marts it was given, also once they are built again, and nothing else."""
    database = postgres.database()
    shop = shop_on(PostgresBackend(tmp_path / "shop", database, postgres.database()))
    name = f"bi_{database.name[-8:]}"
    (sql,) = blocks(_PAGE, "pgsql")
    with postgres.admin(database.name) as connection:
        for statement in filter(None, map(str.strip, re.sub(r"\bbi\b", name, sql).split(";"))):
            connection.execute(statement.encode())
    try:
        # The driver of Superset's images is not in this environment; the URI's parts are the same.
        uri = uri_of("postgresql").replace("psycopg2", "psycopg")
        reads_only(shop, sa.create_engine(as_bi(uri, database, name)))
    finally:
        with postgres.admin(database.name) as connection:
            connection.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'.encode())


def reads_only(shop: Shop, engine: sa.Engine) -> None:
    """What the tool's account can and can't do."""
    total = "SELECT sum(monthly_total) FROM customer_monthly_purchase"
    try:
        assert value(engine, total) == Decimal("10.00")
        assert value(engine, "SELECT count(*) FROM sales_team_incentive") == 1
        assert value(engine, "SELECT count(*) FROM retailmart_v_files") == 1
        for forbidden in (
            "SELECT count(*) FROM retailmart_files",
            "DELETE FROM customer_monthly_purchase",
            "CREATE TABLE mine (n INTEGER)",
        ):
            with pytest.raises(sa.exc.DBAPIError, match="denied"):
                value(engine, forbidden)
        mart = shop.folder / "marts" / "customer_monthly_purchase.sql"
        query = mart.read_text(encoding="utf-8")
        mart.write_text(query.replace("m.monthly_total", "m.monthly_total, 1 AS one"))
        shop.sales("sales_2.csv", [sale(2)])
        shop.run()
        assert value(engine, total) == Decimal("20.00")
        assert value(engine, "SELECT sum(one) FROM customer_monthly_purchase") == 2
    finally:
        engine.dispose()


def value(engine: sa.Engine, statement: str) -> object:
    """A statement's one value."""
    with engine.begin() as connection:
        return connection.execute(sa.text(statement)).scalar()
