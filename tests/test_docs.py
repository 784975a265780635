"""What the documentation tells people to type works as told."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

import retailmart
from retailmart.project import load_project
from retailmart.project.monitoring import ALERT_KINDS
from retailmart.template.sample import write_sample
from tests.support.alone import call_alone
from tests.support.backends import shop_tables
from tests.support.pages import ROOT, blocks, commands
from tests.support.services.listener import Listener, listening
from tests.support.services.mariadb import DatabaseServer
from tests.support.services.postgres import Postgres
from tests.support.services.s3 import S3Server
from tests.support.shop import HEADER, Shop, Typed, all_marts, sale


def test_readme_takes_a_new_user_to_marts(tmp_path: Path, typed: Typed) -> None:
    """The README's commands, in its order, and then its Python, work after the README's install."""
    lines = commands("README.md")
    assert lines[0] == "retailmart init myshop --with tills"
    assert typed(lines[0], tmp_path).returncode == 0
    write_sample(tmp_path / "myshop", ["tills"])
    for line in lines[1:]:
        done = typed(line, tmp_path / "myshop")
        assert done.returncode == 0, done.stderr
    (code,) = blocks("README.md", "python")
    done = call_alone(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows loaded" in done.stdout


def test_readme_install_lacks_the_tools_of_development(tmp_path: Path) -> None:
    """The test above sees what a user sees: an import of pandas fails there."""
    done = call_alone("import pandas", tmp_path)
    assert "ModuleNotFoundError" in done.stderr


def test_readme_shows_the_summary_as_it_is_printed(tmp_path: Path, typed: Typed) -> None:
    """Every line of the summary in the README is printed by the sample shop's first run."""
    assert typed("retailmart init shop --sample", tmp_path).returncode == 0
    command = "retailmart run --as-of 2024-04-01"
    assert command in (ROOT / "Makefile").read_text(encoding="utf-8")
    done = typed(command, tmp_path / "shop")
    (shown,) = blocks("README.md", "text")
    printed = {line.strip() for line in done.stderr.splitlines()}
    assert [
        line for line in shown.splitlines() if line.strip() and line.strip() not in printed
    ] == []


def test_commands_about_running_work(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/running.md does what it says on the sample shop, and so does Python."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    for line in commands("docs/running.md"):
        done = typed(line, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"
    (code,) = blocks("docs/running.md", "python")
    done = call_alone(code, tmp_path / "shop")
    assert done.returncode == 0, done.stderr
    assert "rows loaded" in done.stdout


def test_commands_about_maintenance_work(tmp_path: Path, typed: Typed) -> None:
    """Every command and setting of docs/maintenance.md, and its Python, on the sample shop."""
    page = "docs/maintenance.md"
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    assert typed("retailmart run --as-of 2024-04-01", tmp_path / "shop").returncode == 0
    with (tmp_path / "shop" / "retailmart.yml").open("a") as settings:
        settings.write(blocks(page, "yaml")[0])
    for line in commands(page):
        done = typed(line, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"
    (code,) = blocks(page, "python")
    done = call_alone(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bytes freed" in done.stdout


def test_the_page_about_questions_is_right(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/ask.md finds rows of the sample shop, and so does its Python."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    assert typed("retailmart run --as-of 2024-04-01", tmp_path / "shop").returncode == 0
    for line in commands("docs/ask.md"):
        done = typed(line, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert len(done.stdout.splitlines()) > 2 or '"rows": [{' in done.stdout, line
    (code,) = blocks("docs/ask.md", "python")
    done = call_alone(code, tmp_path / "shop")
    assert done.returncode == 0, done.stderr
    assert "['store_id', 'total']" in done.stdout


def test_the_page_about_plans_is_right(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/plan.md plans something for the sample shop, and so does its Python."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    told = [typed(line, tmp_path / "shop") for line in commands("docs/plan.md")]
    assert all(done.returncode == 0 for done in told), [done.stderr for done in told]
    assert "sales_team_incentive" in told[0].stdout
    (code,) = blocks("docs/plan.md", "python")
    done = call_alone(code, tmp_path / "shop")
    assert done.returncode == 0, done.stderr
    assert "sales_mart" not in done.stdout, "after its run there is nothing to do"
    (rate,) = [line for line in commands("docs/plan.md") if "incentive_rate" in line]
    (shown,) = blocks("docs/plan.md", "text")
    printed = typed(rate, tmp_path / "shop").stdout.splitlines()
    assert [line for line in shown.splitlines() if line not in printed] == []


def test_the_page_on_reading_again_is_right(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/backfill.md does what it says on the sample shop, and so does Python.

    Its days are long past, so nothing came on the one month that is named.
    """
    page = "docs/backfill.md"
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    assert typed("retailmart run --as-of 2024-04-01", tmp_path / "shop").returncode == 0
    for line in commands(page):
        done = typed(line, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert ("Nothing to do" in done.stderr) == ("--to" in line), line
    (code,) = blocks(page, "python")
    done = call_alone(code, tmp_path / "shop")
    assert done.returncode == 0, done.stderr
    assert "no file of feed sales counts that came from 2024-03-01 to 2024-03-31" in done.stdout


def test_the_page_about_explaining_is_right(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/explain.md explains a number of the sample shop; so does its Python."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    assert typed("retailmart run --as-of 2024-04-01", tmp_path / "shop").returncode == 0
    told: list[str] = []
    for line in commands("docs/explain.md"):
        done = typed(line, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert "has no such row" not in done.stdout, line
        told.append(done.stdout)
    (shown,) = blocks("docs/explain.md", "text")
    assert [line for line in shown.splitlines() if line not in told[0].splitlines()] == []
    (code,) = blocks("docs/explain.md", "python")
    done = call_alone(code, tmp_path / "shop")
    assert done.returncode == 0, done.stderr
    assert "True" in done.stdout


def test_the_page_about_the_report_is_right(tmp_path: Path, typed: Typed) -> None:
    """Every command of docs/report.md writes a page of the sample shop."""
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    assert typed("retailmart run --as-of 2024-04-01", tmp_path / "shop").returncode == 0
    for line in commands("docs/report.md"):
        done = typed(line, tmp_path / "shop")
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert ".html" in done.stdout


def test_the_page_on_monitoring_followed_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Typed
) -> None:
    """Its settings, commands and Python tell of runs; only the addresses are this machine's."""
    page = "docs/monitoring.md"
    assert typed("retailmart init shop --sample --with tills", tmp_path).returncode == 0
    folder = tmp_path / "shop"
    (settings,) = blocks(page, "yaml")
    with (folder / "retailmart.yml").open("a") as file:
        file.write(settings)
    monkeypatch.setenv("RETAILMART_KEY", "a key of more than sixteen characters")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with listening() as listener:
        for line in commands(page):
            if "secrets set" in line:
                name = line.split()[-1]
                store = retailmart.open_secrets(folder)
                store.set(name, f"{listener.url}/{name.lower()}")
                continue
            done = typed(line, folder)
            assert done.returncode == 0, f"{line}: {done.stderr}"
        (code,) = blocks(page, "python")
        done = call_alone(code, folder)
        assert done.returncode == 0, done.stderr
        assert "RunEnded" in done.stdout
        assert listener.at("/chat")[0].plain["text"].startswith("retailmart shop: test")
        assert {kind for about, kind in told_at(listener, "/chat")} >= {"refused"}
        assert listener.at("/ping")
    (shown,) = blocks(page, "json")
    logged = (folder / "logs" / "retailmart.log").read_text().splitlines()
    assert json.loads(shown).keys() == json.loads(logged[-1]).keys()
    events = {json.loads(line)["event"] for line in logged}
    text = (ROOT / page).read_text()
    assert [event for event in events if f"`{event}`" not in text] == []
    assert "retailmart_last_run_state" in (folder / "metrics" / "retailmart.prom").read_text()
    events_sent = (folder / "logs" / "lineage.ndjson").read_text().splitlines()
    assert {json.loads(line)["eventType"] for line in events_sent} == {"START", "COMPLETE"}


def told_at(listener: Listener, path: str) -> list[tuple[str, str]]:
    """The alerts that a target was told of."""
    return [
        (about, alert["kind"])
        for heard in listener.at(path)
        for about in ("opened", "closed")
        for alert in heard.plain[about]
    ]


def test_each_kind_of_alert_is_explained() -> None:
    """The page says when each kind of alert comes, and when it is over."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    assert [kind for kind in ALERT_KINDS if f"| `{kind}` |" not in text] == []


def test_the_page_on_mysql_and_s3_followed_word_for_word(
    tmp_path: Path,
    mariadb: DatabaseServer,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    typed: Typed,
) -> None:
    """Its SQL, settings, `.env` and commands make marts; only hosts and keys are this machine's."""
    mariadb.require_ours("makes databases and accounts of its own")
    page = "docs/mysql-s3.md"
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
        cursor.execute("USE shop")
        for statement in shop_tables():
            cursor.execute(statement)
        (sql,) = blocks(page, "sql")
        for statement in filter(None, map(str.strip, sql.split(";"))):
            cursor.execute(statement)
    lines = commands(page)
    assert lines[:1] == ["retailmart init retail"]
    assert typed(lines[0], tmp_path).returncode == 0
    folder = tmp_path / "retail"
    replaced = ("landing:", "lake:", "archive:", "database:", "sources:")
    settings = (folder / "retailmart.yml").read_text().splitlines()
    kept = [line for line in settings if not line.startswith(replaced)]
    (places,) = blocks(page, "yaml")
    (folder / "retailmart.yml").write_text("\n".join(kept) + "\n" + places)
    (variables,) = blocks(page, "ini")
    (folder / ".env").write_text(variables)
    here = {**s3.environment, "S3_BUCKET": s3.bucket(), "AWS_ENDPOINT_URL": s3.endpoint}
    here |= {"MYSQL_HOST": mariadb.host, "MYSQL_PORT": str(mariadb.port)}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    tills = s3.look(here["S3_BUCKET"])
    tills.put("to_process/sales_1.csv", "\n".join([HEADER, sale(), sale(2), ""]))
    for line in lines[1:]:
        if line.startswith("retailmart undo"):
            tills.put("to_process/day/sales_2.csv", "\n".join([HEADER, sale(3), ""]))
            assert typed("retailmart run", folder).returncode == 0
            line = "retailmart undo 2"  # noqa: PLW2901 the page's run is a later one
        done = typed(line, folder)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), sum(monthly_total) FROM retail.customer_monthly_purchase")
        assert cursor.fetchall() == ((2, Decimal("20.00")),)
        cursor.execute("DROP DATABASE retail")
        cursor.execute("DROP DATABASE shop")
        cursor.execute("DROP USER mart")
    assert [key.split("/")[1] for key in tills.keys("archive/")] == ["processed", "undone"]
    assert tills.keys("to_process/") == []


def test_the_page_on_postgresql_followed_word_for_word(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, typed: Typed
) -> None:
    """Its SQL, settings, `.env` and commands make marts; only host and port are this machine's."""
    page = "docs/postgres.md"
    databases, grants = blocks(page, "sql")
    with postgres.admin() as connection:
        connection.execute(b"CREATE DATABASE shop TEMPLATE template0 ENCODING 'UTF8'")
        for statement in filter(None, map(str.strip, databases.split(";"))):
            connection.execute(statement.encode())
    with postgres.admin("shop") as connection:
        for statement in [*shop_tables(), *filter(None, map(str.strip, grants.split(";")))]:
            connection.execute(statement.encode())
    lines = commands(page)
    assert lines[:1] == ["retailmart init retail"]
    assert typed(lines[0], tmp_path).returncode == 0
    folder = tmp_path / "retail"
    settings = (folder / "retailmart.yml").read_text().splitlines()
    kept = [line for line in settings if not line.startswith(("database:", "sources:"))]
    (places,) = blocks(page, "yaml")
    (folder / "retailmart.yml").write_text("\n".join(kept) + "\n" + places)
    (variables,) = blocks(page, "ini")
    (folder / ".env").write_text(variables)
    monkeypatch.setenv("PGHOST", postgres.host)
    monkeypatch.setenv("PGPORT", str(postgres.port))
    (folder / "landing" / "sales_1.csv").write_text("\n".join([HEADER, sale(), sale(2), ""]))
    for line in lines[1:]:
        done = typed(line, folder)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    with postgres.admin("retail") as connection:
        totals = b"SELECT count(*), sum(monthly_total) FROM customer_monthly_purchase"
        assert connection.execute(totals).fetchall() == [(2, Decimal("20.00"))]
    with postgres.admin() as connection:
        for last in (b"DROP DATABASE retail", b"DROP DATABASE shop", b"DROP ROLE mart"):
            connection.execute(last)


def test_the_feed_of_the_docs_is_a_feed(shop: Shop) -> None:
    """The YAML of docs/feeds.md is taken without a complaint."""
    tills, shops, people = blocks("docs/feeds.md", "yaml")
    made = {
        "notes": tills.replace("sales*", "notes*"),
        "shops": shops,
        "people": people.replace("users", "persons"),
    }
    for name, feed in made.items():
        (shop.folder / "feeds" / f"{name}.yml").write_text(feed, encoding="utf-8")
    feeds = load_project(shop.folder).feeds
    assert feeds["notes"].balance == "price"
    assert feeds["shops"].string_nulls == ("NULL", r"\N")
    assert feeds["people"].format == "json"


@all_marts
def test_the_mart_of_the_docs_is_built_and_published(shop: Shop) -> None:
    """The SQL of docs/marts.md becomes a mart, with the variables the page shows."""
    (mart,) = blocks("docs/marts.md", "sql")
    (shop.folder / "marts" / "store_months.sql").write_text(mart, encoding="utf-8")
    *_, variables = blocks("docs/marts.md", "yaml")
    settings = shop.folder / "retailmart.yml"
    settings.write_text(settings.read_text(encoding="utf-8") + variables, encoding="utf-8")
    shop.sales("sales_1.csv", [sale(), sale(store=2, person=3, price="30.00")])
    shop.run()
    assert shop.published("store_months", "store_id, total") == [(1, 10), (2, 30)]
    assert shop.published("sales_team_incentive", "sales_person_id, incentive") == [
        (1, 0),
        (3, 0.6),
    ]


def test_the_tables_of_the_docs_are_read(shop: Shop) -> None:
    """The YAML of docs/tables.md declares tables, and its SQL reads their history."""
    customer, values, columns, visits = blocks("docs/tables.md", "yaml")
    (mart,) = blocks("docs/tables.md", "sql")
    (shop.folder / "tables" / "customer.yml").write_text(customer + columns, encoding="utf-8")
    (shop.folder / "tables" / "visits.yml").write_text(visits + values, encoding="utf-8")
    header = "-- refresh: append\n-- partitions: [_month]\n"
    (shop.folder / "marts" / "named.sql").write_text(header + mart, encoding="utf-8")
    shop.backend.execute_in_shop(
        "CREATE TABLE visits (visit_id INTEGER PRIMARY KEY, updated_at DATETIME, at_ms DATETIME)"
    )
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    assert shop.mart("named", "customer_id, first_name") == [(1, "First1")]
