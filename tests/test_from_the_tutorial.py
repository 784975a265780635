"""What docs/from-the-tutorial.md promises to people who come from the hand-made pipeline."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.backends import shop_tables
from tests.support.pages import blocks, commands
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.s3 import S3Server
from tests.support.shop import HEADER, Called, Shop, all_marts, keep_only, sale

_PAGE = "docs/from-the-tutorial.md"


def test_a_shop_is_brought_across_as_the_page_says(
    tmp_path: Path,
    called: Called,
    mariadb: DatabaseServer,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its settings, commands and SQL, with this machine's names, on two old files and a copy."""
    marts, shop, bucket = mariadb.database(), mariadb.database(), s3.bucket()
    shop.execute(*shop_tables())
    pattern = shop.name.replace("_", r"\_")
    mariadb.ask(f"GRANT SELECT ON `{pattern}`.* TO `{marts.user}`@`%`")
    monkeypatch.setenv("RETAILMART_KEY", "a-key-of-the-test-only")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    typed = commands(_PAGE)
    assert typed[:2] == [
        "retailmart init myshop",
        """printf '%s' "$OLD_PASSWORD" | retailmart secrets set MART_PASSWORD""",
    ]
    assert called(tmp_path, *typed[0].split()[1:]).returncode == 0
    folder = tmp_path / "myshop"
    keep_only(folder, feeds=["sales"], marts=["customer_monthly_purchase", "sales_team_incentive"])
    variables, places = blocks(_PAGE, "yaml")
    for theirs, ours in {
        "our-retail": bucket,
        "db.example.com/retail": f"{marts.host}:{marts.port}/{marts.name}",
        "db.example.com/shop": f"{marts.host}:{marts.port}/{shop.name}",
        "mysql://mart:": f"mysql://{marts.user}:",
    }.items():
        places = places.replace(theirs, ours)
    settings = folder / "retailmart.yml"
    known = ("landing:", "lake:", "archive:", "database:", "sources:")
    kept = [line for line in settings.read_text().splitlines() if not line.startswith(known)]
    settings.write_text("\n".join([*kept, places, variables]))
    words = [sys.executable, "-m", "retailmart", "secrets", "set", "MART_PASSWORD"]
    subprocess.run(words, cwd=folder, input=marts.password, text=True, check=True)
    old = s3.look(bucket)
    first, second = [HEADER, sale(), sale(2, person=2)], [HEADER, sale(99, price="5.00")]
    for name, lines in {"sales_1": first, "sales_2": second, "sales_2 (1)": second}.items():
        old.put(f"to_process/{name}.csv", "\n".join([*lines, ""]))
    for line in typed[2:]:
        if "retailmart undo" in line:
            continue
        done = called(folder, *line.split()[1:])
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        if line == "retailmart run":
            assert re.search(r"files duplicate +1\b", done.stderr)
            assert re.search(r"unknown customer_id +1 key in 1 row of these files, ", done.stderr)
    compare, view = (sql.replace("retail.", f"{marts.name}.") for sql in blocks(_PAGE, "sql"))
    assert marts.query(compare) == [(2024, 1, 3, Decimal("25.00"))]
    marts.execute(view)
    assert sorted(marts.query(f"SELECT * FROM {marts.name}.sales_team_data_mart")) == [
        (1, 1, "Anu A", "2024-01", Decimal("15.00"), Decimal("0.15")),
        (1, 2, "Bala B", "2024-01", Decimal("10.00"), Decimal("0.00")),
    ]
    marts.drop()
    shop.drop()


@all_marts
@pytest.mark.parametrize(
    ("scope", "incentives"),
    [
        ("store", {(1, 1): "0.20", (1, 2): "0.20", (2, 3): "0.15"}),
        ("company", {(1, 1): "0.20", (1, 2): "0.20", (2, 3): "0.00"}),
    ],
)
def test_who_wins_is_a_setting_and_ties_are_paid(
    shop: Shop, scope: str, incentives: dict[tuple[int, int], str]
) -> None:
    """One winner a store and month, or one of the company; who ties earns it in full."""
    keep_only(shop.folder, feeds=["sales"], marts=["sales_team_incentive"])
    settings = shop.folder / "retailmart.yml"
    settings.write_text(f"{settings.read_text()}variables: {{incentive_scope: {scope}}}\n")
    twenty = [sale(person=person, price="20.00") for person in (1, 2)]
    shop.sales("sales_1.csv", [*twenty, sale(store=2, person=3, price="15.00")])
    shop.run()
    found = shop.mart("sales_team_incentive", "store_id, sales_person_id, incentive")
    assert {(store, person): str(earned) for store, person, earned in found} == incentives


def test_a_table_of_the_old_pipeline_is_not_written_over(shop: Shop, called: Called) -> None:
    """A mart whose name an old table has is refused before anything happens."""
    keep_only(shop.folder, feeds=["sales"], marts=["customer_monthly_purchase"])
    shop.backend.execute("CREATE TABLE customer_monthly_purchase (a INTEGER)")
    done = called(shop.folder, "check")
    assert done.returncode == 2
    assert "that this project did not publish" in done.stderr
