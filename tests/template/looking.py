"""How the tests of the webshop's and the markets' marts look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.judge_shop import KEYS, Marts, Row, same
from tests.support.shop import Shop


def mart(shop: Shop, name: str) -> list[Row]:
    """A mart's rows by the names of its columns, in the order of its key."""
    relation = shop.open().mart(name)
    rows = relation.order(", ".join(KEYS[name])).fetchall()
    return [dict(zip(relation.columns, row, strict=True)) for row in rows]


def one(shop: Shop, name: str, **key: Any) -> Row:
    """The only row of a mart with these values."""
    [row] = [r for r in mart(shop, name) if all(r[k] == value for k, value in key.items())]
    return row


def differences(shop: Shop, expected: Marts) -> list[str]:
    """Where marts differ from what the judge made of the same tables and files."""
    return [
        words
        for name, rows in expected.items()
        for words in differences_in(name, mart(shop, name), rows)
    ]


def differences_in(name: str, rows: Sequence[Row], expected: Sequence[Row]) -> list[str]:
    """Where a mart's rows differ from the judge's."""
    found = {_key(name, row): row for row in rows}
    wanted = {_key(name, row): row for row in expected}
    assert len(wanted) == len(expected), f"the judge gives a key of {name} twice"
    told = [f"{name}: {key} is missing" for key in wanted.keys() - found.keys()]
    told += [f"{name}: {key} is too many" for key in found.keys() - wanted.keys()]
    if len(rows) != len(found):
        told.append(f"{name}: {len(rows) - len(found)} rows are there twice")
    return told + [
        f"{name} {key} {column}: {found[key][column]!r}, judge {value!r}"
        for key in wanted.keys() & found.keys()
        for column, value in wanted[key].items()
        if not same(found[key][column], value)
    ]


def _key(name: str, row: Row) -> tuple[Any, ...]:
    return tuple(row[column] for column in KEYS[name])
