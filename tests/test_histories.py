"""Random histories against a judge: any deliveries, table changes and undone runs end as judged."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path

import pytest

from retailmart.template import STORIES
from tests.support.amount import SEED, tries
from tests.support.backends import on_mariadb
from tests.support.histories import Life, OneProject
from tests.support.shop import Shop

_STEPS = 6


@pytest.fixture
def stories() -> Collection[str]:
    """All that a project can begin with."""
    return tuple(STORIES)


@pytest.fixture
def lived(shop: Shop, request: pytest.FixtureRequest, on_server: bool) -> OneProject:
    """A shop whose ledger and published tables are in SQLite, or in MariaDB."""
    if not on_server:
        return OneProject(shop.folder, shop.stands_on)
    backend = on_mariadb(shop.folder, request.getfixturevalue("database"))
    return OneProject(shop.folder, backend)


# On SQLite, there with kills, on MariaDB, there with kills, and so on.
@pytest.mark.parametrize(
    ("number", "kills", "on_server"),
    [(number, number % 2 == 1, number % 4 >= 2) for number in range(tries(2, 500))],
)
def test_any_history_ends_as_judged(
    lived: OneProject, tmp_path: Path, number: int, kills: bool
) -> None:
    """After each step all marts are the judge's, after undoing the newest run all is as before."""
    seed = SEED * 20240401 + number
    folder = tmp_path / "model"
    folder.mkdir()
    life = Life(lived, random.Random(seed), folder, kills=kills)
    life.begin(seed)
    for _ in range(_STEPS):
        life.goes_on()
