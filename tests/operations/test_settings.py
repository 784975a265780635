"""Each setting and where it comes from; what changed, and with which run."""

from __future__ import annotations

import json
from collections.abc import Collection

import pytest

import retailmart
from tests.support.shop import AS_OF, Called, Shop, sale


@pytest.fixture
def marts() -> Collection[str]:
    """One mart is enough to have a definition."""
    return ("customer_mart",)


@pytest.fixture(autouse=True)
def as_people_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the setting that all tests get, so that two of them share two cores."""
    monkeypatch.delenv("RETAILMART__THREADS", raising=False)


def test_each_setting_says_where_it_comes_from(
    shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Default, file, .env, environment and flag, each over the one before."""
    settings = shop.folder / "retailmart.yml"
    settings.write_text(settings.read_text() + "threads: 1\n")
    line = len(settings.read_text().splitlines())
    (shop.folder / ".env").write_text("RETAILMART__S3__REGION=eu-west-1\n")
    monkeypatch.setenv("RETAILMART__MEMORY_LIMIT", "1GB")
    done = called(shop.folder, "settings", "-o", "json", "--set", "spark.master=local[1]")
    found = {one["name"]: one for one in json.loads(done.stdout)["settings"]}
    told = {
        name: (found[name]["value"], found[name]["source"], found[name]["place"])
        for name in ("engine", "threads", "s3.region", "memory_limit", "spark.master")
    }
    assert told == {
        "engine": told["engine"],
        "threads": ("1", "file", f"retailmart.yml:{line}"),
        "s3.region": ("eu-west-1", ".env", "RETAILMART__S3__REGION"),
        "memory_limit": ("1GB", "environment", "RETAILMART__MEMORY_LIMIT"),
        "spark.master": ("local[1]", "flag", None),
    }
    text = called(shop.folder, "settings").stdout
    assert f"  1  (retailmart.yml:{line})\n" in text
    assert "  -  (default)\n" in text


def test_no_password_and_no_secret_is_shown_or_recorded(
    shop: Shop, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL's password is left out, of a secret only its name is told."""
    monkeypatch.setenv("RETAILMART_KEY", "a key of more than sixteen characters")
    shop.open().project.secrets().set("DB", "cAnary-secret")
    monkeypatch.setenv("RETAILMART__SOURCES__OTHER", "mysql://me:cAnary-password@h/d")
    (shop.folder / ".env").write_text("RETAILMART__SOURCES__THIRD=mysql://me:${secret:DB}@h/d\n")
    done = called(shop.folder, "settings", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["settings"]}
    assert found["sources.third"]["secrets"] == ["DB"]
    assert "***" in found["sources.other"]["value"]
    shop.open().run(AS_OF)
    kept = shop.backend.query("SELECT * FROM retailmart_settings")
    assert "cAnary" not in f"{done.stdout}{kept}{called(shop.folder, 'settings').stdout}"


@pytest.mark.every_database
def test_a_run_records_what_has_changed(shop: Shop, called: Called) -> None:
    """Settings by value, definitions by digest; a run without a change records nothing."""
    shop.sales("sales_1.csv", [sale()])
    shop.run()
    shop.run()
    first = shop.open().settings_history()
    assert {change.run_id for change in first.changes} == {1}
    assert {"lake", "feeds/sales.yml", "marts/customer_mart.sql"} <= {
        change.name for change in first.changes
    }
    settings = shop.folder / "retailmart.yml"
    settings.write_text(settings.read_text() + "threads: 1\n")
    mart = shop.folder / "marts" / "customer_mart.sql"
    mart.write_text(mart.read_text() + "-- a comment\n")
    waiting = shop.open().settings_history()
    assert {change.name for change in waiting.since_last_run} == {
        "threads",
        "marts/customer_mart.sql",
    }
    retailmart.open_project(shop.folder).run(AS_OF)
    found = shop.open().settings_history()
    assert found.since_last_run == ()
    changed = {change.name: (change.before, change.after) for change in found.changes[-2:]}
    assert changed["threads"] == (None, "1")
    told = called(shop.folder, "settings", "--history").stdout.splitlines()
    assert "recorded for the first time" in told[0]
    assert told[-1].startswith("run 3  ")
    assert told[-1].endswith("  threads  - → 1")
    digests = shop.backend.query("SELECT settings FROM retailmart_runs ORDER BY run_id")
    assert digests[0] == digests[1] != digests[2]
