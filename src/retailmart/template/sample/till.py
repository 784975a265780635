"""The sample's tills: dimension tables of the shop's database and three months of till files.

Six stores with five salespeople each, 60 products, 400 customers and some 8,000 sales of January
to March 2024, one file a week. As in a real shop, not everything is clean:

- Spelling: from 4 March on the tills add `payment_mode`; one week is gzipped, one is from
  Windows (BOM, CRLF), one has its columns in another order, padded and in other case.
- Three rows cannot be read: no customer_id, the price `1.234,50`, the date 31 February.
- Five customers are too new for the customer table; one total is a cent off (a warning).
- Some 2 % of the sales are returned; equal rows in one file are two real sales.
- One file was downloaded twice (`… (1).csv`); one lacks total_cost; `stocklist.xlsx` and
  `notes.csv` are not sales at all.

Every seventh customer buys less each month, and two people of one store share February's lead.
No Indian phone number begins with 00000.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import accumulate

_CENT = Decimal("0.01")
_WEEKS = [date(2024, 1, 1) + timedelta(weeks=week) for week in range(13)]
_LAST_DAY = date(2024, 3, 31)
_GZIPPED, _PADDED, _FROM_WINDOWS = date(2024, 1, 29), date(2024, 2, 19), date(2024, 3, 11)
_DOWNLOADED_TWICE, _TWINS, _CENT_OFF = date(2024, 2, 12), date(2024, 3, 4), date(2024, 3, 18)
_PAYMENT_MODE_SINCE = date(2024, 3, 4)
_TIE_WEEK, _TIE_STORE = date(2024, 2, 5), 123
_MISTYPED: Mapping[date, Mapping[str, object]] = {
    date(2024, 1, 1): {"customer_id": ""},
    date(2024, 1, 22): {"price": "1.234,50", "quantity": 1, "total_cost": "1234.50"},
    date(2024, 2, 26): {"sales_date": "2024-02-31"},
}
_HEADER = "customer_id,store_id,product_name,sales_date,sales_person_id,price,quantity,total_cost"

_STORES = {
    121: ("12 MG Road", "Bengaluru", "560001", "4.4 of 5, quick billing"),
    122: ("208 Anna Salai", "Chennai", "600002", "4.1 of 5, good parking"),
    123: ("45 FC Road", "Pune", "411004", "4.6 of 5, friendly staff"),
    124: ("7 Park Street", "Kolkata", "700016", "3.9 of 5, crowded on Sundays"),
    125: ("31 Hazratganj", "Lucknow", "226001", "4.2 of 5, fresh vegetables"),
    126: ("90 MI Road", "Jaipur", "302001", None),
}
_OPENED = date(2019, 4, 1)
_CUSTOMERS = range(1001, 1401)
_VISITS = {  # how often each customer visits in a month, cumulative for random.choices
    month: list(accumulate(fading if customer % 7 == 0 else 3 for customer in _CUSTOMERS))
    for month, fading in {1: 9, 2: 4, 3: 1}.items()
}
_FIRST_NAMES = """Aarav Aditi Ajay Ananya Anil Arjun Asha Bhavna Deepak Divya Farhan Geeta Harish
Imran Isha Kavita Kiran Lakshmi Manish Meera Neha Pooja Priya Rohan Sanjay Shabana Suresh Tara"""
_LAST_NAMES = """Agarwal Banerjee Bhat Das Desai Fernandes Ghosh Gupta Iyer Jain Joshi Khan Kulkarni
Kumar Mehta Menon Mishra Naidu Nair Patel Pillai Rao Reddy Shah Sharma Siddiqui Singh Verma"""
_STREETS = "Gandhi Nagar|Nehru Street|Lake View Colony|Temple Road|Station Road|Ashok Nagar"

_GIFT_CARD = "Gift card, any amount"
_FOOD = """Basmati rice, 5 kg=649|Sona masoori rice, 10 kg=725|Toor dal 1 kg=168|Moong dal 1 kg=139
Chana dal 1 kg=98.50|Wheat flour 10 kg=465|Besan 500 g=62|Poha 500 g=38|Sooji 1 kg=54
Sugar 1 kg=46.50|Jaggery block 900 g=85|Iodised salt 1 kg=28|Mustard oil 1 l=182
Sunflower oil 5 l=790|Cow ghee 500 ml=345|Turmeric powder 200 g=58|Red chilli powder 200 g=92
Garam masala 100 g=84.50|Cumin seeds 200 g=118|Mango pickle 400 g=129|Tamarind 200 g=64
Papad, pack of 20=75|Assam tea 500 g=265|Filter coffee 200 g=178|Glucose biscuits 800 g=80
Bhujia 400 g=110|Masala noodles, pack of 12=168|Paneer 200 g=89|Curd 400 g=35|Toned milk 1 l=56
Butter 500 g=275|Cashews 250 g=289.75|Almonds 500 g=449|Honey 500 g=215|Fruit jam 500 g=159"""
_HOUSEHOLD = """"Shanti" agarbatti, 100 sticks=65|Steel tadka pan, 6"=349|Roti tawa, 11"=599
Pressure cooker 5 l=1849|Steel tiffin, 3 tiers=699|Water bottle 1 l=249|Detergent 4 kg=499
Dishwash bar, pack of 3=45|Floor cleaner 1 l=189|Phenyl 1 l=99|Coconut hair oil 500 ml=235
Sandal soap, pack of 4=172|Neem toothpaste 200 g=104|Shampoo 340 ml=299.50|Cotton towel=279
Bed sheet "Jaipur", double=899|LED bulb 9 W=119|Candles, box of 12=60|Notebook, 200 pages=72
Ball pens, pack of 10=95|Umbrella 23"=389|Jute bag=149|Mosquito coil=38.50|Hair comb=25
Gift card, any amount=500"""

SCHEMA = """
CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    address TEXT, pincode TEXT, phone_number TEXT, customer_joining_date DATE);
CREATE TABLE store (id INTEGER PRIMARY KEY, address TEXT, store_pincode TEXT,
    store_manager_name TEXT, store_opening_date DATE, reviews TEXT);
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, current_price DECIMAL(12,2),
    old_price DECIMAL(12,2), created_date DATE, updated_date DATE, expiry_date DATE);
CREATE TABLE sales_team (id INTEGER PRIMARY KEY, first_name TEXT, last_name TEXT,
    manager_id INTEGER, is_manager CHAR(1), address TEXT, pincode TEXT, joining_date DATE);
"""
_Row = tuple[int | str | None, ...]


@dataclass(frozen=True)
class _Product:
    """An article; before `updated_date` its price was `old_price`. Prices in rupees."""

    id: int
    name: str
    current_price: Decimal
    old_price: Decimal
    created_date: date
    updated_date: date
    expiry_date: date | None


@dataclass(frozen=True)
class _Sale:
    """A line of a till receipt; a negative quantity is a return."""

    customer_id: int
    store_id: int
    product_name: str
    sales_date: date
    sales_person_id: int
    price: Decimal
    quantity: int
    payment_mode: str

    @property
    def total_cost(self) -> Decimal:
        return self.price * self.quantity

    def record(self, written_otherwise: Mapping[str, object] | None = None) -> dict[str, str]:
        """The line as the till writes it, by column name."""
        values = {**vars(self), "total_cost": self.total_cost, **(written_otherwise or {})}
        return {name: str(value) for name, value in values.items()}


def make(rng: random.Random) -> tuple[dict[str, list[_Row]], dict[str, bytes]]:
    """The rows of each table, and the content of each file below landing."""
    products = _products(rng)
    return _tables(rng, products), _landing_files(rng, products)


def _products(rng: random.Random) -> list[_Product]:
    products = []
    for number, entry in enumerate(f"{_FOOD}|{_HOUSEHOLD}".replace("\n", "|").split("|"), start=1):
        name, _, amount = entry.partition("=")
        price = Decimal(amount).quantize(_CENT)
        old_price = (price * Decimal("0.95")).quantize(_CENT, ROUND_HALF_UP)
        updated = date(2023, 9, 1) + timedelta(rng.randrange(180))
        expiry = date(2024, 4, 20) + timedelta(rng.randrange(400)) if entry in _FOOD else None
        products.append(_Product(number, name, price, old_price, _OPENED, updated, expiry))
    return products


def _tables(rng: random.Random, products: Iterable[_Product]) -> dict[str, list[_Row]]:
    """The rows of each table of the database."""
    team = [_seller(rng, store, seller) for store in _STORES for seller in _team_of(store)]
    names = {seller: f"{first} {last}" for seller, first, last, *_ in team}
    return {
        "customer": [_customer(rng, customer) for customer in _CUSTOMERS],
        "store": [
            (store, f"{street}, {city}", pincode, names[_team_of(store)[0]], str(_OPENED), reviews)
            for store, (street, city, pincode, reviews) in _STORES.items()
        ],
        "product": [
            tuple(None if value is None else str(value) for value in vars(product).values())
            for product in products
        ],
        "sales_team": team,
    }


def _customer(rng: random.Random, customer: int) -> _Row:
    first, last, address, pincode, joined = _person(rng, _home_store(customer))
    phone = f"+91 00000 {rng.randrange(100_000):05}"
    return customer, first, last, address, pincode, phone, joined


def _seller(rng: random.Random, store: int, seller: int) -> _Row:
    first, last, address, pincode, joined = _person(rng, store)
    manager = _team_of(store)[0]
    role = (None, "Y") if seller == manager else (manager, "N")
    return seller, first, last, *role, address, pincode, joined


def _person(rng: random.Random, store: int) -> tuple[str, str, str, str, str]:
    """First and last name, address and pincode in the store's city, joining date."""
    _, city, pincode, _ = _STORES[store]
    first, last = rng.choice(_FIRST_NAMES.split()), rng.choice(_LAST_NAMES.split())
    address = f"{rng.randrange(1, 250)}, {rng.choice(_STREETS.split('|'))}, {city}"
    joined = date(2019, 6, 1) + timedelta(rng.randrange(1600))
    return first, last, address, f"{pincode[:4]}{rng.randrange(1, 90):02}", str(joined)


def _home_store(customer: int) -> int:
    return list(_STORES)[customer % len(_STORES)]


def _team_of(store: int) -> range:
    """The ids of a store's five salespeople; the first one is its manager."""
    first = 1 + 5 * list(_STORES).index(store)
    return range(first, first + 5)


def _week(rng: random.Random, products: Sequence[_Product], monday: date) -> list[_Sale]:
    """A week's sales, and its returns on Sunday."""
    days = rng.choices(range(7), weights=(8, 8, 8, 9, 11, 16, 14), k=rng.randrange(235, 270))
    sales = [s for day in days for s in _receipt(rng, products, monday + timedelta(day))]
    sunday = monday + timedelta(6)
    returned = [sale for sale in sales if rng.random() < 0.02]
    return sales + [replace(s, quantity=-s.quantity, sales_date=sunday) for s in returned]


def _receipt(rng: random.Random, products: Sequence[_Product], day: date) -> list[_Sale]:
    """One visit: one to four articles."""
    [customer] = rng.choices(_CUSTOMERS, cum_weights=_VISITS[day.month])
    store = _home_store(customer) if rng.random() < 0.92 else rng.choice(list(_STORES))
    [seller] = rng.choices(_team_of(store), weights=(2, 5, 5, 4, 4))
    mode = rng.choice(("UPI", "UPI", "cash", "card"))
    sales = []
    for product in rng.sample(products, rng.choice((1, 2, 2, 3, 4))):
        price = product.current_price if day >= product.updated_date else product.old_price
        pieces = rng.choice((1, 1, 2, 3))
        sales.append(_Sale(customer, store, product.name, day, seller, price, pieces, mode))
    return sales


def _landing_files(rng: random.Random, products: Sequence[_Product]) -> dict[str, bytes]:
    """The content of each file, by name."""
    weeks = {monday: _week(rng, products, monday) for monday in _WEEKS}
    _add_oddities(weeks)
    files = dict(_week_file(monday, sales) for monday, sales in weeks.items())
    files[f"sales_{_DOWNLOADED_TWICE} (1).csv"] = files[f"sales_{_DOWNLOADED_TWICE}.csv"]
    old_till = [sale.record() for _ in range(12) for sale in _receipt(rng, products, _LAST_DAY)]
    files[f"sales_{_LAST_DAY}_till_9.csv"] = _csv(_HEADER.removesuffix(",total_cost"), old_till)
    files["stocklist.xlsx"] = b"PK\x05\x06" + bytes(18)  # an empty zip archive, as short as any
    files["notes.csv"] = b"day,note\n2024-01-12,Till 2 jams\n2024-02-03,Ask Pune for bags\n"
    return files


def _add_oddities(weeks: dict[date, list[_Sale]]) -> None:
    """Add unusual but real events: unknown customers, a shared lead, two equal sales."""
    for number, monday in enumerate(_WEEKS[::3]):
        newcomer = _CUSTOMERS.stop + number
        weeks[monday][0] = replace(weeks[monday][0], customer_id=newcomer)
    weeks[_TIE_WEEK].append(_tying_sale([sale for sales in weeks.values() for sale in sales]))
    weeks[_TWINS].append(weeks[_TWINS][1])


def _tying_sale(sales: Iterable[_Sale]) -> _Sale:
    """The gift card sale that brings the month's second seller level with the first."""
    totals: dict[int, Decimal] = defaultdict(Decimal)
    for sale in sales:
        if sale.store_id == _TIE_STORE and sale.sales_date.month == _TIE_WEEK.month:
            totals[sale.sales_person_id] += sale.total_cost
    second, first = sorted(totals, key=lambda seller: totals[seller])[-2:]
    gap = totals[first] - totals[second]
    customer = next(c for c in _CUSTOMERS if _home_store(c) == _TIE_STORE)
    return _Sale(customer, _TIE_STORE, _GIFT_CARD, _TIE_WEEK, second, gap, 1, "card")


def _week_file(monday: date, sales: Iterable[_Sale]) -> tuple[str, bytes]:
    """The name and bytes of a week's export, in the spelling of that week."""
    name = f"sales_{monday}.csv"
    header = _HEADER
    if monday == _PADDED:
        header = ",".join(f" {column.title()} " for column in reversed(header.split(",")))
    if monday >= _PAYMENT_MODE_SINCE:
        header += ",payment_mode"
    content = _csv(header, _records(monday, sorted(sales, key=lambda sale: sale.sales_date)))
    if monday == _FROM_WINDOWS:
        content = b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
    if monday == _GZIPPED:
        return f"{name}.gz", gzip.compress(content, mtime=0)
    return name, content


def _records(monday: date, sales: Sequence[_Sale]) -> list[dict[str, str]]:
    """A week's lines. A mistyped line is added to them, so that the tie holds without it."""
    records = [sale.record() for sale in sales]
    if monday == _CENT_OFF:
        records[7] = sales[7].record({"total_cost": sales[7].total_cost + _CENT})
    if monday in _MISTYPED:
        records.insert(40, sales[40].record(_MISTYPED[monday]))
    return records


def _csv(header: str, records: Iterable[Mapping[str, str]]) -> bytes:
    """CSV with the columns that the header names, in its spelling."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.split(","))
    columns = [name.strip().lower() for name in header.split(",")]
    writer.writerows([record[column] for column in columns] for record in records)
    return text.getvalue().encode()
