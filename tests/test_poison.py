"""A poison sweep: values at and beyond the edges of every type, in every column of the template."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import pytest

from retailmart.errors import GateFailed
from retailmart.report import RunReport
from retailmart.template import STORIES
from tests.support.shop import HEADER, Shop, all_marts, sale

POISONS = (
    *("", " ", "NULL", "-", "nan", "NaN", "inf", "-inf", "Infinity", "1e309", "1e-400", "0x10"),
    *("1", "-1", "0", "-0", "00", "1.5", ".5", "5.", "1e2", "2147483647", "2147483648"),
    *("-2147483648", "-2147483649", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775808", "9" * 15, "9" * 16, "9" * 17, "9" * 38, "9" * 39, "9" * 400),
    *("9999999999.99", "99999999999999.99", "9999999999999999.99", "-9999999999999999.99"),
    *("0.01", "0.001", "0." + "0" * 37 + "1", "x" * 300, "x" * 5000, "\U0001f375" * 300, "a\tb"),
    *("0001-01-01", "0000-01-01", "9999-12-31", "10000-01-01", "1582-10-10", "2023-02-29"),
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z"),
    *("9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z", "2024-03-31T02:30:00+02:00"),
    *("infinity", "-infinity", "epoch", "today", "true", "maybe", "COMPLETED", "'; DROP TABLE x;"),
)
ORDER = {
    "Order ID": "7",
    "Order Status": "COMPLETED",
    "Category Name": "Food",
    "SKU": "A",
    "Quantity": "1",
    "Unit Price": "1.00",
    "Total Price": "1.00",
    "Order Total": "1.00",
    "Sub Total": "1.00",
    "Payment Method": "Card",
    "Currency Symbol": "KSh",
    "Customer ID": "1",
    "Merchant ID": "5",
    "Distance (in km)": "1.5",
    "Order Time": "2024-01-05T10:00:00Z",
    "Pickup Time": "2024-01-05T10:10:00Z",
    "Delivery Time": "2024-01-05T10:30:00Z",
}
TASK = {
    "Task_ID": "T1",
    "Order_ID": "YR-7,0",
    "Task_Type": "drop",
    "Agent_ID": "a",
    "Distance(m)": "100",
    "Total_Time_Taken(min)": "5.5",
    "Task_Status": "done",
    "Rating": "5",
    "Latitude": "1.5",
    "Longitude": "36.8",
    "Subtotal": "1.00",
    "Payment_Type": "Card",
}
USER = {
    "Customer ID": "1",
    "Last Used Platform": "web",
    "Is Blocked": "false",
    "Created At": "2024-01-01T00:00:00Z",
    "Language": "en",
    "Outstanding Amount": "0.00",
    "Loyalty Points": "1.50",
    "Number of employees": "3",
}
SALE = dict(zip(HEADER.split(","), sale().split(","), strict=True))


@pytest.fixture
def stories() -> Collection[str]:
    """All that a project can begin with."""
    return tuple(STORIES)


def poisoned(good: Mapping[str, str], key: str) -> list[dict[str, str]]:
    """A row for each column and poison, which hides no other; rows are told apart by `key`."""
    rows = [dict(good)]
    for column in good:
        for poison in POISONS:
            rows.append({**good, key: str(1000 + len(rows)), column: poison})
    return rows


def as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def deliver(shop: Shop, sets: Mapping[str, Iterable[Mapping[str, str]]]) -> dict[str, int]:
    """Put files into landing; how many records each has."""
    counts = {}
    for name, rows in sets.items():
        listed = list(rows)
        counts[name] = len(listed)
        shop.drop(name, json.dumps(listed) if name.endswith(".json") else as_csv(listed))
    return counts


def run(shop: Shop) -> RunReport | None:
    """One run; None where a gate refused it, which is exit code 3."""
    try:
        return shop.run()
    except GateFailed:
        return None


@all_marts
@pytest.mark.every_backend
def test_no_value_stops_the_shop(shop: Shop) -> None:
    """Each row is loaded or told with its line and column; a good file brings all marts back."""
    names = {
        "sales_1.csv": (SALE, "store_id"),
        "market1/orders_1.csv": (ORDER, "Order ID"),
        "market1/deliveries_1.csv": (TASK, "Task_ID"),
        "market1/users_1.json": (USER, "Customer ID"),
    }
    bad = deliver(shop, {name: poisoned(good, key) for name, (good, key) in names.items()})
    report = run(shop)
    if report is not None:
        for line in report.files:
            assert (line.state, line.records) == ("loaded", bad[line.path]), line
            assert (line.loaded or 0) + (line.quarantined or 0) == line.records, line
            assert line.loaded, line
        for one in report.held:
            assert one.cause or (one.hint and "row" in one.message), one
    for feed in ("sales", "orders_export", "deliveries_export", "users_export"):
        for _, number, column, rule, message, _ in shop.refused(feed):
            assert number >= 1, feed
            assert column or rule in ("schema", "parse", "columns"), (feed, rule, message)
    good = {name: [row] for name, (row, _) in names.items()}
    deliver(shop, good)
    after = shop.run()
    assert after.held == ()
    assert {line.loaded for line in after.files} == {1}
    assert len(shop.published("market_orders")) == 1
    assert len(shop.published("customer_monthly_purchase")) == 1
    assert shop.run().nothing_to_do
