"""What is worth an alert: found in a run's end and the ledger, told once, and again when over."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from retailmart.monitoring.events import RunEnded
from retailmart.project.monitoring import DAYS, AlertSettings, Expected
from retailmart.report import Alert, FileLine, Held, number_of

_WEEK = timedelta(days=7)
# So many alerts are written out in one message.
_LISTED = 20


@dataclass(frozen=True)
class Facts:
    """What is known besides a run's own end.

    `feeds` maps each path of the run's files to its feed; `refused` are paths still refused;
    `loads` is when each feed's newest files were taken in; `volumes` are rows by feed and day;
    `money` is what this run refused of each feed, where that is asked for. The project's files
    `have_changed` if they are not those that the run used.
    """

    feeds: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    held: Sequence[Held] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, datetime] = field(default_factory=dict)
    volumes: Mapping[str, Mapping[date, int]] = field(default_factory=dict)
    money: Mapping[str, Decimal] = field(default_factory=dict)
    have_changed: bool = False


@dataclass(frozen=True)
class Changes:
    """What is new, and which of the open alerts are over."""

    opened: tuple[Alert, ...] = ()
    closed: tuple[Alert, ...] = ()


def changes(
    settings: AlertSettings, end: RunEnded, facts: Facts | None, known: Iterable[Alert]
) -> Changes:
    """Compare what is not well now with the alerts that are open.

    Without `facts`, the ledger could not be asked: then only the run's failure is judged.
    """
    found = {
        alert.key: alert for alert in _found(settings, end, facts) if alert.kind in settings.on
    }
    known = list(known)
    before = {alert.key for alert in known}
    over = [one for one in known if one.key not in found and _is_judged(one, end, facts, settings)]
    return Changes(tuple(alert for key, alert in found.items() if key not in before), tuple(over))


def is_notice(alert: Alert) -> bool:
    """Whether an alert tells of an event: nothing lasts, so nothing is ever over."""
    return alert.kind == "drift"


def _is_judged(alert: Alert, end: RunEnded, facts: Facts | None, settings: AlertSettings) -> bool:
    """Whether this run can tell that an alert is over."""
    if alert.kind == "failure":
        # A watch goes on with files that were good while those of today have mistakes.
        still_mistaken = facts is not None and facts.have_changed
        return end.failure is None and not (still_mistaken and alert.subject == "SettingsError")
    if alert.kind not in settings.on:
        return True
    if facts is None:
        return False
    if alert.kind == "refused":
        return alert.subject not in facts.refused
    if alert.kind in ("quarantine", "volume"):  # the next files of the feed show it
        return alert.subject in _lines_by_feed(end, facts)
    return True


def _found(settings: AlertSettings, end: RunEnded, facts: Facts | None) -> Iterator[Alert]:
    yield from _failure(end)
    if facts is None:
        return
    yield from _refused(end, facts)
    yield from _quarantined(settings, end, facts)
    yield from _late(settings.expected, facts, end.at)
    yield from _unusual(settings, end, facts)
    yield from _drift(end)
    yield from _held(end, facts)


def _failure(end: RunEnded) -> Iterator[Alert]:
    if (failure := end.failure) is not None and end.state == "failed":
        run = f"run {end.run_id}" if end.run_id is not None else f"a {end.command}"
        step = f" in {failure.step}" if failure.step else ""
        message = f"{run} failed{step} (exit code {end.exit_code}): {failure.message}"
        if end.command == "watch":  # it goes on
            message = f"watch goes on with older files, as today's have mistakes: {failure.message}"
        yield _alert(end, "failure", failure.kind, message, failure.hint)


def _refused(end: RunEnded, facts: Facts) -> Iterator[Alert]:
    lines = {line.path: line for line in _files(end) if line.state == "refused"}
    for path in sorted(facts.refused):
        # Others are open already, or were refused before anybody was told.
        if (line := lines.get(path)) is not None:
            hint = "Deliver it again, corrected. See: retailmart quarantine list"
            yield _alert(end, "refused", path, f"{path} is refused: {line.message}", hint)


def _quarantined(settings: AlertSettings, end: RunEnded, facts: Facts) -> Iterator[Alert]:
    limits = settings.quarantine
    for feed, lines in _lines_by_feed(end, facts).items():
        rows = sum(line.quarantined or 0 for line in lines)
        records = sum(line.records or 0 for line in lines)
        money = facts.money.get(feed, Decimal(0))
        share = Decimal(rows) / records if records else Decimal(0)
        over = []
        if limits.rows is not None and rows > limits.rows:
            over.append(f"more than {limits.rows:,} rows")
        if limits.share is not None and share > limits.share:
            over.append(f"{share:.1%} of the rows, more than {limits.share:.1%}")
        if limits.money is not None and abs(money) > limits.money:
            over.append(f"{money:,} of money, more than {limits.money:,}")
        if over and rows:
            said = f"{number_of(rows, 'row')} of {records:,} refused: {'; '.join(over)}"
            hint = f"See: retailmart quarantine list, or export --feed {feed} --to refused.xlsx"
            yield _alert(end, "quarantine", feed, f"{feed}: {said}", hint)


def _late(expected: Mapping[str, Expected], facts: Facts, now: datetime) -> Iterator[Alert]:
    for feed, rule in expected.items():
        newest = facts.loads.get(feed)
        since = f"the newest came {newest:%Y-%m-%d %H:%M} UTC" if newest else "none has ever come"
        why = None
        if rule.hours is not None and (
            newest is None or now - newest > timedelta(hours=rule.hours)
        ):
            why = f"nothing for more than {number_of(rule.hours, 'hour')}"
        deadline = _last_deadline(rule, now)
        if deadline and (newest is None or newest < deadline - timedelta(days=1)):
            why = f"nothing by {deadline:%a %Y-%m-%d %H:%M} {rule.zone}"
        if why:
            hint = "Ask who sends it, and look whether it lies in landing under another name"
            yield Alert("late", feed, f"{feed}: {why}; {since}", hint, now.isoformat())


def _last_deadline(rule: Expected, now: datetime) -> datetime | None:
    """The newest moment by which the feed's files were expected, in the rule's zone."""
    if (clock := rule.clock) is None:
        return None
    zone = ZoneInfo(rule.zone)
    today = now.astimezone(zone).date()
    for back in range(8):
        day = today - timedelta(days=back)
        deadline = datetime.combine(day, clock, zone)
        if DAYS[day.weekday()] in rule.days and deadline <= now:
            return deadline
    return None


def _unusual(settings: AlertSettings, end: RunEnded, facts: Facts) -> Iterator[Alert]:
    if end.report is None:
        return
    limits, day = settings.volume, end.report.as_of.date()
    for feed in _lines_by_feed(end, facts):
        days = facts.volumes.get(feed, {})
        before = [
            days[day - _WEEK * n] for n in range(1, limits.weeks + 1) if day - _WEEK * n in days
        ]
        if day not in days or len(before) < limits.at_least:
            continue
        rows, usual = days[day], Decimal(statistics.median(before))
        if not limits.below * usual <= rows <= limits.above * usual:
            said = (
                f"{number_of(rows, 'row')} on {day:%a %Y-%m-%d}; usual on this weekday: {usual:,}"
            )
            hint = "See whether files are missing, or were delivered twice under other contents"
            yield _alert(end, "volume", feed, f"{feed}: {said}", hint)


def _drift(end: RunEnded) -> Iterator[Alert]:
    for batch in end.report.batches if end.report else ():
        for line in batch.columns:
            name = f"{line.table}.{line.column}"
            what = f"{line.before} → {line.after}" if line.before else f"new, {line.after}"
            message = f"column {name}: {what}, by {line.cause}"
            hint = "See: retailmart schema history"
            yield _alert(end, "drift", f"{name} {line.after}", message, hint)


def _held(end: RunEnded, facts: Facts) -> Iterator[Alert]:
    for one in facts.held:
        if one.cause is None:  # the others follow from these
            yield _alert(
                end, "held", one.mart, f"mart {one.mart} is held back: {one.message}", one.hint
            )
    for table, why in facts.unreadable.items():
        yield _alert(end, "held", f"table {table}", f"table {table} cannot be read: {why}", None)


def _alert(end: RunEnded, kind: str, subject: str, message: str, hint: str | None) -> Alert:
    return Alert(kind, subject, message, hint, end.at.isoformat())


def _files(end: RunEnded) -> tuple[FileLine, ...]:
    """The files that the run took in; those of an undo only left or came back."""
    batches = end.report.batches if end.report else ()
    return tuple(line for batch in batches if batch.undoes is None for line in batch.files)


def _lines_by_feed(end: RunEnded, facts: Facts) -> dict[str, list[FileLine]]:
    found: dict[str, list[FileLine]] = {}
    for line in _files(end):
        if line.state == "loaded" and (feed := facts.feeds.get(line.path)):
            found.setdefault(feed, []).append(line)
    return found


# What is sent


@dataclass(frozen=True)
class Notification:
    """A message to a target: what is new, and what is over."""

    project: str
    opened: tuple[Alert, ...] = ()
    closed: tuple[Alert, ...] = ()
    run_id: int | None = None

    @property
    def title(self) -> str:
        """One line."""
        parts = []
        if self.opened:
            kinds = dict.fromkeys(alert.kind for alert in self.opened)
            parts.append(f"{number_of(len(self.opened), 'alert')} ({', '.join(kinds)})")
        if self.closed:
            parts.append(f"{len(self.closed):,} over")
        return f"retailmart {self.project}: {', '.join(parts) or 'test'}"

    @property
    def text(self) -> str:
        """All of it for people."""
        lines = []
        for alert in self.opened[:_LISTED]:
            lines.append(f"[{alert.kind}] {alert.message}")
            lines += [f"  {line.strip()}" for line in (alert.hint or "").splitlines()]
        if (more := len(self.opened) - _LISTED) > 0:
            lines.append(f"and {more:,} more: retailmart alerts list")
        for alert in self.closed[:_LISTED]:
            lines.append(f"[over] {alert.kind}, since {alert.opened_at[:16]}: {alert.message}")
        if (more := len(self.closed) - _LISTED) > 0:
            lines.append(f"and {more:,} more are over: retailmart alerts list")
        if not lines:
            lines = ["This is a test: alerts of this project arrive here."]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The body for a web address. Slack, Mattermost and Teams show its `text`."""
        return {
            "text": f"{self.title}\n{self.text}",
            "title": self.title,
            "project": self.project,
            "run": self.run_id,
            "opened": [_plain(alert) for alert in self.opened],
            "closed": [_plain(alert) for alert in self.closed],
        }


def _plain(alert: Alert) -> dict[str, Any]:
    return {
        "kind": alert.kind,
        "subject": alert.subject,
        "message": alert.message,
        "hint": alert.hint,
        "opened_at": alert.opened_at,
        "closed_at": alert.closed_at,
    }


def due(
    opened: Sequence[Alert],
    closed: Sequence[Alert],
    notices: Mapping[tuple[int, str], str | None],
    run_began: datetime,
) -> tuple[list[Alert], list[Alert]]:
    """What a target is still to be told: alerts that began, and alerts that are over.

    An alert that was over before the target heard of it, it hears of only if it was tried to tell.
    """
    begun = [one for one in opened if notices.get((one.alert_id or 0, "opened")) is None]
    over = []
    for one in closed:
        key = one.alert_id or 0
        if is_notice(one):
            is_new = datetime.fromisoformat(one.opened_at) >= run_began
            was_tried = (key, "opened") in notices
            if (is_new or was_tried) and notices.get((key, "opened")) is None:
                begun.append(one)
        elif (key, "opened") in notices and notices.get((key, "closed")) is None:
            over.append(one)
    return begun, over


def now_text() -> str:
    """The time as alerts record it."""
    return datetime.now(UTC).isoformat()
