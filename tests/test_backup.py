"""The page on backup: what is restored elsewhere is right, and goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from retailmart.template import write_project
from tests.support.backends import Backend, PostgresBackend, RemoteBackend, shop_tables
from tests.support.pages import blocks
from tests.support.services.debian import install
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.postgres import Postgres
from tests.support.services.s3 import S3Server
from tests.support.shop import AS_OF, Called, Shop, all_marts, keep_only, sale

_PAGE = "docs/backup.md"
_MART = "customer_monthly_purchase"


@all_marts
def test_the_page_followed_word_for_word(shop: Shop, called: Called, tmp_path: Path) -> None:
    """Copied with its links, restored elsewhere, checked; each file counts once."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    save, restore = (block.splitlines() for block in blocks(_PAGE, "sh")[:2])
    follow(called, save, shop.folder)
    shop.sales("sales_b.csv", [sale(3)])
    shop.run()  # what comes later is not in the backup
    restored = tmp_path / "restored"
    follow(called, restore, shop.folder, restored)
    again = Shop(restored)
    assert len(again.mart("sales_mart")) == 2
    latest = restored / "lake" / "business_insights" / "latest" / "sales_mart"
    assert latest.is_symlink()
    assert latest.resolve().is_relative_to(restored)
    files = (restored / "lake" / "business_insights").rglob("part-*.parquet")
    assert any(path.stat().st_nlink > 1 for path in files)
    again.sales("sales_a.csv", [sale(), sale(2)])
    again.sales("sales_b.csv", [sale(3)])
    report = again.run(AS_OF)
    assert (report.count("duplicate"), report.count("loaded")) == (1, 1)
    assert len(again.mart("sales_mart")) == 3


@pytest.mark.long
def test_a_server_and_a_bucket(
    tmp_path: Path, called: Called, mariadb: DatabaseServer, s3: S3Server
) -> None:
    """Dumped and copied, destroyed, restored: what the backup has counts once.

    The programs read and write with their own eyes: rclone and MariaDB's.
    """
    assert install("rclone", lambda: shutil.which("rclone") is not None) is None
    bucket, database = s3.look(s3.bucket()), mariadb.database()
    shop = written(RemoteBackend(bucket, database, mariadb.database()), tmp_path)
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    client = {"host": database.host, "port": database.port, "user": database.user}
    client |= {"password": database.password, "ssl-verify-server-cert": "0"}
    options = "".join(f"{name}={value}\n" for name, value in client.items())
    (tmp_path / "server.cnf").write_text(f"[client]\n{options}")
    names = {
        "store:retail": f"store:{bucket.name}",
        "--databases retail": f"--databases {database.name}",
    }
    save, restore = (renamed(block, names) for block in blocks(_PAGE, "sh")[2:4])
    keys = {"ACCESS_KEY_ID": s3.access_key, "SECRET_ACCESS_KEY": s3.secret_key}
    keys |= {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": s3.endpoint}
    around = {f"RCLONE_CONFIG_STORE_{name}": value for name, value in keys.items()}
    follow(called, save, shop.folder, around=around)
    shop.sales("sales_b.csv", [sale(3)])
    shop.run()
    database.execute(f"DROP TABLE {_MART}", "CREATE TABLE came_later (n INTEGER)")
    for key in bucket.keys("lake/"):
        bucket.remove(key)
    follow(called, restore, shop.folder, around=around)
    assert len(shop.mart(_MART)) == 2
    assert database.query("SHOW TABLES LIKE 'came%'") == []
    expect_the_next_day(shop)


@pytest.mark.long
def test_postgresql_is_dumped_and_restored(
    tmp_path: Path, called: Called, postgres: Postgres
) -> None:
    """By its own programs, with the folder copied as the page says for one machine."""
    database = postgres.database()
    shop = written(PostgresBackend(tmp_path / "shop", database, postgres.database()), tmp_path)
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    (dump,) = re.findall("`(pg_dump .*?)`", Path(_PAGE).read_text(encoding="utf-8"))
    around = postgres.environment
    follow(called, [dump.replace(" retail", f" {database.name}")], shop.folder, around=around)
    follow(called, ["cp -a ./ ../backup/"], shop.folder)
    shop.sales("sales_b.csv", [sale(3)])
    shop.run()
    database.execute(f"DROP TABLE {_MART}")
    shutil.rmtree(shop.folder)
    follow(called, ["cp -a ./ ../shop/"], tmp_path / "backup")
    follow(called, blocks(_PAGE, "sh")[4].splitlines(), shop.folder, around=around)
    follow(called, ["retailmart verify --database"], shop.folder)
    expect_the_next_day(shop)


def written(backend: Backend, folder: Path) -> Shop:
    """A new project on this backend, with the one mart that is looked at."""
    write_project(folder / "shop", sample=False, stories=("tills",))
    keep_only(folder / "shop", marts=(_MART,))
    backend.settle(folder / "shop")
    backend.execute_in_shop(*shop_tables())
    return Shop(folder / "shop", backend)


def renamed(block: str, names: Mapping[str, str]) -> list[str]:
    """A block's lines with this test's names of the database and the bucket."""
    for known, ours in names.items():
        block = block.replace(known, ours)
    return block.splitlines()


def expect_the_next_day(shop: Shop) -> None:
    """What came after the backup is delivered again, and so is what it has."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.sales("sales_b.csv", [sale(3)])
    report = shop.run(AS_OF)
    assert (report.count("duplicate"), report.count("loaded")) == (1, 1)
    assert len(shop.mart(_MART)) == 3
    assert len(shop.published(_MART, "customer_id")) == 3


def follow(
    called: Called,
    lines: list[str],
    folder: Path,
    then: Path | None = None,
    around: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run the lines of a block; those of retailmart in `then`, if it is there."""
    for line in lines:
        words = line.split()
        if words[0] == "retailmart":
            done = called(then or folder, *words[1:])
            assert done.returncode == 0, f"{line}: {done.stderr}"
            continue
        is_lacking = words[0] == "rsync" and shutil.which("rsync") is None
        command = ["sh", "-ec", "cp -a ./ ../backup/" if is_lacking else line]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        subprocess.run(command, cwd=folder, check=True, env={**ours, **around})


def test_the_page_names_both_kinds_of_links() -> None:
    """A copy without them holds exports many times over."""
    text = " ".join(blocks(_PAGE, "sh"))
    assert "rsync -aH" in text
