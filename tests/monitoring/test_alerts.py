"""What is worth an alert: found once, told once to each target, and over when it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from retailmart.monitoring.alerts import Changes, Facts, Notification, changes, due
from retailmart.monitoring.events import Failure, RunEnded
from retailmart.project.monitoring import (
    AlertSettings,
    Expected,
    QuarantineLimits,
    checked_target,
    shown_target,
)
from retailmart.report import Alert, BatchReport, ColumnLine, FileLine, Held, RunReport

MONDAY = datetime(2024, 4, 1, 8, tzinfo=UTC)
SETTINGS = AlertSettings()


def end_of(
    *lines: FileLine,
    columns: Sequence[ColumnLine] = (),
    failure: Failure | None = None,
    at: datetime = MONDAY,
) -> RunEnded:
    """The end of a run that took in these files."""
    batch = BatchReport(1, False, "", files=lines, columns=tuple(columns))
    report = RunReport(1, at, (batch,), (), (), {}, "lake", "database")
    if failure is not None:
        return RunEnded("run", 1, "failed", failure.exit_code, at, {}, failure, None, at)
    return RunEnded("run", 1, "success", 0, at, {}, None, report, at)


def kinds(found: Changes) -> tuple[list[str], list[str]]:
    """The kinds of what is new, and of what is over."""
    return [one.kind for one in found.opened], [one.kind for one in found.closed]


def loaded(path: str, records: int, quarantined: int = 0) -> FileLine:
    """A file that was loaded."""
    return FileLine(path, "loaded", None, records, records - quarantined, quarantined)


@pytest.mark.parametrize(
    ("limits", "over"),
    [
        ({"rows": 9}, True),
        ({"rows": 10}, False),
        ({"share": "0.09"}, True),
        ({"share": "0.1"}, False),
        ({"money": "99.99"}, True),
        ({"money": "100"}, False),
        ({}, False),
    ],
)
def test_quarantine_over_a_threshold(limits: Mapping[str, str], over: bool) -> None:
    """Each limit is what is still fine; the next files of the feed show that it is over."""
    settings = replace_limits(QuarantineLimits.model_validate(limits))
    facts = Facts({"a.csv": "sales", "b.csv": "sales"}, money={"sales": Decimal(100)})
    end = end_of(loaded("a.csv", 60, 10), loaded("b.csv", 40))
    found = changes(settings, end, facts, ())
    assert kinds(found) == (["quarantine"] if over else [], [])
    if over:
        assert found.opened[0].message.startswith("sales: 10 rows of 100 refused: ")
        again = changes(settings, end, facts, found.opened)
        assert again == Changes()
        assert kinds(changes(settings, end_of(), facts, found.opened)) == ([], [])
        good = changes(
            settings, end_of(loaded("a.csv", 60)), Facts({"a.csv": "sales"}), found.opened
        )
        assert kinds(good) == ([], ["quarantine"])


def replace_limits(limits: QuarantineLimits) -> AlertSettings:
    """The usual settings with other limits."""
    return SETTINGS.model_copy(update={"quarantine": limits})


@pytest.mark.parametrize(
    ("rule", "newest", "late"),
    [
        ({"hours": 26}, timedelta(hours=27), True),
        ({"hours": 26}, timedelta(hours=25), False),
        ({"hours": 26}, None, True),
        ({"by": "06:30"}, timedelta(hours=20), False),
        ({"by": "06:30"}, timedelta(hours=26), True),  # yesterday at six: not today's
        ({"by": "08:30"}, timedelta(hours=25), False),  # it is eight, and yesterday's had come
        ({"by": "06:30", "days": ["tue", "wed"]}, timedelta(days=4), False),
        ({"by": "06:30", "days": ["tue", "wed"]}, timedelta(days=6, hours=4), True),
        ({"by": "09:30", "zone": "Europe/Berlin"}, timedelta(hours=24, minutes=40), True),
        ({"by": "10:30", "zone": "Europe/Berlin"}, timedelta(hours=24, minutes=40), False),
    ],
)
def test_missing_or_late_data(
    rule: Mapping[str, object], newest: timedelta | None, late: bool
) -> None:
    """By a time of day in its zone, on its days, or by the age of the newest files."""
    expected = {"sales": Expected.model_validate(rule)}
    settings = SETTINGS.model_copy(update={"expected": expected})
    facts = Facts(loads={} if newest is None else {"sales": MONDAY - newest})
    found = changes(settings, end_of(), facts, ())
    assert kinds(found) == (["late"] if late else [], [])
    if late:
        came = Facts(loads={"sales": MONDAY})
        assert kinds(changes(settings, end_of(), came, found.opened)) == ([], ["late"])


def test_a_time_without_quotes_is_a_time() -> None:
    """YAML reads 6:30 as a number of base 60."""
    assert Expected.model_validate({"by": 390}).by == "06:30"


@pytest.mark.parametrize(
    ("rows", "before", "unusual"),
    [
        (100, [100, 90, 110], False),
        (49, [100, 90, 110], True),
        (50, [100, 90, 110], False),
        (201, [100, 90, 110], True),
        (1, [100, 90], False),  # too few days to know what is usual
        (100, [100, 90, 110, 9_000], False),  # one odd day moves no median
    ],
)
def test_unusual_volume(rows: int, before: Sequence[int], unusual: bool) -> None:
    """Compared with the median of the same weekday; other weekdays do not count."""
    day = MONDAY.date()
    volumes: dict[date, int] = {day: rows, day - timedelta(days=1): 1}
    volumes |= {day - timedelta(days=7 * n): count for n, count in enumerate(before, 1)}
    facts = Facts({"a.csv": "sales"}, volumes={"sales": volumes})
    found = changes(SETTINGS, end_of(loaded("a.csv", rows)), facts, ())
    assert kinds(found) == (["volume"] if unusual else [], [])


def test_drift_held_back_refused_and_failures() -> None:
    """Each has its words; what others follow from is told once, and what was chosen only."""
    columns = [
        ColumnLine("raw/sales", "colour", None, "STRING", "a.csv"),
        ColumnLine("raw/sales", "price", "INT", "BIGINT", "a.csv"),
    ]
    held = (Held("one", "has no key", "Give it one"), Held("two", "reads one", cause="one"))
    facts = Facts(
        refused=frozenset({"b.csv", "old.csv"}), held=held, unreadable={"store": "is gone"}
    )
    end = end_of(FileLine("b.csv", "refused", "is empty"), columns=columns)
    found = changes(SETTINGS, end, facts, ())
    assert [one.message for one in found.opened] == [
        "b.csv is refused: is empty",
        "column raw/sales.colour: new, STRING, by a.csv",
        "column raw/sales.price: INT → BIGINT, by a.csv",
        "mart one is held back: has no key",
        "table store cannot be read: is gone",
    ]
    over = changes(SETTINGS, end_of(), Facts(), found.opened)
    assert [one.kind for one in over.closed] == ["refused", "drift", "drift", "held", "held"]
    only = SETTINGS.model_copy(update={"on": ("held",)})
    assert {one.kind for one in changes(only, end, facts, ()).opened} == {"held"}
    failed = changes(
        SETTINGS, end_of(failure=Failure("GateFailed", "no", "Do", "load", 3)), None, ()
    )
    (alert,) = failed.opened
    assert alert.message == "run 1 failed in load (exit code 3): no"
    # Without a ledger nothing else is judged; another failure does not end this one.
    other = end_of(failure=Failure("Unavailable", "away"))
    assert kinds(changes(SETTINGS, other, None, (*found.opened, alert))) == (["failure"], [])
    assert kinds(changes(SETTINGS, end_of(), Facts(), failed.opened)) == ([], ["failure"])


def test_each_target_is_told_once() -> None:
    """A new alert, and its end; what could not be told is told by a later run, ended or not."""
    one = Alert("held", "m", "is held", None, MONDAY.isoformat(), None, 7)
    ended = replace(one, closed_at=MONDAY.isoformat())
    assert due([one], [], {}, MONDAY) == ([one], [])
    assert due([one], [], {(7, "opened"): None}, MONDAY) == ([one], [])
    told = {(7, "opened"): "2024"}
    assert due([one], [], told, MONDAY) == ([], [])
    assert due([], [ended], told, MONDAY) == ([], [ended])
    assert due([], [ended], told | {(7, "closed"): "2024"}, MONDAY) == ([], [])
    assert due([], [ended], {(7, "opened"): None}, MONDAY) == ([], [ended])
    assert due([], [ended], {}, MONDAY) == ([], [])  # this target never heard of it
    drift = replace(ended, kind="drift")
    assert due([], [drift], {}, MONDAY) == ([drift], [])
    assert due([], [drift], told, MONDAY) == ([], [])
    assert due([], [drift], {}, MONDAY + timedelta(days=1)) == ([], [])


def test_a_message_is_capped() -> None:
    """Ten thousand refused files are one message that a phone can show."""
    many = tuple(Alert("refused", f"{n}.csv", f"{n}.csv is refused") for n in range(10_000))
    note = Notification("shop", many, many[:1], 3)
    assert note.title == "retailmart shop: 10,000 alerts (refused), 1 over"
    assert len(note.text) < 1_500
    assert "and 9,980 more: retailmart alerts list" in note.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host.example:8443/path?x=1", "https://host.example:8443"),
        ("${secret:SLACK}", "${secret:SLACK}"),
        ("https://${HOST}/hook/${secret:KEY}", "https://${HOST}"),
        ("slack://${secret:TOKENS}", "slack://…"),
        ("mailtos://host.example?to=a@b.example", "mailtos://…"),
        ("not a URL", None),
        ("slack://A/B/C", None),
        ("https://user:word@host.example", None),
        ("mailto://user:word@host.example", None),
        ("https://host.example/?password=x", None),
    ],
)
def test_targets_hold_no_secret_and_show_little(url: str, shown: str | None) -> None:
    """A secret in a setting is refused without repeating it; of others the host is shown."""
    if shown is None:
        with pytest.raises(ValueError, match=r"secret:NAME|is no URL") as refused:
            checked_target(url)
        assert "word" not in str(refused.value).replace("a password", "")
        return
    assert checked_target(url) == url
    assert shown_target(url) == shown
