"""Random histories against a judge: any deliveries, table changes and undone runs end as judged."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from retailmart.template import STORIES
from tests.support.amount import SEED, tries
from tests.support.backends import on_mariadb
from tests.support.histories import Life, OneProject
from tests.support.killed import Killer
from tests.support.shop import Shop, all_marts, sale

# In how many ways each event happens: a shop's histories share the first three.
_WAYS = (1, 1, 1, *(tries(2, 3),) * tries(1, 3))
_OF_A_SHOP = tries(2, 27)
_SHOPS = tries(2, 19)


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    """A process whose children are killed."""
    killer = Killer()
    yield killer
    killer.close()


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
@all_marts
@pytest.mark.parametrize(
    ("number", "kills", "on_server"),
    [(number, number % 2 == 1, number % 4 >= 2) for number in range(_SHOPS)],
)
def test_any_history_ends_as_judged(
    lived: OneProject, tmp_path: Path, killer: Killer, number: int, kills: bool
) -> None:
    """After each event all marts are the judge's, after undoing the newest run all is as before."""
    seed = SEED * 20240401 + number
    folder = tmp_path / "model"
    folder.mkdir()
    life = Life(lived, random.Random(seed), folder, killer if kills else None)
    life.begin(seed)
    assert life.goes_on(_WAYS) == _OF_A_SHOP


def test_a_killed_command_ends_where_its_time_is_up(shop: Shop, killer: Killer) -> None:
    """It leaves its lease behind, as what SIGKILL ends; with time enough, it is done."""
    shop.sales("sales_1.csv", [sale()])
    command = ["run", "--project", str(shop.folder)]
    assert killer.runs(command, 0.3)
    assert not killer.runs(command, 60)
