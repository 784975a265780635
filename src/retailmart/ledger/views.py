"""Views of the ledger for people with a SQL client; docs/ledger.md is their contract.

Their columns hold plain numbers, texts and times. A migration that changes a column which a view
reads drops the views first: PostgreSQL and SQLite refuse the change otherwise.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Numeric,
    Select,
    Text,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
)

from retailmart.ledger import tables as t
from retailmart.ledger.values import STATE_WORDS

_FILES, _RUNS, _STEPS = "retailmart_v_files", "retailmart_v_runs", "retailmart_v_steps"
NAMES = (_FILES, _RUNS, _STEPS)

# The ledger's money is text. PostgreSQL keeps its digits, MySQL needs to know how many; SQLite has
# no decimals, and no exact number for more than 15 digits.
_MONEY = Numeric().with_variant(Numeric(65, 4), "mysql", "mariadb")
# SQLite has no times: a cast to one would leave the year.
_TIME = DateTime().with_variant(Text(), "sqlite")


def create_views(connection: Connection) -> None:
    """Create the views, or replace those of an earlier release."""
    for name, query in ((_FILES, _files()), (_RUNS, _runs()), (_STEPS, _steps())):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        text = query.compile(connection.engine, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {text}")


def drop_views(connection: Connection) -> None:
    """Drop the views, so that the columns which they read can be changed."""
    for name in NAMES:
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")


def _files() -> Select[Any]:
    file, batch = t.files.c, t.batches.c
    months = (
        select(
            t.file_months.c.file_id,
            func.min(t.file_months.c.month).label("first_month"),
            func.max(t.file_months.c.month).label("last_month"),
        )
        .group_by(t.file_months.c.file_id)
        .subquery("m")
    )
    return select(
        file.file_id,
        file.path,
        file.feed,
        _in_words(file.state).label("state"),
        file.message.label("reason"),
        file.records.label("rows_read"),
        file.loaded.label("rows_accepted"),
        file.quarantined.label("rows_quarantined"),
        cast(file.amount, _MONEY).label("amount"),
        months.c.first_month,
        months.c.last_month,
        file.size.label("size_bytes"),
        file.sha256,
        file.supersedes.label("replaces_file_id"),
        batch.run_id.label("run"),
        _time(t.runs.c.started_at).label("run_began"),
        _archive_folder().label("archive_folder"),
    ).select_from(
        t.files.join(t.batches, file.batch_id == batch.batch_id)
        .join(t.runs, batch.run_id == t.runs.c.run_id)
        .outerjoin(months, months.c.file_id == file.file_id)
    )


def _runs() -> Select[Any]:
    run, batch = t.runs.c, t.batches.c
    stayed = t.files.c.state != "released"
    counts = (
        select(
            batch.run_id,
            func.count(t.files.c.file_id).label("files"),
            func.sum(case((t.files.c.state == "refused", 1), else_=0)).label("files_refused"),
            func.sum(t.files.c.records).label("rows_read"),
            func.sum(t.files.c.loaded).label("rows_accepted"),
            func.sum(t.files.c.quarantined).label("rows_quarantined"),
        )
        .select_from(t.files.join(t.batches, t.files.c.batch_id == batch.batch_id))
        .where(stayed)
        .group_by(batch.run_id)
        .subquery("c")
    )
    undone = (
        select(batch.run_id, func.max(batch.undoes).label("undid_run"))
        .where(batch.undoes.is_not(None))
        .group_by(batch.run_id)
        .subquery("u")
    )
    failed = (
        select(t.steps.c.run_id, func.max(t.steps.c.step).label("step"))
        .where(t.steps.c.state == "failed")
        .group_by(t.steps.c.run_id)
        .subquery("s")
    )

    def counted(name: str) -> ColumnElement[Any]:
        return func.coalesce(counts.c[name], 0).label(name)

    return select(
        run.run_id.label("run"),
        _time(run.as_of).label("as_of"),
        _time(run.started_at).label("began"),
        _time(run.finished_at).label("ended"),
        _in_words(run.state).label("outcome"),
        run.message.label("error"),
        failed.c.step.label("failed_step"),
        undone.c.undid_run,
        counted("files"),
        counted("files_refused"),
        counted("rows_read"),
        counted("rows_accepted"),
        counted("rows_quarantined"),
        run.exit_code,
    ).select_from(
        t.runs.outerjoin(counts, counts.c.run_id == run.run_id)
        .outerjoin(undone, undone.c.run_id == run.run_id)
        .outerjoin(failed, failed.c.run_id == run.run_id)
    )


def _steps() -> Select[Any]:
    step = t.steps.c
    return select(
        step.run_id.label("run"),
        step.step_id,
        step.step,
        func.round(step.milliseconds * literal_column("0.001"), 3).label("seconds"),
        func.coalesce(step.state, "done").label("outcome"),
    )


def _in_words(state: ColumnElement[Any]) -> ColumnElement[Any]:
    return case(STATE_WORDS, value=state, else_=state)


def _time(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """An ISO text in UTC as a time, to the second: as_of may lack a fraction, others have one."""
    return cast(func.replace(func.substr(column, 1, 19), "T", " "), _TIME)


def _archive_folder() -> ColumnElement[Any]:
    """Where the archive has the file, below its own place; NULL as long as landing has it."""
    state, stamp = t.files.c.state, t.batches.c.stamp
    return case(
        (t.batches.c.state != "done", null()),
        (state == "released", null()),
        (state == "refused", literal("error_files/").concat(t.files.c.folder)),
        (state == "undone", literal("undone/").concat(stamp)),
        else_=literal("processed/").concat(stamp),
    )
