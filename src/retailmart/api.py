"""The Python API: everything that a user can ask, as methods; `retailmart COMMAND` calls them."""

# Operations are imported where they are called: a command waits for the libraries it needs only.
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from retailmart.project import Project, load_project
from retailmart.project import open_secrets as secrets_of

if TYPE_CHECKING:
    from threading import Event

    import duckdb

    from retailmart.check_results import CheckResult, DoctorReport
    from retailmart.feeds.replay import Dropped
    from retailmart.lake import Lake
    from retailmart.ledger import Ledger
    from retailmart.monitoring.events import Observer
    from retailmart.operations.alerts import AlertList, AlertTest
    from retailmart.operations.ask import Answer
    from retailmart.operations.check import CheckReport
    from retailmart.operations.explain import Explanation
    from retailmart.operations.lease import BrokenLease, LeaseStatus
    from retailmart.operations.marts import MartList
    from retailmart.operations.plan.make import RunPlan
    from retailmart.operations.quarantine import Dismissed, QuarantinedFile, QuarantineList
    from retailmart.operations.report import WrittenReport
    from retailmart.operations.run_status import RunStatus
    from retailmart.operations.schema import SchemaDiff, SchemaHistory
    from retailmart.operations.settings import GivenSettings, SettingsHistory
    from retailmart.operations.status import LeaseLine, Status
    from retailmart.operations.warned import WarnedRows
    from retailmart.operations.watch import Observer as WatchObserver
    from retailmart.operations.watch import WatchReport
    from retailmart.project.monitoring import LogSettings
    from retailmart.project.secrets import SecretStore
    from retailmart.report import (
        DatabaseReport,
        MaintenanceReport,
        Progress,
        RunReport,
        VerifyReport,
    )


def create_project(
    folder: str | Path, *, sample: bool = False, parts: Iterable[str] | None = None
) -> list[Path]:
    """Write a new project: settings, feeds, tables and marts. Returns the files.

    `parts` are what the shop has, of `tills`, `webshop` and `markets`; default all. With `sample`,
    an invented shop's first three months land, too. Raises SettingsError for an unknown part, and
    instead of changing a file that exists.
    """
    from retailmart.template import STORIES, write_project

    stories = STORIES if parts is None else parts
    return write_project(Path(folder), sample=sample, stories=stories)


def open_project(path: str | Path, settings: Mapping[str, object] | None = None) -> OpenProject:
    """Open a project folder; `settings` override its retailmart.yml.

    Raises SettingsError with every mistake in the project's files.
    """
    return OpenProject(load_project(Path(path), settings))


def open_secrets(path: str | Path) -> SecretStore:
    """The encrypted secrets of a project folder, even if its files have mistakes.

    Raises NotAProject if there is no retailmart.yml.
    """
    return secrets_of(Path(path))


def tell_unopened(
    path: str | Path,
    settings: Mapping[str, object] | None,
    command: str,
    error: BaseException,
    observers: Sequence[Observer] = (),
) -> None:
    """Notify observers and targets that a run could not begin: `open_project` raised `error`."""
    from retailmart.operations.monitor import tell_unopened

    tell_unopened(Path(path), settings, command, error, observers)


def log_settings(path: str | Path, settings: Mapping[str, object] | None = None) -> LogSettings:
    """What a project says of its log, even if its files have mistakes."""
    from retailmart.project import load_monitoring
    from retailmart.project.monitoring import LogSettings

    known = load_monitoring(Path(path), settings)
    return known.settings.log if known else LogSettings()


def json_log(stream: TextIO, level: str = "info") -> Observer:
    """An observer that writes a run's log to a stream: a JSON object a line."""
    from retailmart.monitoring.log import log_to_stream

    return log_to_stream(stream, as_json=True, level=level)


def log_line(message: str, level: str = "info") -> str:
    """A message as a line of a log in JSON."""
    from retailmart.monitoring.log import message_entry

    return message_entry(message, level).to_json()


@dataclass(frozen=True)
class OpenProject:
    """A project folder whose files were read and found good.

    Each command has a method of its name, as `quarantine_list` for `retailmart quarantine list`.
    What the command prints with `--output json` is `to_dict()` of what the method returns. `as_of`
    is a moment in UTC; `progress` receives the progress.
    """

    project: Project

    def run(
        self,
        as_of: datetime | None = None,
        progress: Progress | None = None,
        observers: Sequence[Observer] = (),
        *,
        plan: str | Path | None = None,
    ) -> RunReport:
        """Bring everything that has landed into the marts, exactly once. See operations.run.

        With the file of a `plan`, it does just what that says, or raises GateFailed.
        """
        if plan is not None:
            from retailmart.operations.plan.carry_out import carry_out

            return carry_out(self.project, Path(plan), as_of, progress, observers)
        from retailmart.operations.run import run

        return run(self.project, as_of, progress, observers)

    def plan(self, as_of: datetime | None = None, progress: Progress | None = None) -> RunPlan:
        """What a run would do now, in files, rows and money. Nothing changes."""
        from retailmart.operations.plan.intended import a_run
        from retailmart.operations.plan.make import plan

        return plan(self.project, a_run(), as_of, progress)

    def plan_undo(
        self, run_id: int, as_of: datetime | None = None, progress: Progress | None = None
    ) -> RunPlan:
        """What the undo of a run would do now. Nothing changes."""
        from retailmart.operations.plan.intended import an_undo
        from retailmart.operations.plan.make import plan

        return plan(self.project, an_undo(run_id), as_of, progress)

    def plan_backfill(
        self,
        feed: str,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime | None = None,
        progress: Progress | None = None,
        *,
        skip_missing: bool = False,
    ) -> RunPlan:
        """What a backfill would do now. Nothing changes."""
        from retailmart.operations.plan.intended import a_backfill
        from retailmart.operations.plan.make import plan

        meant = a_backfill(self.project, feed, start, end, skip_missing=skip_missing)
        return plan(self.project, meant, as_of, progress)

    def plan_rebuild(
        self,
        marts: Sequence[str] | None = None,
        as_of: datetime | None = None,
        progress: Progress | None = None,
    ) -> RunPlan:
        """What a rebuild would do now: what differs was changed by others. Nothing changes."""
        from retailmart.operations.plan.intended import a_rebuild
        from retailmart.operations.plan.make import plan

        return plan(self.project, a_rebuild(self.project, marts), as_of, progress)

    def watch(
        self,
        observer: WatchObserver | None = None,
        progress: Progress | None = None,
        observers: Sequence[Observer] = (),
        *,
        runs: int | None = None,
        reload: Event | None = None,
    ) -> WatchReport:
        """Run whenever something lands or may have changed, until somebody asks to stop.

        `observer` is called with each report and each failure, `observers` are those of each run;
        with `runs`, the watch ends after so
        many. Setting `reload` has the project's files read again at once. It is stopped from
        another thread by the `Stop` in whose `with` it works, or by signals in `stop_on_signals()`.
        See operations.watch.
        """
        from retailmart.operations.watch import watch

        return watch(self.project, observer, progress, observers, runs=runs, reload=reload)

    def undo(
        self,
        run_id: int,
        as_of: datetime | None = None,
        progress: Progress | None = None,
        observers: Sequence[Observer] = (),
    ) -> RunReport:
        """Undo a run in raw, marts, database and archive. See operations.undo."""
        from retailmart.operations.undo import undo

        return undo(self.project, run_id, as_of, progress, observers)

    def backfill(
        self,
        feed: str,
        start: date | None = None,
        end: date | None = None,
        as_of: datetime | None = None,
        progress: Progress | None = None,
        observers: Sequence[Observer] = (),
        *,
        skip_missing: bool = False,
    ) -> RunReport:
        """Read archived files of a feed again, as the feed is now. See operations.backfill.

        `start` and `end` are the first and the last day (UTC) on which they came; default all.
        """
        from retailmart.operations.backfill import backfill

        return backfill(
            self.project, feed, start, end, as_of, progress, observers, skip_missing=skip_missing
        )

    def rebuild(
        self,
        marts: Sequence[str] | None = None,
        as_of: datetime | None = None,
        progress: Progress | None = None,
        observers: Sequence[Observer] = (),
    ) -> RunReport:
        """Build marts again from all rows; without names, every mart. See operations.rebuild."""
        from retailmart.operations.rebuild import rebuild

        return rebuild(self.project, marts, as_of, progress, observers)

    def abandon(self, progress: Progress | None = None) -> str:
        """Abandon an open batch that is not prepared yet. See operations.abandon."""
        from retailmart.operations.abandon import abandon

        return abandon(self.project, progress)

    def check(self) -> CheckReport:
        """Raise SettingsError with every mistake in the project's files; nothing is changed.

        Marts and rules are bound to the columns of what they read, as far as sources and lake can
        be asked; `unasked` of the report says what did not answer. Only functions.py is executed.
        """
        from retailmart.operations.check import check

        return check(self.project)

    def doctor(
        self,
        *,
        spark: bool = False,
        seconds: float = 25.0,
        each: Callable[[CheckResult], None] | None = None,
    ) -> DoctorReport:
        """Check the project, database, sources, stores and machine; `spark` also Java and Spark.

        What does not answer in `seconds` is a problem. `each` gets a result once it is known.
        """
        from retailmart.operations.doctor import doctor

        return doctor(self.project, spark=spark, seconds=seconds, each=each)

    def maintain(
        self,
        *,
        dry_run: bool = False,
        tables: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> MaintenanceReport:
        """Merge small files, remove what no version needs any more, fold the ledger's old rows.

        `tables` are those of the lake to look after, as `raw/sales` or `sales`; default all. No row
        changes. With `dry_run` nothing does. See operations.maintain.
        """
        from retailmart.operations.maintain import maintain

        return maintain(self.project, dry_run=dry_run, tables=tables, progress=progress)

    def status(self, *, landing: bool = False) -> Status:
        """How the project is, the last runs, and what is open, refused, held back or expected.

        Only the ledger is read, and nothing is written; with `landing`, landing is listed, too.
        """
        from retailmart.operations.status import status

        return status(self.project, landing=landing)

    def run_status(self, run_id: int) -> RunStatus:
        """One run whole: its steps, files, marts and error. Nothing is written.

        Raises RetailmartError if there is no such run.
        """
        from retailmart.operations.run_status import run_status

        return run_status(self.project, run_id)

    def settings(self) -> GivenSettings:
        """Each setting, its value and where it comes from. Secrets are neither read nor shown."""
        from retailmart.operations.settings import settings

        return settings(self.project)

    def settings_history(self) -> SettingsHistory:
        """What changed in settings, feeds, tables, marts and functions, and with which run."""
        from retailmart.operations.settings import settings_history

        return settings_history(self.project)

    def lease_show(self) -> LeaseStatus:
        """Who holds the project, and the leases that were broken. Nothing is written."""
        from retailmart.operations.lease import lease_status

        return lease_status(self.project)

    def lease_break(
        self, *, force: bool = False, confirm: Callable[[LeaseLine], bool] = lambda _: True
    ) -> BrokenLease:
        """Take the lease from a holder that is known to be dead, who can write nothing more.

        `confirm` is asked before. Raises ProjectBusy if it seems to be alive, unless `force` is
        set.
        """
        from retailmart.operations.lease import break_lease

        return break_lease(self.project, force=force, confirm=confirm)

    def alerts_list(self) -> AlertList:
        """The alerts that are open, and those that are over since 30 days."""
        from retailmart.operations.alerts import list_alerts

        return list_alerts(self.project)

    def alerts_test(self) -> AlertTest:
        """Send a test message to every target of alerts. SettingsError if there is none."""
        from retailmart.operations.alerts import try_alerts

        return try_alerts(self.project)

    def metrics(self) -> str:
        """The project's figures in the text format of Prometheus. See operations.metrics."""
        from retailmart.operations.metrics import render_metrics

        return render_metrics(self.project)

    def verify(
        self,
        engines: Sequence[str] = ("duckdb", "spark"),
        runs: int | None = 0,
        as_of: datetime | None = None,
        progress: Progress | None = None,
    ) -> VerifyReport:
        """Rebuild the marts on each engine, and compare them with each other and the lake's.

        The files of the last `runs` runs are parsed again and compared, too; None means all runs.
        Nothing is changed, and runs continue meanwhile. Raises SettingsError for an unknown engine,
        MartNotBuilt before the first run, ProjectBusy while one commits.
        """
        from retailmart.operations.verify.marts import verify

        return verify(self.project, engines, runs, as_of, progress)

    def verify_database(
        self, marts: Sequence[str] = (), progress: Progress | None = None
    ) -> DatabaseReport:
        """Compare published tables with their marts, row by row and value by value.

        `marts` are all that are published, unless some are named. Nothing is changed, and runs
        continue meanwhile. Raises MartNotBuilt before the first run, ProjectBusy while one
        publishes.
        """
        from retailmart.operations.verify.published import verify_database

        return verify_database(self.project, marts, progress)

    def quarantine_list(
        self, *, include_closed: bool = False, dismissed: bool = False
    ) -> QuarantineList:
        """How many refused rows are open, by file and rule; and files that were refused.

        `dismissed` adds what nobody will repair, with the reason.
        """
        from retailmart.operations.quarantine import list_refused

        return list_refused(self.project, include_closed=include_closed, dismissed=dismissed)

    def quarantine_warned(self, file: str | None = None) -> WarnedRows:
        """Loaded rows that break a rule which only warns, with file and line.

        They are read again from the archive, of one file or of all. Raises RetailmartError if no
        such file was ever delivered.
        """
        from retailmart.operations.warned import warned

        return warned(self.project, file)

    def quarantine_dismiss(
        self,
        file: str | None = None,
        *,
        rule: str | None = None,
        lines: Collection[int] = (),
        reason: str | None = None,
        undo: bool = False,
    ) -> Dismissed:
        """Say that nobody will repair rows of a file or rule, or a refused file, and why.

        With `undo` they are open again. Raises RetailmartError if nothing is chosen by that.
        """
        from retailmart.operations.quarantine import dismiss

        return dismiss(self.project, file, rule=rule, lines=lines, reason=reason, undo=undo)

    def quarantine_show(self, file: str, *, include_closed: bool = False) -> QuarantinedFile:
        """The open refused rows of a file, given by its path below landing or its name.

        Raises RetailmartError if no such file was ever delivered.
        """
        from retailmart.operations.quarantine import show_refused

        return show_refused(self.project, file, include_closed=include_closed)

    def quarantine_export(
        self, to: str | Path, file: str | None = None, feed: str | None = None
    ) -> int:
        """Write the open refused rows of a file or a feed as a new .xlsx or .csv to repair.

        Returns how many there are; without any, nothing is written. Raises RetailmartError if `to`
        exists, or if several feeds have refused rows and none is named.
        """
        from retailmart.operations.quarantine import export_refused

        return export_refused(self.project, Path(to), file, feed)

    def quarantine_replay(self, sheet: str | Path) -> Dropped:
        """Put the repaired rows of an exported sheet into landing, all or none.

        Raises RetailmartError, which names every row that can't come back.
        """
        from retailmart.operations.quarantine import replay_repaired

        return replay_repaired(self.project, Path(sheet))

    def schema_history(self, feed: str | None = None) -> SchemaHistory:
        """What changed in the columns of raw tables, of one feed or of all, and the causes."""
        from retailmart.operations.schema import schema_history

        return schema_history(self.project, feed)

    def schema_diff(self, feed: str | None = None) -> SchemaDiff:
        """Where definition and raw differ, and what files in landing would change."""
        from retailmart.operations.schema import schema_diff

        return schema_diff(self.project, feed)

    def drop_table(self, name: str, progress: Progress | None = None) -> bool:
        """Drop a published table of a mart that is gone. Returns whether it still existed.

        A table is dropped only if this project has published it and nobody has built on it. The
        lake is not changed: a mart that comes back is published again. Raises RetailmartError,
        which says why a table is not dropped, or ProjectBusy while a run is at work.
        """
        from retailmart.operations.drop import drop

        return drop(self.project, name, progress)

    def sql(self, query: str) -> Answer:
        """The rows of one SELECT over marts, feeds and source tables, by their names.

        What was refused of a feed is `quarantine.FEED`. Use it in a `with`; its `relation` is one
        of DuckDB's. Raises RetailmartError if it is no SELECT, MartNotBuilt before the first run.
        """
        from retailmart.operations.ask import ask

        return ask(self.project, query)

    def report(self, to: Path | None = None) -> WrittenReport:
        """Write the shop on one HTML page, by default to reports/report.html of the project.

        Raises MissingExtra without the extra `report`, ProjectBusy while a run commits for long,
        and RetailmartError if the file can't be written.
        """
        from retailmart.operations.report import write_report

        return write_report(self.project, to)

    def show(
        self,
        mart: str,
        *,
        where: str | None = None,
        month: str | None = None,
        columns: Sequence[str] = (),
        limit: int | None = None,
    ) -> Answer:
        """A mart's rows in the order of its key: those of a `month`, as in 2024-03, and `where`.

        Use it in a `with`. Raises RetailmartError for an unknown mart or column.
        """
        from retailmart.operations.ask import show

        return show(self.project, mart, where=where, month=month, columns=columns, limit=limit)

    def explain(
        self, mart: str, key: Mapping[str, object], *, column: str | None = None
    ) -> Explanation:
        """Why a mart's number is what it is: its rule, its delivered rows, and the check.

        `key` names the row by its columns. Nothing is written. Raises RetailmartError for an
        unknown mart or column, or a key that leaves several rows. See operations.explain.
        """
        from retailmart.operations.explain import explain

        return explain(self.project, mart, key, column=column)

    def marts_list(self) -> MartList:
        """The project's marts: what each is, rows, months, when it was built, where it is shown."""
        from retailmart.operations.marts import list_marts

        return list_marts(self.project)

    def mart(self, name: str) -> duckdb.DuckDBPyRelation:
        """A mart as a DuckDB relation; `.to_arrow_table()` and `.df()` give Arrow and pandas.

        Raises MartNotBuilt before the first run, RetailmartError for an unknown name.
        """
        from retailmart.operations.read import mart_rows

        return mart_rows(self.project, name)

    def quarantine(self, feed: str) -> duckdb.DuckDBPyRelation | None:
        """A feed's refused rows, open and closed, or None while there are none."""
        from retailmart.operations.read import refused_rows

        return refused_rows(self.project, feed)

    @property
    def lake(self) -> Lake:
        """The project's lake."""
        from retailmart.session import open_lake

        return open_lake(self.project)

    def ledger(self) -> AbstractContextManager[Ledger]:
        """The project's ledger, for reading; closed at the end of a `with`."""
        from retailmart.session import open_ledger

        return open_ledger(self.project)
