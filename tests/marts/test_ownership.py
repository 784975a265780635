"""Only what is ours is ever replaced: tables of others are named before anything happens."""

from __future__ import annotations

import pytest

from retailmart import SettingsError
from tests.support.shop import Called, Shop, all_marts, sale

pytestmark = pytest.mark.every_database
_MART = "customer_monthly_purchase"


@pytest.mark.parametrize(
    "made",
    [f"CREATE TABLE {_MART} (id INTEGER)", f"CREATE VIEW {_MART} AS SELECT 1 AS id"],
    ids=["table", "view"],
)
def test_a_table_of_others_is_named_and_stays(shop: Shop, made: str) -> None:
    """Nothing is loaded before it is renamed, or the mart is published as another."""
    shop.run()  # of a project that is older than the table
    shop.backend.execute(made)
    shop.sales("sales_1.csv", [sale()])
    with pytest.raises(SettingsError, match=rf"marts/{_MART}.sql:\d+: publish: .* '{_MART}'"):
        shop.run()
    assert [name.startswith("sales_1") for name in shop.backend.landed()] == [True]
    shop.backend.query(f"SELECT id FROM {_MART}")
    mart = shop.folder / "marts" / f"{_MART}.sql"
    mart.write_text(mart.read_text().replace("publish: true", "publish: purchases"))
    shop.run()
    assert shop.published("purchases", "customer_id, monthly_total") == [(1, 10)]
    shop.backend.query(f"SELECT id FROM {_MART}")


@all_marts
def test_what_was_published_under_another_mart_is_ours(shop: Shop) -> None:
    """A mart's file may be renamed; its table goes on."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    old = shop.folder / "marts" / "sales_team_incentive.sql"
    new = shop.folder / "marts" / "incentives.sql"
    new.write_text(old.read_text().replace("publish: true", "publish: sales_team_incentive"))
    old.unlink()
    shop.run()
    assert shop.published("sales_team_incentive", "store_id, total_sales") == [(1, 10)]


def test_check_and_doctor_name_it(shop: Shop, called: Called) -> None:
    """With the fix, and no database is made for it."""
    if shop.backend.speaks == "sqlite":
        assert called(shop.folder, "check").returncode == 0
        assert not (shop.folder / "retail.db").exists()
    shop.backend.execute(f"CREATE TABLE {_MART} (id INTEGER)")
    for command in ("check", "doctor"):
        done = called(shop.folder, command)
        assert done.returncode != 0
        assert f"a table '{_MART}' that this project did not publish" in done.stdout + done.stderr
        assert "publish: NAME" in done.stdout + done.stderr


def test_a_source_table_is_never_published_over(shop: Shop) -> None:
    """Also where it was published before somebody read it as a source."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    settings = shop.folder / "retailmart.yml"
    lines = settings.read_text().splitlines()
    url = next(line.removeprefix("database:") for line in lines if line.startswith("database:"))
    kept = [line for line in lines if not line.startswith("sources:")]
    settings.write_text("\n".join([*kept, f"sources: {{shop: '{url.strip()}'}}"]))
    (shop.folder / "tables" / "again.yml").write_text(f"table: {_MART}\nkey: [customer_id]\n")
    with pytest.raises(SettingsError, match=f"'{_MART}' is a source table"):
        shop.run()
