"""The markets' marts against plain Python: each order once, no fan-out, no currency mixed."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.support.amount import SEED
from tests.support.judge_shop import KEYS, Row, market_marts
from tests.support.shop import AS_OF, Shop
from tests.template.looking import differences, mart, one

MARTS = [name for name in KEYS if name.startswith("market_")]
ORDER = {
    "Order ID": "1",
    "Order Status": "COMPLETED",
    "Category Name": "Food",
    "SKU": "F1",
    "Quantity": "1",
    "Unit Price": "10.00",
    "Total Price": "10.00",
    "Order Total": "12.50",
    "Sub Total": "10.00",
    "Payment Method": "Cash",
    "Currency Symbol": "KSh",
    "Customer ID": "7",
    "Merchant ID": "3",
    "Distance (in km)": "1.5",
    "Order Time": "2024-03-01T10:00:00Z",
    "Pickup Time": "2024-03-01T10:20:00Z",
    "Delivery Time": "2024-03-01T11:00:00Z",
    "Tip": "-",
}
TASK = {
    "Task_ID": "900",
    "Order_ID": "YR-1,0",
    "Task_Type": "DELIVERY",
    "Agent_ID": "5",
    "Distance(m)": "-",
    "Total_Time_Taken(min)": "12.5",
    "Task_Status": "COMPLETED",
    "Rating": "-",
    "Latitude": "-1.25",
    "Longitude": "36.5",
    "Subtotal": "10.00",
    "Payment_Type": "Cash",
}
USER: dict[str, Any] = {
    "Customer ID": 7,
    "Last Used Platform": "IOS",
    "Is Blocked": False,
    "Created At": "2023-05-01T08:00:00Z",
    "Language": "en",
    "Outstanding Amount": 0,
    "Loyalty Points": 12,
    "Number of employees": None,
}
Said = Mapping[str, Any]


@pytest.fixture
def stories() -> Collection[str]:
    """No other story's marts are looked at."""
    return ("markets",)


def as_csv(rows: Sequence[Said], header: Sequence[str] | None = None) -> str:
    """Rows as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def line(**said: str) -> dict[str, str]:
    """An order line: ORDER but for what is said, with _ for the spaces of a name."""
    return {**ORDER, **{name.replace("_", " "): value for name, value in said.items()}}


def task(number: str, order: str, **said: str) -> dict[str, str]:
    """A delivery task of an order."""
    return {**TASK, "Task_ID": number, "Order_ID": order, **said}


def drop_orders(shop: Shop, path: str, *lines: Said) -> None:
    shop.drop(path, as_csv(lines))


def drop_users(shop: Shop, path: str, *users: Said) -> None:
    shop.drop(path, json.dumps(users))


def totals(shop: Shop, market: str = "market1") -> Row:
    """What market_metrics says of a market with one currency."""
    return one(shop, "market_metrics", market=market)


class Markets:
    """Two markets whose exports come file by file, and are never quite the same."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"{SEED} {seed}")
        self.delivered: list[str] = []
        self.files = 0

    def deliver(self, shop: Shop) -> None:
        """Some files at once: their names are in the order in which they count."""
        for _ in range(self.rng.randrange(2, 5)):
            market = self.rng.choice(("market1", "market2"))
            self.files += 1
            kind, content = self.rng.choice((self._orders, self._orders, self._tasks, self._users))(
                market
            )
            path = f"{market}/{kind[0]}_{self.files:03}.{kind[1]}"
            shop.drop(path, content)
            self.delivered.append(path)

    def _orders(self, market: str) -> tuple[tuple[str, str], str]:
        rng = self.rng
        lines = []
        for number in sorted({rng.randrange(1, 25) for _ in range(12)}):
            about = {
                "Order ID": str(number),
                "Order Status": rng.choice(("COMPLETED", "ORDERED", "Cancelled", "COMPLETED")),
                "Order Total": rng.choice(("-", "0.05", "19.99", "1250.00", "-3.33")),
                "Payment Method": rng.choice(("Cash", " Card", "cash", "")),
                "Currency Symbol": rng.choice(("KSh", "KSh", "₦", "")),
                "Customer ID": rng.choice(("-", "7", "8", "9")),
                "Merchant ID": rng.choice(("-", "3", "4")),
                "Order Time": rng.choice(("-", self._time())),
                "Delivery Time": rng.choice(("-", self._time())),
            }
            for _ in range(rng.choice((1, 2, 4))):
                own = {
                    "Category Name": rng.choice(("Food", "food", "Food ", "", "Tea")),
                    "SKU": rng.choice(("F1", "F2", "-")),
                    "Quantity": rng.choice(("1", "2", "0.375", "-")),
                    "Total Price": rng.choice(("10.00", "0.01", "-", "7.5")),
                }
                lines.append({**ORDER, **about, **own})
                if rng.random() < 0.1:
                    lines[-1]["Currency Symbol"] = rng.choice(("", "$"))
                if rng.random() < 0.05:
                    lines[-1][rng.choice(("Order ID", "Total Price", "Order Time"))] = "N/A"
        header = list(ORDER)
        rng.shuffle(header)
        if rng.random() < 0.3:
            header.remove("Pickup Time")
        drifted = {"Payment Method": "Payment Mode"} if market == "market2" else {}
        rows = [{drifted.get(name, name): row[name] for name in header} for row in lines]
        return ("orders", "csv"), as_csv(rows)

    def _tasks(self, market: str) -> tuple[tuple[str, str], str]:
        rng = self.rng
        rows = []
        for number in {rng.randrange(1, 40) for _ in range(15)}:
            order = rng.choice(("-", "", f"YR-{rng.randrange(1, 30)},0", str(rng.randrange(1, 30))))
            status = rng.choice(("COMPLETED", "FAILED"))
            rows.append(task(str(number), order, Task_Status=status))
        return ("deliveries", "csv"), as_csv(rows)

    def _users(self, market: str) -> tuple[tuple[str, str], str]:
        rng = self.rng
        users = [
            {**USER, "Customer ID": number, "Loyalty Points": rng.choice((None, 3, 7.25))}
            for number in (7, 8, 11)
            if rng.random() < 0.8
        ] or [USER]
        if rng.random() < 0.5:
            return ("users", "json"), json.dumps(users)
        return ("users", "jsonl"), "".join(json.dumps(user) + "\n" for user in users)

    def _time(self) -> str:
        moment = datetime(2024, 3, 1, tzinfo=UTC) + timedelta(seconds=self.rng.randrange(10**6))
        return moment.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_files_is_what_the_judge_makes_of_it(shop: Shop, seed: int) -> None:
    """Re-exports, drift, odd cells and unknown keys, over several runs: the newest file counts."""
    markets = Markets(seed)
    drop_orders(shop, "market1/orders_000.csv", ORDER)
    shop.drop("market1/deliveries_000.csv", as_csv([TASK]))
    drop_users(shop, "market1/users_000.json", USER)
    markets.delivered += ["market1/" + name for name in _FIRST]
    shop.run()
    for _ in range(2):
        markets.deliver(shop)
        shop.run()
    landing = shop.folder / "archive" / "processed"
    found = {path.name: path for path in landing.rglob("market*/*")}
    whole = shop.folder / "delivered"
    for path in markets.delivered:
        (whole / path).parent.mkdir(parents=True, exist_ok=True)
        (whole / path).write_bytes(found[path.rpartition("/")[2]].read_bytes())
    assert differences(shop, market_marts(whole, markets.delivered)) == []


_FIRST = ("orders_000.csv", "deliveries_000.csv", "users_000.json")


def test_an_orders_total_counts_once(shop: Shop) -> None:
    """Four lines repeat it four times; a category's revenue is that of its lines."""
    lines = [line(SKU=f"F{n}", Category_Name=name) for n, name in enumerate("AABC")]
    drop_orders(shop, "market1/orders.csv", *lines, line(Order_ID="2", Order_Total="7.50"))
    shop.run()
    found = totals(shop)
    assert (found["orders"], found["revenue"], found["_lines"]) == (2, Decimal("20.00"), 5)
    assert found["_lines_revenue"] == Decimal("50.00")
    assert one(shop, "market_user_totals", user_id=7)["total_amount"] == Decimal("20.00")
    assert one(shop, "market_category_metrics", category="A")["revenue"] == Decimal("20.00")
    assert one(shop, "market_merchant_metrics", merchant_id=3)["revenue"] == Decimal("20.00")
    assert len(mart(shop, "market_orders")) == 5


def test_deliveries_never_multiply(shop: Shop) -> None:
    """Three tasks of one order of two lines are three rows; a task without an order is one too."""
    drop_orders(shop, "market1/orders.csv", line(SKU="F1"), line(SKU="F2"))
    drop_users(shop, "market1/users.json", USER)
    tasks = [task("1", "YR-1,0"), task("2", "YR-1,0"), task("3", "1"), task("4", "YR-77,0")]
    shop.drop("market1/deliveries.csv", as_csv(tasks))
    shop.drop("market2/deliveries.csv", as_csv(tasks))
    shop.run()
    rows = mart(shop, "market_deliveries")
    told = [(row["market"], row["order_id"], row["order_total"]) for row in rows]
    assert told[:4] == [("market1", 1, Decimal("12.50"))] * 3 + [("market1", 77, None)]
    assert told[4:] == [("market2", 1, None)] * 3 + [("market2", 77, None)]
    assert rows[0]["user_last_used_platform"] == "IOS"
    assert rows[0]["user_loyalty_points"] == 12
    assert totals(shop)["revenue"] == Decimal("12.50")


def test_tasks_are_shown_before_anything_else_has_come(shop: Shop) -> None:
    """Without any order or user the tasks stand alone, and are joined once these come."""
    shop.drop("market1/deliveries.csv", as_csv([TASK]))
    shop.run()
    assert one(shop, "market_deliveries", task_id="900")["order_status"] is None
    drop_orders(shop, "market1/orders.csv", ORDER)
    shop.run()
    row = one(shop, "market_deliveries", task_id="900")
    assert (row["order_status"], row["user_last_used_platform"]) == ("COMPLETED", None)


def test_an_order_told_again_replaces_all_its_lines(shop: Shop) -> None:
    """The later file says what the order is: fewer lines, another total, or cancelled."""
    lines = [line(Order_ID=str(n), SKU=sku) for n in (1, 2, 3) for sku in ("A", "B")]
    drop_orders(shop, "market1/orders_1.csv", *lines)
    shop.run()
    assert totals(shop)["_lines"] == 6
    drop_orders(
        shop,
        "market1/orders_2.csv",
        line(Order_ID="1", SKU="A", Order_Total="5.00"),
        line(Order_ID="2", SKU="A", Order_Status="CANCELLED"),
    )
    shop.run()
    found = totals(shop)
    assert (found["orders"], found["_lines"]) == (2, 3)
    assert found["revenue"] == Decimal("17.50")
    lines_left = Counter(row["order_id"] for row in mart(shop, "market_orders"))
    assert lines_left == {1: 1, 2: 1, 3: 2}


def test_a_repaired_line_joins_its_order(shop: Shop) -> None:
    """It comes in a later file, and still the order keeps its other lines."""
    broken = line(SKU="B", Total_Price="ten")
    drop_orders(shop, "market1/orders.csv", line(SKU="A"), broken)
    shop.run()
    [(file, number, *_)] = shop.refused("orders_export")
    assert (file, number) == ("market1/orders.csv", 3)
    with shop.open().ledger() as ledger:
        [origin] = [found.file_id for found in ledger.files.readable_at(["market1/orders.csv"])]
    repaired = {"_origin": f"{origin}#3", **broken, "Total Price": "10.00"}
    drop_orders(shop, "market1/orders_fixed.csv", repaired)
    shop.run()
    assert [row["sku"] for row in mart(shop, "market_orders")] == ["A", "B"]
    assert (totals(shop)["orders"], totals(shop)["revenue"]) == (1, Decimal("12.50"))


def test_currencies_are_never_added(shop: Shop) -> None:
    """Equal order numbers of two markets, an order of two currencies, and one of none."""
    drop_orders(shop, "market1/orders.csv", ORDER, line(Order_ID="2", Currency_Symbol=""))
    two = [line(Order_ID="3", SKU=sku, Currency_Symbol=sku) for sku in ("₦", "$")]
    said_once = [line(Order_ID="4", SKU=c or "-", Currency_Symbol=c) for c in ("", "₦")]
    drop_orders(shop, "market2/orders.csv", line(Currency_Symbol="₦"), *two, *said_once)
    shop.run()
    found = {(r["market"], r["currency"]): r for r in mart(shop, "market_metrics")}
    assert {key: (row["orders"], row["revenue"]) for key, row in found.items()} == {
        ("market1", "KSh"): (1, Decimal("12.50")),
        ("market1", "unknown"): (1, Decimal("12.50")),
        ("market2", "₦"): (3, Decimal("37.50")),
        ("market2", "$"): (1, Decimal("12.50")),
    }


def test_cancelled_orders_count_nowhere(shop: Shop) -> None:
    """One cancelled line cancels its order; the clean table shows it, and no sum does."""
    cancelled = [line(Order_ID="2", SKU="A"), line(Order_ID="2", SKU="B", Order_Status=" canceled")]
    drop_orders(shop, "market1/orders.csv", ORDER, *cancelled)
    shop.drop("market1/deliveries.csv", as_csv([task("1", "YR-2,0")]))
    shop.run()
    for name in ("metrics", "merchant_metrics", "payment_metrics"):
        [row] = mart(shop, f"market_{name}")
        assert (row["orders"], row["revenue"]) == (1, Decimal("12.50"))
    [category] = mart(shop, "market_category_metrics")
    assert (category["lines"], category["revenue"]) == (1, Decimal("10.00"))
    assert [row["order_id"] for row in mart(shop, "market_order_totals")] == [1]
    assert [row["_cancelled"] for row in mart(shop, "market_orders")] == [False, True, True]
    row = one(shop, "market_deliveries", task_id="1")
    assert (row["order_status"], row["order_total"]) == ("COMPLETED", None)


def test_averages_are_half_up_to_the_cent(shop: Shop) -> None:
    """In decimals, and away from nothing where money goes back."""
    lines = [
        line(Order_ID=str(user * 10 + n), Customer_ID=str(user), Order_Total=amount)
        for user, amounts in {
            1: ("0.01", "0.02"),
            2: ("-0.01", "-0.02"),
            3: ("9999999999999.99", "9999999999999.98"),
            4: ("10.00", "0.00", "0.00"),
        }.items()
        for n, amount in enumerate(amounts)
    ]
    drop_orders(shop, "market1/orders.csv", *lines)
    shop.run()
    found = {row["user_id"]: row["avg_order_value"] for row in mart(shop, "market_user_totals")}
    told = {1: "0.02", 2: "-0.02", 3: "9999999999999.99", 4: "3.33"}
    assert found == {user: Decimal(amount) for user, amount in told.items()}


def test_hours_to_deliver_are_those_between_two_times(shop: Shop) -> None:
    """An order that lacks one of them says nothing of it."""
    late = line(Order_ID="2", Delivery_Time="2024-03-01T12:30:00.360Z")
    drop_orders(shop, "market1/orders.csv", ORDER, late, line(Order_ID="3", Delivery_Time="-"))
    drop_orders(shop, "market2/orders.csv", line(Delivery_Time="-"))
    shop.run()
    assert totals(shop)["avg_hours_to_deliver"] == Decimal("1.7501")  # half of 1 h and 2.5001 h
    assert totals(shop, "market2")["avg_hours_to_deliver"] is None


def test_users_and_tasks_told_again_are_replaced(shop: Shop) -> None:
    """The newest file tells what a user and a task are; the others stay."""
    drop_users(shop, "market1/users_1.json", USER, {**USER, "Customer ID": 8})
    shop.drop("market1/deliveries_1.csv", as_csv([task("1", "1"), task("2", "1")]))
    shop.run()
    drop_users(shop, "market1/users_2.json", {**USER, "Language": "sw"})
    shop.drop("market1/deliveries_2.csv", as_csv([task("1", "1", Task_Status="FAILED")]))
    shop.run()
    languages = [(row["user_id"], row["language"]) for row in mart(shop, "market_users")]
    assert languages == [(7, "sw"), (8, "en")]
    statuses = [row["task_status"] for row in mart(shop, "market_deliveries")]
    assert statuses == ["FAILED", "COMPLETED"]


def test_of_two_rows_of_a_user_all_marts_show_the_same(shop: Shop) -> None:
    """One file may tell a user twice: the order of all values decides, in each mart the same."""
    other = {**USER, "Outstanding Amount": 1, "Loyalty Points": 5}
    drop_users(shop, "market1/users_1.json", {**USER, "Outstanding Amount": 2}, other)
    drop_orders(shop, "market1/orders_1.csv", ORDER)
    shop.drop("market1/deliveries_1.csv", as_csv([task("1", "1")]))
    shop.run()
    (user,), (shown,) = mart(shop, "market_users"), mart(shop, "market_deliveries")
    assert (user["loyalty_points"], shown["user_loyalty_points"]) == (5, 5)


@pytest.mark.every_backend
def test_every_mart_is_in_the_database_under_its_key(shop: Shop) -> None:
    """Keys that differ by case or are unknown are keys of their own, and none is empty."""
    lines = [
        line(Order_ID=str(n), Category_Name=name, Payment_Method=name, Currency_Symbol="₦")
        for n, name in enumerate(("Food", "food", "Food ", "", "Café", "Cafe"))
    ]
    nobody = line(Order_ID="9", Customer_ID="-", Merchant_ID="-", Currency_Symbol="₦")
    drop_orders(shop, "market2/orders.csv", *lines, nobody)
    drop_users(shop, "market2/users.json", USER)
    shop.drop("market2/deliveries.csv", as_csv([task("1", "YR-9,0"), task("2", "-")]))
    shop.run()
    for name in MARTS:
        keys = mart(shop, name)
        assert shop.published(name, "count(*)") == [(len(keys),)]
    assert shop.published("market_payment_metrics", "payment_method, orders") == [
        ("Cafe", 1),
        ("Café", 1),
        ("Cash", 1),
        ("Food", 2),
        ("food", 1),
        ("unknown", 1),
    ]
    assert shop.published("market_user_totals", "_user, orders") == [("7", 6), ("unknown", 1)]
    shop.run(AS_OF + timedelta(days=1))
