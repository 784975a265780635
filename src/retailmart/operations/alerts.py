"""Alerts of a project: found after each run, told once; listed and tried out by people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retailmart.database import translate_errors
from retailmart.errors import RetailmartError, SettingsError
from retailmart.monitoring.alerts import Facts, Notification, changes, due, is_notice
from retailmart.monitoring.attempts import Attempts, read_attempts, write_attempts
from retailmart.monitoring.events import RunEnded
from retailmart.monitoring.targets import send, tell_all
from retailmart.project import Monitoring, Project
from retailmart.project.monitoring import shown_target
from retailmart.report import Alert
from retailmart.session import PRIVATE, open_ledger

if TYPE_CHECKING:
    from retailmart.ledger import Ledger

# How long alerts that are over stay in the ledger, are listed, and are still told.
_KEPT, _LISTED, _STILL_TOLD = timedelta(days=400), timedelta(days=30), timedelta(days=7)


@dataclass(frozen=True)
class Target:
    """A target of alerts: what people see of it, and by what the ledger knows it."""

    url: str
    name: str

    @property
    def key(self) -> str:
        """The same for the same setting; the address cannot be found from it."""
        return sha256(self.url.encode()).hexdigest()[:32]


def targets_of(known: Monitoring) -> list[Target]:
    """The targets that the settings name, each with another name."""
    names: Counter[str] = Counter()
    found = []
    for url in dict.fromkeys(known.settings.alerts.targets):
        shown = shown_target(url)
        names[shown] += 1
        number = f" #{names[shown]}" if names[shown] > 1 else ""
        found.append(Target(url, f"the alert target {shown}{number}"))
    return found


@dataclass(frozen=True)
class Message:
    """What a target is told, and the alerts in it by their keys in the ledger."""

    target: Target
    notification: Notification
    told: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Outbox:
    """What is to be sent after a run. `ledger` records what was; None if only a file can."""

    known: Monitoring
    messages: tuple[Message, ...]
    ledger: Ledger | None = None

    def jobs(self) -> dict[str, Callable[[], None]]:
        """A job a target, which sends its message."""
        return {one.target.name: _sending(self.known, one) for one in self.messages}

    def record(self, failed: Mapping[str, str]) -> None:
        """Record who was told; those who were not are told by the next run."""
        if self.ledger is not None:
            with translate_errors():
                for one in self.messages:
                    delivered = one.target.name not in failed
                    self.ledger.alerts.record_notices(one.target.key, one.told, delivered=delivered)
                _keep_in_file(self.known, self.ledger, self.ledger.alerts.open())
            return
        private = self.known.folder / PRIVATE
        attempts = read_attempts(private)
        reached = {one.target.key for one in self.messages if one.target.name not in failed}
        told = tuple((alert, tuple({*keys, *reached})) for alert, keys in attempts.alerts)
        write_attempts(private, replace(attempts, alerts=told))


def _sending(known: Monitoring, message: Message) -> Callable[[], None]:
    def job() -> None:
        notification = message.notification
        url = known.url(message.target.url)
        send(url, notification.title, notification.to_dict(), known.settings.notify_within)

    return job


def collect(
    known: Monitoring, project: Project | None, end: RunEnded, ledger: Ledger | None
) -> Outbox:
    """Find what is new and what is over, record it, and say what each target is to be told.

    With a ledger (whose lease is held) it is recorded there, else in a file beside it.
    """
    if project is not None and ledger is not None and ledger.lease is not None:
        try:
            with translate_errors():
                return _collect_in_ledger(known, project, end, ledger)
        except RetailmartError:
            if end.failure is None:
                raise
            # What ended the run, as a database that is away, keeps the ledger from knowing it.
    return _collect_in_file(known, end)


def _collect_in_ledger(
    known: Monitoring, project: Project, end: RunEnded, ledger: Ledger
) -> Outbox:
    alerts, settings = ledger.alerts, known.settings.alerts
    _take_from_file(known.folder / PRIVATE, ledger)
    before = alerts.open()
    found = changes(settings, end, facts_of(project, end, ledger), before)
    for alert in found.opened:
        over = end.at.isoformat() if is_notice(alert) else None
        alerts.add(replace(alert, closed_at=over), end.run_id)
    if found.closed:
        alerts.close(
            [one.alert_id for one in found.closed if one.alert_id is not None],
            end.run_id,
            end.at.isoformat(),
        )
    alerts.forget_before(end.at - _KEPT)
    opened, closed = alerts.open(), alerts.closed_since(end.at - _STILL_TOLD)
    _keep_in_file(known, ledger, opened)
    keys = [one.alert_id for one in (*opened, *closed) if one.alert_id is not None]
    messages = []
    for target in targets_of(known):
        begun, over_now = due(opened, closed, alerts.notices(target.key, keys), end.at)
        if begun or over_now:
            note = Notification(project.folder.name, tuple(begun), tuple(over_now), end.run_id)
            told = [(one.alert_id or 0, "opened") for one in begun]
            told += [(one.alert_id or 0, "closed") for one in over_now]
            messages.append(Message(target, note, tuple(told)))
    return Outbox(known, tuple(messages), ledger)


def _take_from_file(private: Path, ledger: Ledger) -> None:
    """Record alerts that the ledger could not take when they began."""
    attempts = read_attempts(private)
    if not attempts.alerts:
        return
    known = {alert.key: alert.alert_id for alert in ledger.alerts.open()}
    for alert, told in attempts.alerts:
        alert_id = known.get(alert.key) or ledger.alerts.add(alert, None)
        for target in told:
            ledger.alerts.record_notices(target, [(alert_id, "opened")], delivered=True)


def _keep_in_file(known: Monitoring, ledger: Ledger, opened: Iterable[Alert]) -> None:
    """Keep what a run that can't read the ledger would tell again: open failures, and who knows."""
    private = known.folder / PRIVATE
    attempts = read_attempts(private)
    failures = {one.alert_id: one for one in opened if one.kind == "failure"}
    reached: dict[int | None, list[str]] = {key: [] for key in failures}
    for target in targets_of(known) if failures else ():
        notices = ledger.alerts.notices(target.key, [key for key in failures if key is not None])
        for (key, about), sent in notices.items():
            if about == "opened" and sent is not None:
                reached[key].append(target.key)
    kept = tuple((alert, tuple(reached[key])) for key, alert in failures.items())
    if kept != attempts.alerts:
        with suppress(OSError):  # a full disk: perhaps told twice
            write_attempts(private, replace(attempts, alerts=kept))


def _collect_in_file(known: Monitoring, end: RunEnded) -> Outbox:
    private = known.folder / PRIVATE
    attempts = read_attempts(private)
    before = [alert for alert, _ in attempts.alerts]
    found = changes(known.settings.alerts, end, None, before)
    kept = [*attempts.alerts, *((alert, ()) for alert in found.opened)]
    with suppress(OSError):  # a full disk: told without being kept, and so perhaps twice
        write_attempts(private, Attempts(attempts.last, attempts.failures, tuple(kept)))
    messages = []
    for target in targets_of(known):
        new = tuple(alert for alert, told in kept if target.key not in told)
        if new:
            note = Notification(known.folder.name, new, (), end.run_id)
            messages.append(Message(target, note))
    return Outbox(known, tuple(messages))


def facts_of(project: Project, end: RunEnded, ledger: Ledger) -> Facts:
    """What the ledger knows besides the run's own end."""
    from retailmart.operations.status import held_back

    settings = project.settings.alerts
    files = [
        file
        for batch in (end.report.batches if end.report else ())
        for file in ledger.files.of_batch(batch.batch_id)
    ]
    feeds = {file.path: file.feed for file in files if file.feed}
    figures = ledger.figures
    volumes: Mapping[str, Mapping[Any, int]] = {}
    if feeds and "volume" in settings.on and end.report:
        since = end.report.as_of.date() - timedelta(days=7 * settings.volume.weeks)
        volumes = figures.loaded_by_day(since)
    return Facts(
        feeds=feeds,
        refused=ledger.refusals.open_paths(),
        held=tuple(one for one in held_back(ledger) if one.mart in project.marts),
        unreadable=ledger.held.tables(),
        loads={feed: _moment(at) for feed, at in figures.newest_loads().items()},
        volumes=volumes,
        money=_money(project, end, ledger, feeds) if settings.quarantine.money is not None else {},
        have_changed=project.stamp_now() != project.stamp,
    )


def _money(
    project: Project, end: RunEnded, ledger: Ledger, feeds: Mapping[str, str]
) -> dict[str, Decimal]:
    """The money that the run refused, by feed, as far as it can be read."""
    from retailmart.operations.metrics import open_in_quarantine

    paths: dict[str, list[str]] = {}
    for line in end.report.files if end.report else ():
        if line.quarantined and (feed := feeds.get(line.path)) in project.feeds:
            paths.setdefault(str(feed), []).append(line.path)
    return {
        feed: open_in_quarantine(project, ledger, project.feeds[feed], some)[1] or Decimal(0)
        for feed, some in paths.items()
    }


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# For people


@dataclass(frozen=True)
class AlertList:
    """The alerts of a project: those that are open, those that are over since 30 days."""

    open: tuple[Alert, ...]
    over: tuple[Alert, ...]
    targets: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The list as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class TargetTest:
    """A target that was sent a test; `problem` is why it did not arrive."""

    target: str
    problem: str | None = None


@dataclass(frozen=True)
class AlertTest:
    """What became of a test message to each target."""

    targets: tuple[TargetTest, ...]

    @property
    def failed(self) -> tuple[TargetTest, ...]:
        """The targets that it did not reach."""
        return tuple(one for one in self.targets if one.problem is not None)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {"delivered": not self.failed, **asdict(self)}


def list_alerts(project: Project) -> AlertList:
    """What is not well, as the last runs found it, and what is over."""
    names = tuple(
        target.name.removeprefix("the alert target ") for target in targets_of(project.monitoring())
    )
    with open_ledger(project) as ledger, translate_errors():
        over = ledger.alerts.closed_since(datetime.now(UTC) - _LISTED)
        opened = ledger.alerts.open()
    known = {alert.key for alert in opened}
    beside = (alert for alert, _ in read_attempts(project.folder / PRIVATE).alerts)
    return AlertList(
        (*opened, *(alert for alert in beside if alert.key not in known)),
        tuple(reversed(over)),
        names,
    )


def try_alerts(project: Project) -> AlertTest:
    """Send a test message to every target. SettingsError if there is none."""
    known = project.monitoring()
    targets = targets_of(known)
    if not targets:
        raise SettingsError(
            ["retailmart.yml names no target for alerts"],
            'Write under `alerts:`, for example, targets: ["${secret:SLACK}"], and store the'
            " address with: retailmart secrets set SLACK",
        )
    note = Notification(project.folder.name)
    jobs = {one.name: _sending(known, Message(one, note)) for one in targets}
    # A person waits for this one; the bound is that of runs all the same, as that is what is tried.
    failed = tell_all(jobs, known.settings.notify_within)
    return AlertTest(
        tuple(
            TargetTest(one.name.removeprefix("the alert target "), failed.get(one.name))
            for one in targets
        )
    )
