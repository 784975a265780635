"""A server whose own disk is full is told as such, and the next run goes on once there is room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from retailmart.template import write_project
from tests.support.backends import MySQLBackend, PostgresBackend, shop_tables
from tests.support.disks import fill, mounted
from tests.support.services.mariadb import MariaDB
from tests.support.services.postgres import Postgres
from tests.support.shop import Called, Shop, keep_only, sale

pytestmark = pytest.mark.long
_MART = "customer_monthly_purchase"
_SALES = 60_000
_PRICE = "10.00"


@dataclass(frozen=True)
class Served:
    """A shop, and the server it stands on, whose data are on a small disk."""

    shop: Shop
    server: MariaDB | Postgres
    disk: Path


@pytest.fixture(params=["mysql", "postgres"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A server on a disk of 400 MB, and the shop's folder elsewhere."""
    folder = tmp_path / "shop"
    # A server's account may not enter the tests' folder.
    with TemporaryDirectory(prefix="retailmart-disk-") as name, mounted(Path(name), "size=400M"):
        disk = Path(name)
        disk.chmod(0o755)
        server = MariaDB(disk / "server") if request.param == "mysql" else Postgres(folder=disk)
        try:
            yield Served(_shop(folder, server), server, disk)
        finally:
            server.close()


def _shop(folder: Path, server: MariaDB | Postgres) -> Shop:
    server.ensure()
    backend: MySQLBackend | PostgresBackend
    if isinstance(server, MariaDB):
        backend = MySQLBackend(folder, server.database(), server.database())
    else:
        backend = PostgresBackend(folder, server.database(), server.database())
    write_project(folder, sample=False, stories=("tills",))
    keep_only(folder, marts=(_MART,))
    backend.settle(folder)
    backend.execute_in_shop(*shop_tables())
    return Shop(folder, backend)


@pytest.mark.parametrize("left", [0, 1 << 20, 4 << 20])
def test_a_full_disk_of_the_server_is_told(served: Served, called: Called, left: int) -> None:
    """In the ledger, in a table or in a log of the server, which may end by it: nothing is lost."""
    shop = served.shop
    shop.sales("sales_a.csv", [sale(total=_PRICE)])
    shop.run()
    filler = fill(served.disk, leave=left)
    shop.sales("sales_b.csv", [sale(customer=number, total=_PRICE) for number in range(_SALES)])
    done = called(shop.folder, "run", "--as-of", "2024-04-01")
    assert done.returncode == 1, done.stderr
    cure = "Make room where the database" if served.server.running else "the database is up"
    assert cure in done.stderr
    assert ".sql:" not in done.stderr
    filler.unlink()
    served.server.ensure()
    done = called(shop.folder, "run", "--as-of", "2024-04-01")
    assert done.returncode == 0, done.stderr
    ((total,),) = shop.backend.query(f"SELECT sum(monthly_total) FROM {_MART}")
    assert Decimal(str(total)) == (_SALES + 1) * Decimal(_PRICE)
