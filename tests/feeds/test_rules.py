"""Rules and types: a row for which one cannot be computed is that row's fault, not the run's."""

from __future__ import annotations

import pytest

from tests.support.shop import HEADER, Shop, keep_only, sale

HUGE = "9999999999.99"


def use_rule(shop: Shop, rule: str) -> None:
    """Give the sales feed one more rule."""
    path = shop.folder / "feeds" / "sales.yml"
    path.write_text(f"{path.read_text()}  - {rule}\n")


@pytest.mark.parametrize("action", ["warn", "quarantine"])
def test_a_rule_that_overflows_for_a_row_is_broken_by_that_row(shop: Shop, action: str) -> None:
    """A product with too many digits warns of its row or refuses it; the others are loaded."""
    check = "price * quantity + price * quantity < 10000"
    use_rule(shop, f"{{name: small, check: '{check}', action: {action}}}")
    huge = sale(price=HUGE, quantity=2_000_000, total="1.00")
    shop.sales("sales.csv", [sale(), huge, sale(day="2024-02-01")])
    (line,) = shop.run().files
    if action == "warn":
        assert (line.loaded, line.quarantined) == (3, 0)
        assert line.warned["small"] == 1
        assert line.warned["total_is_price_times_quantity"] == 1
    else:
        assert (line.loaded, line.quarantined) == (2, 1)
        [(_, number, _, rule, message, _)] = shop.refused()
        assert (number, rule) == (3, "small")
        assert "cannot be computed for this row" in message


def test_a_rule_may_look_into_a_list_and_null_breaks_none(shop: Shop) -> None:
    """An unknown answer is no violation."""
    listed = "list_contains([1, 2], store_id)"
    use_rule(shop, f"{{name: in_list, check: '{listed}', action: quarantine}}")
    use_rule(shop, "{name: noted, check: \"note <> 'x'\", action: quarantine}")
    feed = shop.folder / "feeds" / "sales.yml"
    feed.write_text(feed.read_text().replace("columns:", "columns:\n  note: STRING", 1))
    rows = [f"{sale()},", f"{sale(store=9)},y", f"{sale()},x"]
    shop.sales("sales.csv", rows, f"{HEADER},note")
    assert [file.loaded for file in shop.run().files] == [1]
    assert [row[3] for row in shop.refused()] == ["in_list", "noted"]


def test_a_rule_that_takes_a_part_from_a_date_is_tried_row_by_row(shop: Shop) -> None:
    """`extract(… FROM …)` is no SELECT: a row for which the rest overflows is refused."""
    check = "extract(year FROM sales_date) > 0 AND price * quantity + price * quantity < 10000"
    use_rule(shop, f"{{name: small, check: '{check}', action: quarantine}}")
    huge = sale(price=HUGE, quantity=2_000_000, total="1.00")
    shop.sales("sales.csv", [sale(), huge])
    (line,) = shop.run().files
    assert (line.loaded, line.quarantined) == (1, 1)


def test_a_moment_whose_year_in_utc_has_not_four_digits_is_refused(shop: Shop) -> None:
    """An offset may lead into the year 10000 or 0, which no database holds."""
    keep_only(shop.folder, marts=["sales_mart"])
    (shop.folder / "feeds" / "clock.yml").write_text(
        "files: ['clock*.csv']\ncolumns: {id: INT, at: TIMESTAMP}\n"
    )
    moments = ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59Z"]
    lines = "".join(f"{number},{text}\n" for number, text in enumerate(moments))
    shop.drop("clock.csv", f"id,at\n{lines}")
    (line,) = shop.run().files
    assert (line.loaded, line.quarantined) == (1, 2)
