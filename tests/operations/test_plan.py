"""A plan says what a run does, before it does it; nothing of the project changes for it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from retailmart import GateFailed, RetailmartError, SettingsError
from retailmart.operations.plan.make import RunPlan
from retailmart.report import RunReport
from tests.support.amount import SEED, tries
from tests.support.shop import AS_OF, Called, Shop, sale

SITUATIONS, DAYS = tries(20, 300), 2


@pytest.fixture
def marts() -> tuple[str, ...]:
    """One that is added to, two that are rebuilt by month."""
    return ("sales_mart", "customer_monthly_purchase", "sales_team_incentive")


def state_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder: its size, when it was written, and its bytes."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_size,
            path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def planned(shop: Shop, make: Callable[[], RunPlan]) -> RunPlan:
    """A plan, for which not a byte of the project changed, nor a row of its database."""
    before = state_of(shop.folder), everywhere(shop)
    plan = make()
    assert (state_of(shop.folder), everywhere(shop)) == before
    return plan


def everywhere(shop: Shop) -> tuple[object, ...]:
    """What a shop has outside of its folder: files in buckets, the ledger's runs and batches."""
    if shop.backend.speaks == "sqlite" and not (shop.folder / "retail.db").exists():
        return ()  # to look into it would make one
    try:
        runs = shop.backend.query("SELECT * FROM retailmart_runs ORDER BY run_id")
        batches = shop.backend.query("SELECT batch_id, state FROM retailmart_batches ORDER BY 1")
    except Exception:  # no run has made the ledger yet; each database has an error of its own
        return ()
    return shop.backend.landed(), sorted(shop.backend.archived()), runs, batches


def said(report: RunReport) -> list[dict[str, Any]]:
    """What a report says of its batches, but for what only a run does: publish and export."""
    return [
        {
            **{
                name: getattr(batch, name)
                for name in (
                    *("files", "differences", "columns", "unmatched", "balance", "tables"),
                    *("healed", "agreed", "unavailable", "all_refused", "held", "undoes"),
                )
            },
            "marts": [replace(mart, published_rows=None, changed=None) for mart in batch.marts],
        }
        for batch in report.batches
    ]


def sums(shop: Shop, mart: str, money: str) -> dict[str, tuple[int, Decimal]]:
    """Rows and money of a mart by month, read from its Parquet files and added here."""
    found: dict[str, tuple[int, Decimal]] = {}
    try:
        rows = shop.mart(mart, f"_month, {money}")
    except RetailmartError:
        return {}
    for month, amount in rows:
        count, total = found.get(month, (0, Decimal(0)))
        found[month] = (count + 1, total + amount)
    return found


def test_a_plan_says_what_the_run_then_reports(shop: Shop) -> None:
    """Files by fate with reasons, rows, balances and marts: word for word those of the run."""
    shop.sales("sales_a.csv", [sale(), sale(2, day="2024-02-01", price="3.10")])
    shop.sales("sales_b.csv", [sale(3, person=99), sale(day="no day")])
    shop.drop("unknown.xyz", "?")
    plan = planned(shop, lambda: shop.open().plan(AS_OF))
    assert said(plan.report) == said(shop.run())
    assert planned(shop, lambda: shop.open().plan(AS_OF)).is_empty


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_a_correction_shows_its_month_before_and_after(shop: Shop) -> None:
    """Rows and money by month, and the row that changes, as the files say."""
    shop.sales("sales_a.csv", [sale(price="1.00"), sale(2, day="2024-02-01")])
    shop.run()
    shop.sales("sales_a.csv", [sale(price="7.50"), sale(2, day="2024-02-01")])
    plan = planned(shop, lambda: shop.open().plan(AS_OF))
    bought = next(one for one in plan.marts if one.mart == "customer_monthly_purchase")
    months = {
        one.month: (one.money_before["monthly_total"], one.money_after["monthly_total"])
        for one in bought.months
    }
    assert months["2024-01"] == (Decimal("1.00"), Decimal("7.50"))
    assert (bought.added, bought.removed, bought.changed) == (0, 0, 1)
    (row,) = bought.rows
    assert row.key == {"_month": "2024-01", "customer_id": "1"}
    assert (row.before, row.after) == ({"monthly_total": "1.00"}, {"monthly_total": "7.50"})


def test_a_new_winner_is_shown(shop: Shop) -> None:
    """Who loses the incentive and who earns it, with the amounts."""
    shop.sales("sales_a.csv", [sale(person=1, price="100.00"), sale(person=2, price="90.00")])
    shop.run()
    shop.sales("sales_b.csv", [sale(person=2, price="20.00")])
    plan = planned(shop, lambda: shop.open().plan(AS_OF))
    incentives = next(one for one in plan.marts if one.mart == "sales_team_incentive")
    changes = {
        row.key["sales_person_id"]: (row.before["incentive"], row.after["incentive"])
        for row in incentives.rows
        if row.before and row.after
    }
    assert changes == {"1": ("1.00", "0.00"), "2": ("0.00", "1.10")}


def test_an_edited_mart_shows_which_months_it_would_restate(shop: Shop) -> None:
    """Nothing has landed: the plan builds the mart by its new SELECT, and compares."""
    shop.sales("sales_a.csv", [sale(price="100.00"), sale(day="2024-02-01", price="50.00")])
    shop.run()
    settings = shop.folder / "retailmart.yml"
    settings.write_text(settings.read_text() + "variables: {incentive_rate: 0.02}\n")
    plan = planned(shop, lambda: shop.open().plan(AS_OF))
    (mart,) = (one for one in plan.marts if one.changes)
    assert mart.mart == "sales_team_incentive"
    assert {row.key["_month"] for row in mart.rows} == {"2024-01", "2024-02"}
    assert {row.after["incentive"] for row in mart.rows if row.after} == {"2.00", "1.00"}


def test_a_rate_from_a_day_on_shows_its_months_in_money(shop: Shop, called: Called) -> None:
    """Of each month the incentives before and after, also where the mart is balanced by sales."""
    shop.sales("sales_a.csv", [sale(price="100.00"), sale(day="2024-02-01", price="50.00")])
    shop.run()
    settings = shop.folder / "retailmart.yml"
    days = "variables: {incentive_rate: {2024-01-01: 0.01, 2024-02-01: 0.03}}\n"
    settings.write_text(settings.read_text() + days)
    plan = planned(shop, lambda: shop.open().plan(AS_OF))
    (mart,) = (one for one in plan.marts if one.changes)
    assert [
        (one.month, one.money_before["incentive"], one.money_after["incentive"])
        for one in mart.months
        if one.changes
    ] == [("2024-02", Decimal("0.50"), Decimal("1.50"))]
    text = called(shop.folder, "plan", "--as-of", "2024-04-01").stdout
    assert re.search(r"sales_team_incentive +2024-02 .* incentive +0\.50 +1\.50", text)


@pytest.mark.every_backend
@pytest.mark.every_engine
def test_an_undo_can_be_planned(shop: Shop) -> None:
    """What it takes back, as the undo then reports it."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    shop.sales("sales_b.csv", [sale(2)])
    second = shop.run()
    plan = planned(shop, lambda: shop.open().plan_undo(second.run_id))
    assert said(plan.report) == said(shop.open().undo(second.run_id))
    again = planned(shop, lambda: shop.open().plan_undo(second.run_id))
    assert again.report.undone_already


@pytest.mark.every_backend
def test_a_backfill_and_a_rebuild_can_be_planned(shop: Shop) -> None:
    """What today's feed reads in archived files; a rebuild of what is right changes nothing."""
    shop.sales("sales_a.csv", [sale(day="2024-01-15"), sale(2, day="15.01.2024")])
    shop.run()
    feed = shop.folder / "feeds" / "sales.yml"
    text = feed.read_text()
    assert "  sales_date: " in text
    days = '  sales_date: {type: DATE, mandatory: true, format: ["%Y-%m-%d", "%d.%m.%Y"]}'
    feed.write_text(re.sub(r"(?m)^  sales_date: .*$", days, text))
    plan = planned(shop, lambda: shop.open().plan_backfill("sales", as_of=AS_OF))
    (change,) = plan.report.batches[0].differences
    assert (change.path, change.rows, change.amount) == ("sales_a.csv", 1, Decimal("10.00"))
    file = shop.folder.parent / "backfill.json"
    plan.write(file)
    assert said(plan.report) == said(shop.open().run(plan=file))
    whole = planned(shop, lambda: shop.open().plan_rebuild(as_of=AS_OF))
    assert whole.marts
    assert not any(mart.changes for mart in whole.marts)
    assert said(whole.report) == said(shop.open().rebuild(as_of=AS_OF))


def test_a_mistake_is_told_as_the_run_would_tell_it(shop: Shop) -> None:
    """A plan of what can't run raises what the run raises, and changes nothing."""
    mart = shop.folder / "marts" / "sales_team_incentive.sql"
    mart.write_text(mart.read_text().replace("sum(total_cost)", "sum(total_cots)"))
    shop.sales("sales_a.csv", [sale()])
    before = state_of(shop.folder)
    with pytest.raises(SettingsError, match="total_cots"):
        shop.open().plan(AS_OF)
    assert state_of(shop.folder) == before


@pytest.mark.parametrize("seed", range(SITUATIONS))
def test_any_plan_equals_its_run(shop: Shop, seed: int) -> None:
    """Random days: new files, corrections, copies, bad rows, changed tables, settings and undos."""
    chance = random.Random(SEED * 1000 + seed)
    days = [AS_OF + timedelta(days=number) for number in range(DAYS)]
    delivered: list[str] = []
    runs: list[int] = []
    for number, day in enumerate(days):
        for _ in range(chance.randint(0, 3)):
            _deliver(shop, chance, delivered)
        if chance.random() < 0.3:
            name = f"Changed {number}"
            shop.backend.execute_in_shop(f"UPDATE customer SET first_name = '{name}'")
        if number and chance.random() < 0.2:
            settings = shop.folder / "retailmart.yml"
            rate = f"variables: {{incentive_rate: 0.0{chance.randint(2, 9)}}}\n"
            text = settings.read_text()
            settings.write_text(text.partition("variables:")[0] + rate)
        before = {name: sums(shop, name, money) for name, money in _MARTS.items()}
        if runs and chance.random() < 0.25:
            run_id = chance.choice(runs)
            try:
                plan = planned(shop, lambda: shop.open().plan_undo(run_id))  # noqa: B023
            except RetailmartError as error:
                with pytest.raises(RetailmartError, match=re.escape(error.message)):
                    shop.open().undo(run_id)
                continue
            report = shop.open().undo(run_id)
        else:
            plan = planned(shop, lambda: shop.open().plan(day))  # noqa: B023
            file = shop.folder.parent / f"plan-{seed}-{number}.json"
            plan.write(file)
            report = shop.open().run(plan=file) if chance.random() < 0.5 else shop.run(day)
            runs.append(report.run_id)
        assert said(plan.report) == said(report)
        assert plan.exit_code == report.exit_code
        _assert_months(shop, plan, before)


_MARTS = {"customer_monthly_purchase": "monthly_total", "sales_team_incentive": "total_sales"}


def _deliver(shop: Shop, chance: random.Random, delivered: list[str]) -> None:
    if delivered and chance.random() < 0.4:
        name = chance.choice(delivered)
    else:
        name = f"sales_{len(delivered)}.csv"
        delivered.append(name)
    rows = [
        sale(
            customer=chance.randint(1, 11),
            store=chance.randint(1, 2),
            day=chance.choice(["2024-01-15", "2024-02-03", "2024-03-30", "soon"]),
            person=chance.randint(1, 4),
            price=f"{chance.randint(1, 99)}.{chance.randint(0, 99):02}",
        )
        for _ in range(chance.randint(1, 4))
    ]
    shop.sales(name, rows)


def _assert_months(
    shop: Shop, plan: RunPlan, before: dict[str, dict[str, tuple[int, Decimal]]]
) -> None:
    """Each planned month was and is what the plan says; months that it leaves out are unchanged."""
    changes = {one.mart: one for one in plan.marts}
    for name, money in _MARTS.items():
        after = sums(shop, name, money)
        nothing = (0, Decimal(0))
        found = {one.month: one for one in changes[name].months} if name in changes else {}
        for month in {*before[name], *after, *(str(one) for one in found)}:
            was, is_ = before[name].get(month, nothing), after.get(month, nothing)
            if (one := found.get(month)) is None:
                assert was == is_, (name, month)
                continue
            assert (one.rows_before, one.money_before.get(money, 0)) == was, (name, month)
            assert (one.rows_after, one.money_after.get(money, 0)) == is_, (name, month)


def kept(shop: Shop) -> Path:
    """A plan in a file, outside of the project."""
    file = shop.folder.parent / "plan.json"
    shop.open().plan(AS_OF).write(file)
    return file


def another_file(shop: Shop) -> None:
    shop.sales("sales_z.csv", [sale(9)])


def other_content(shop: Shop) -> None:
    shop.sales("sales_a.csv", [sale(9)])


def no_file(shop: Shop) -> None:
    (shop.folder / "landing" / "sales_a.csv").unlink()


def another_rate(shop: Shop) -> None:
    settings = shop.folder / "retailmart.yml"
    settings.write_text(settings.read_text() + "variables: {incentive_rate: 0.02}\n")


def another_mart(shop: Shop) -> None:
    mart = shop.folder / "marts" / "sales_team_incentive.sql"
    mart.write_text(mart.read_text() + "-- changed\n")


def another_customer(shop: Shop) -> None:
    shop.backend.execute_in_shop("UPDATE customer SET first_name = 'Other'")


def another_run(shop: Shop) -> None:
    shop.run()
    shop.sales("sales_a.csv", [sale()])


@pytest.mark.parametrize(
    ("move", "named"),
    [
        (another_file, r"landing: sales_z\.csv is new"),
        (other_content, r"landing: sales_a\.csv has changed"),
        (no_file, r"landing: sales_a\.csv is gone"),
        (another_rate, "variables.incentive_rate is new"),
        (another_mart, r"marts/sales_team_incentive\.sql has changed"),
        (another_customer, "source table customer has changed"),
        (another_run, "the ledger: batch 2"),
    ],
)
def test_a_run_by_a_plan_stops_where_something_moved(
    shop: Shop, move: Callable[[Shop], None], named: str
) -> None:
    """Exit code 3, with what has moved; the next ordinary run takes everything in."""
    shop.sales("sales_first.csv", [sale(4)])
    shop.run()
    shop.sales("sales_a.csv", [sale()])
    file = kept(shop)
    move(shop)
    counted = shop.mart("customer_monthly_purchase")
    with pytest.raises(GateFailed, match=named) as raised:
        shop.open().run(plan=file)
    assert raised.value.exit_code == 3
    assert shop.mart("customer_monthly_purchase") == counted
    assert shop.run().exit_code == 0


def test_a_plan_holds_once_what_moved_is_back(shop: Shop) -> None:
    """A run that stopped has changed nothing: the plan can still be carried out."""
    shop.sales("sales_a.csv", [sale()])
    file = kept(shop)
    shop.sales("sales_z.csv", [sale(9)])
    with pytest.raises(GateFailed, match=r"sales_z\.csv is new"):
        shop.open().run(plan=file)
    (shop.folder / "landing" / "sales_z.csv").unlink()
    assert shop.open().run(plan=file).count("loaded") == 1


def test_a_killed_plan_leaves_nothing_for_long(shop: Shop) -> None:
    """The next run removes what it left; a plan that is at work keeps its own."""
    left = shop.folder / ".retailmart" / "plan-killed"
    left.mkdir(parents=True)
    (left / "alive").touch()
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    assert not left.exists()


def test_a_plan_of_nothing_stops_where_something_came(shop: Shop) -> None:
    """There was nothing to do, and now there is."""
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    file = kept(shop)
    assert shop.open().run(plan=file).nothing_to_do
    shop.sales("sales_b.csv", [sale(2)])
    with pytest.raises(GateFailed, match=r"sales_b\.csv is new"):
        shop.open().run(plan=file)


def test_a_plan_is_carried_out_once(shop: Shop) -> None:
    """The plan of an undo undoes; a second time, the project has moved."""
    shop.sales("sales_a.csv", [sale()])
    first = shop.run()
    file = shop.folder.parent / "undo.json"
    shop.open().plan_undo(first.run_id).write(file)
    assert shop.open().run(plan=file).batches[0].undoes == first.run_id
    assert shop.mart("customer_monthly_purchase") == []
    with pytest.raises(GateFailed, match="the ledger"):
        shop.open().run(plan=file)


def test_what_is_no_plan_is_told(shop: Shop) -> None:
    """A file of something else, none at all, or a plan for another moment."""
    file = shop.folder.parent / "other.json"
    with pytest.raises(SettingsError, match="can't be read"):
        shop.open().run(plan=file)
    file.write_text(json.dumps({"promise": {"format": 1}}))
    with pytest.raises(SettingsError, match="is no plan"):
        shop.open().run(plan=file)
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(SettingsError, match="not for another moment"):
        shop.open().run(datetime(2024, 5, 1, tzinfo=UTC), plan=kept(shop))


@pytest.mark.every_backend
def test_a_plan_goes_on_where_a_run_was_cut_off(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is prepared but not committed is finished first, in the plan as in the run."""
    shop.sales("sales_a.csv", [sale()])

    def cut_off(*_: object) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr("retailmart.lake.Lake.commit", cut_off)
        with pytest.raises(OSError, match="cut off"):
            shop.run()
    shop.sales("sales_b.csv", [sale(2)])
    plan = planned(shop, lambda: shop.open().plan(AS_OF))
    assert [batch.recovered for batch in plan.report.batches] == [True, False]
    assert said(plan.report) == said(shop.run())


def test_the_command_shows_files_months_and_rows(shop: Shop, called: Called) -> None:
    """What people see; the file that it keeps is what `run --plan` does."""
    shop.sales("sales_a.csv", [sale(person=1, price="100.00"), sale(person=2, price="90.00")])
    shop.run()
    shop.sales("sales_b.csv", [sale(person=2, price="20.00"), sale(day="x")])
    done = called(shop.folder, "plan", "--as-of", "2024-04-01", "--out", "../kept.json")
    assert done.returncode == 0
    assert "as of 2024-04-01 00:00 UTC: nothing is changed yet" in done.stdout
    for line in ("sales_b.csv load 2 1 1", "incentive 1.00 incentive 0.00"):
        assert line in " ".join(done.stdout.split())
    ran = called(shop.folder, "run", "--plan", "../kept.json", "--output", "json")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["batches"][0]["files"][0]["path"] == "sales_b.csv"
