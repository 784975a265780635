"""What was delivered to the projects that earlier versions made, and what is delivered to them now.

Plain data: `make.py` gives it to an earlier version, and the tests to the judges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_HEADER = "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost"
_ORDERS = (
    "Order ID,Order Status,Category Name,SKU,Quantity,Unit Price,Total Price,Order Total,Sub Total,"
    "Payment Method,Currency Symbol,Customer ID,Merchant ID,Distance (in km),Order Time,Pickup Time"
    ",Delivery Time"
)


def _sales(*rows: str, header: str = _HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def _orders(*orders: tuple[int, str, str, str, int, str]) -> str:
    """Two lines an order: number, status, total, payment method, user, day."""
    lines = [
        f"{number},{status},{category},S{line},{line},{line}.25,{line * line}.50,{total},{total},"
        f"{paid},KSh,{user},5,1.5,{day}T10:00:00Z,-,{day}T1{line}:30:00Z"
        for number, status, total, paid, user, day in orders
        for line, category in ((1, "Food"), (2, "Drinks"))
    ]
    return "\n".join([_ORDERS, *lines]) + "\n"


def _users(*users: tuple[int, int]) -> str:
    return json.dumps(
        [{"Customer ID": number, "Loyalty Points": points} for number, points in users]
    )


def _tasks(*tasks: tuple[str, int, int]) -> str:
    lines = [f"{task},YR-{order},PICKUP,{rating}" for task, order, rating in tasks]
    return "\n".join(["Task_ID,Order_ID,Task_Type,Rating", *lines]) + "\n"


SALES: Mapping[str, str] = {
    "a1": _sales(
        "1,1,tea,2024-01-15,1,10.00,1,10.00",
        "1,1,tea,2024-01-15,1,10.00,1,10.00",
        "2,2,rice,2024-01-31,3,7.35,3,22.05",
        "3,1,tea,2024-02-01,2,10.00,-1,-10.00",
        ",1,tea,2024-02-02,1,10.00,1,10.00",
        "77,1,salt,2024-02-29,2,0.05,1,0.05",
    ),
    "a2": _sales("1,1,tea,2024-01-15,1,12.00,1,12.00", "5,2,tea,2024-02-15,4,12.00,1,12.00"),
    "b1": _sales("4,2,rice,2024-01-20,4,7.35,2,14.70", "5,1,oil,2024-02-20,1,30.00,1,30.01"),
    "b2": _sales("4,2,rice,2024-01-20,4,7.35,3,22.05", "5,1,oil,2024-02-20,1,30.00,1,30.00"),
    "c": _sales("6,1,oil,2024-02-03,2,30.00,1,30.00,UPI", header=f"{_HEADER},payment_mode"),
    "d": _sales(
        "6,2,oil,2024-02-05,3,30.00,2,60.00,UPI",
        '10,1,"tea, green",2024-03-01,1,12.50,1,12.50,cash',
        "7,1,tea,2024-03-32,1,12.50,1,12.50,card",
        "8,9,tea,2024-03-08,44,12.50,1,12.50,",
        header=f"{_HEADER},payment_mode",
    ),
    "repaired": _sales("7,1,tea,2024-03-02,1,12.50,1,12.50,card", header=f"{_HEADER},payment_mode"),
    "e": _sales("2,2,rice,2024-03-09,3,7.35,1,7.35", "9,1,oil,2024-03-11,2,29.99,1,29.99"),
    # After the upgrade.
    "f": _sales("3,1,oil,2024-02-28,1,30.00,1,30.00", "1,2,rice,2024-03-12,4,7.35,10,73.50"),
    "mended": _sales("4,1,tea,2024-02-02,1,10.00,1,10.00"),
}
MARKETS: Mapping[str, str] = {
    "market1/orders_a.csv": _orders(
        (1, "COMPLETED", "20.50", "Card", 1, "2024-01-02"),
        (2, "CANCELLED", "10.00", "Cash", 2, "2024-01-03"),
        (3, "ORDERED", "0.05", "Cash", 2, "2024-02-03"),
    ),
    "market1/users.json": _users((1, 12), (2, 7)),
    "market1/deliveries_a.csv": _tasks(("t1", 1, 5), ("t2", 1, 3), ("t3", 99, 4)),
    "market2/orders_a.csv": _orders((1, "COMPLETED", "33.35", "Cash", 9, "2024-03-01")),
    # Order 3 of market 1 comes again: the newest file wins.
    "market1/orders_b.csv": _orders(
        (3, "COMPLETED", "9.99", "Card", 2, "2024-02-03"),
        (4, "COMPLETED", "5.00", "Card", 1, "2024-03-04"),
    ),
    # After the upgrade.
    "market1/orders_c.csv": _orders((4, "CANCELLED", "5.00", "Card", 1, "2024-03-04")),
}

# The shop's own tables: tills and webshop.
TABLES = """
CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    address TEXT, pincode TEXT, phone_number TEXT, customer_joining_date DATE);
CREATE TABLE store (id INTEGER PRIMARY KEY, address TEXT, store_pincode TEXT,
    store_manager_name TEXT, store_opening_date DATE, reviews TEXT);
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, current_price DECIMAL(12,2),
    old_price DECIMAL(12,2), created_date DATE, updated_date DATE, expiry_date DATE);
CREATE TABLE sales_team (id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    manager_id INTEGER, is_manager CHAR(1), address TEXT, pincode TEXT, joining_date DATE);
CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    email TEXT, created_at DATETIME);
CREATE TABLE products (product_id INTEGER PRIMARY KEY, name TEXT, description TEXT,
    price DECIMAL(12,2), stock_quantity INTEGER, created_at DATETIME);
CREATE TABLE orders (order_id INTEGER PRIMARY KEY, customer_id INTEGER, order_date DATETIME,
    total_amount DECIMAL(12,2), status VARCHAR(20));
CREATE TABLE order_items (item_id INTEGER PRIMARY KEY, order_id INTEGER, product_id INTEGER,
    quantity INTEGER, unit_price DECIMAL(12,2), created_at DATETIME);
CREATE TABLE inventory_locations (location_id INTEGER PRIMARY KEY, warehouse_code TEXT, city TEXT,
    country TEXT, capacity INTEGER, created_at DATETIME);
CREATE TABLE product_inventory (inventory_id INTEGER PRIMARY KEY, product_id INTEGER,
    location_id INTEGER, quantity INTEGER, last_updated DATETIME, capacity INTEGER);
INSERT INTO customer
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 9)
    SELECT n, 'First' || n, 'Last' || n, n || ' Road', '60000' || n, '90000' || n, '2020-01-01'
    FROM numbers;
INSERT INTO store VALUES (1, 'High Street', '600001', 'Meera', '2019-01-01', ''),
    (2, 'Low Street', '600002', 'Ravi', '2019-01-01', '');
INSERT INTO sales_team VALUES (1, 'Anu', 'A', 10, 'N', '1 Lane', '600001', '2020-01-01'),
    (2, 'Bala', 'B', 10, 'N', '2 Lane', '600001', '2020-01-01'),
    (3, 'Chitra', 'C', 11, 'N', '3 Lane', '600002', '2020-01-01'),
    (4, 'Dev', 'D', 11, 'Y', '4 Lane', '600002', '2020-01-01');
INSERT INTO product VALUES (1, 'tea', 12.50, 10.00, '2019-01-01', '2024-02-15', NULL);
INSERT INTO customers VALUES (1, 'Ana', 'A', '', '2023-01-01 00:00:00'),
    (2, 'Bo', 'B', '', '2023-01-01 00:00:00'), (3, 'Cy', 'C', '', '2023-01-01 00:00:00');
INSERT INTO products VALUES (1, 'cup', '', 10.00, 7, '2023-01-01 00:00:00'),
    (2, 'pot', '', 25.00, 0, '2023-01-01 00:00:00'),
    (3, 'lid', '', 3.00, NULL, '2023-01-01 00:00:00');
INSERT INTO orders VALUES (1, 1, '2024-02-01 10:15:00', 33.35, 'completed'),
    (2, 1, '2024-02-20 10:45:00', 10.00, 'shipped'), (3, 2, '2024-01-05 23:59:59', 0.01, 'shipped'),
    (4, 3, '2024-02-25 08:00:00', 99.99, ' Cancelled'), (5, NULL, NULL, 5.00, NULL);
INSERT INTO order_items VALUES (1, 1, 1, 2, 10.00, '2024-02-01 10:15:00'),
    (2, 2, 1, 1, 10.00, '2024-02-20 10:45:00'), (3, 3, 3, 3, 3.00, '2024-01-05 23:59:59');
INSERT INTO inventory_locations VALUES (1, 'W-1', 'Pune', 'India', 90, '2023-01-01 00:00:00'),
    (2, 'W-2', 'Pune', 'India', NULL, '2023-01-01 00:00:00');
INSERT INTO product_inventory VALUES (1, 1, 1, 7, '2024-02-28 12:00:00', 30),
    (2, 2, 1, 0, '2024-01-01 12:00:00', 64), (3, 3, 2, 45, '2024-02-28 12:00:00', NULL);
"""
# Before the fourth run: an order is placed, one is cancelled, goods move.
CHANGES = """
INSERT INTO orders VALUES (6, 2, '2024-03-05 10:00:00', 20.00, 'completed');
INSERT INTO order_items VALUES (4, 6, 2, 1, 20.00, '2024-03-05 10:00:00');
UPDATE orders SET status = 'cancelled' WHERE order_id = 2;
UPDATE product_inventory SET quantity = 21, last_updated = '2024-03-09 08:00:00'
    WHERE inventory_id = 1;
"""
# Before the fifth: a customer's key comes late.
LATE = "INSERT INTO customer VALUES (10, 'First10', 'Last10', 'r', '6', '9', '2020-01-01');"

# What belongs to the people of the project.
OWN: Mapping[str, str] = {
    "functions.py": (
        "import pyarrow.compute as pc\n\n\n"
        'def points(total: "DECIMAL(18,2)") -> "INT":\n'
        '    """A point for each whole unit of money."""\n'
        '    return pc.cast(pc.floor(total), "int32")\n'
    ),
    "marts/loyalty.sql": (
        "-- about: what each customer has earned\n"
        "-- refresh: full\n"
        "-- key: [customer_id]\n"
        "-- publish: loyalty_points\n"
        "SELECT customer_id, points(CAST(sum(total_cost) AS DECIMAL(18, 2))) AS points\n"
        "FROM sales\n"
        "GROUP BY customer_id\n"
    ),
    "marts/store_months.sql": (
        "-- about: what each store sold in each month\n"
        "-- refresh: months\n"
        "-- partitions: [_month]\n"
        "-- key: [_month, store_id]\n"
        "-- balance: {sales: total}\n"
        "-- publish: true\n"
        "SELECT store_id, CAST(sum(total_cost) AS DECIMAL(18, 2)) AS total, _month\n"
        "FROM sales\n"
        "GROUP BY ALL\n"
    ),
    "marts/day_visits.sql": (
        "-- about: visitors by day\n"
        "-- refresh: full\n"
        "-- key: [day]\n"
        "-- publish: true\n"
        "SELECT day, CAST(sum(visitors) AS BIGINT) AS visitors FROM visits GROUP BY day\n"
    ),
    "feeds/visits.yml": (
        'files: ["visits*.csv"]\n'
        "columns:\n"
        "  day: {type: DATE, mandatory: true}\n"
        "  visitors: {type: INT, mandatory: true}\n"
    ),
    "tables/order_items.yml": "key: [item_id]\nrefresh: incremental\ncursor: created_at\n",
}
VISITS = "day,visitors\n2024-02-01,12\n2024-02-02,many\n2024-02-03,7\n"

TILL_MARTS = (
    *("customer_mart", "sales_mart", "customer_monthly_purchase", "sales_team_incentive"),
    "declining_customers",
)
TILL_TABLES = ("customer", "store", "product", "sales_team")
# Spark's settings of the second version, which no run on one machine reads.
SPARK = "spark: {jdbc_jar: /opt/jars/driver.jar, jdbc_from: 5000, file_size: 64MB}\n"

# The runs of the project `shop`, by the files that came with each. The third undoes the second.
RUNS: Mapping[int, Mapping[str, str]] = {
    1: {
        "sales_a.csv": SALES["a1"],
        "sales_b.csv": SALES["b1"],
        **{name: MARKETS[name] for name in list(MARKETS)[:3]},
        "visits.csv": VISITS,
        "notes.txt": "Till 2 jams\n",
        "sales_short.csv": "customer_id,store_id\n1,1\n",
    },
    2: {"sales_a.csv": SALES["a2"], "sales_c.csv": SALES["c"]},
    4: {
        "sales_b.csv": SALES["b2"],
        "sales_d.csv": SALES["d"],
        "sales_d (1).csv": SALES["d"],
        "market2/orders_a.csv": MARKETS["market2/orders_a.csv"],
    },
    5: {
        "sales_e.csv": SALES["e"],
        "market1/orders_b.csv": MARKETS["market1/orders_b.csv"],
    },
}
DAYS: Mapping[int, str] = {1: "2024-03-02", 2: "2024-03-05", 4: "2024-03-10", 5: "2024-03-12"}
