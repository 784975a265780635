"""What a published batch leaves in the ledger: files, balances, columns, marts and sources."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from retailmart.ledger import tables as t
from retailmart.ledger.held import put_held
from retailmart.ledger.marts import shows_nothing
from retailmart.ledger.rows import READABLE, chunks, execute_many, now, put
from retailmart.ledger.sources import put_source
from retailmart.ledger.values import (
    Batch,
    BatchState,
    FileState,
    MartRecord,
    MonthTotals,
    Outcome,
    Totals,
    definition_of,
)
from retailmart.report import Held


def record(
    connection: Connection, batch: Batch, outcome: Outcome, published: Iterable[MartRecord]
) -> None:
    """Record what a batch leaves, and what its marts' tables show."""
    _settle_files(connection, batch, outcome)
    _write_files(connection, outcome)
    _write_counted(connection, outcome)
    _write_replays(connection, outcome)
    _write_balances(connection, outcome)
    _write_schemas(connection, batch, outcome)
    for source in outcome.sources.values():
        put_source(connection, source)
    _write_marts(connection, batch, outcome, {one.name: one for one in published})
    put_held(connection, outcome.marts, (Held(**one) for one in outcome.notes.get("held", ())))


def _settle_files(connection: Connection, batch: Batch, outcome: Outcome) -> None:
    """Give the files of a batch, and those that it replaces, takes back or brings back, a state."""
    active = t.files.c.state == FileState.ACTIVE.value
    connection.execute(
        update(t.files)
        .where(t.files.c.batch_id == batch.batch_id, active)
        .values(state=FileState.LOADED.value)
    )
    superseded = select(t.files.c.supersedes).where(
        t.files.c.batch_id == batch.batch_id, t.files.c.supersedes.is_not(None)
    )
    ids = list(connection.scalars(superseded))
    if ids:
        connection.execute(
            update(t.files)
            .where(t.files.c.file_id.in_(ids))
            .values(state=FileState.SUPERSEDED.value)
        )
    if batch.undoes is not None:
        _mark_undone(connection, batch.undoes)
    for some in chunks(outcome.returned):
        again = t.files.c.file_id.in_(some)
        duplicate = t.files.c.state == FileState.DUPLICATE.value
        connection.execute(update(t.files).where(again, duplicate).values(message=None))
        connection.execute(update(t.files).where(again).values(state=FileState.LOADED.value))


def _write_marts(
    connection: Connection, batch: Batch, outcome: Outcome, records: Mapping[str, MartRecord]
) -> None:
    """Record by what marts are built, and which table shows which version of which."""
    for name in {*outcome.marts, *records}:
        values: dict[str, Any] = {}
        if name in outcome.marts:
            values["fingerprint"] = outcome.marts[name]
            if definition := definition_of(outcome.marts[name]):
                values["built_as_of"] = batch.as_of.isoformat()
                values["built_by"] = definition
        if shown := records.get(name):
            values["published_as"] = shown.published_as
            values["published_version"] = shown.published_version
            values["published_fingerprint"] = shown.published_fingerprint
        put(connection, t.marts, {"name": name}, values)
    for name, shown in records.items():
        if shown_as := shown.published_as:
            shows = {"mart": name, "version": shown.published_version}
            put(connection, t.published, {"name": shown_as}, shows)
            others = (t.marts.c.published_as == shown_as) & (t.marts.c.name != name)
            connection.execute(shows_nothing().where(others))


def undone_with(run_id: int) -> Any:
    """Whether undoing a run undoes a batch. The batch of an undo itself never is."""
    columns = t.batches.c
    ours = (columns.run_id == run_id) | (columns.finished_by == run_id)
    return ours & columns.undoes.is_(None) & (columns.state != BatchState.ABANDONED.value)


def _mark_undone(connection: Connection, run_id: int) -> None:
    batches = select(t.batches.c.batch_id).where(undone_with(run_id))
    connection.execute(
        update(t.files)
        .where(t.files.c.batch_id.in_(batches), t.files.c.state.in_(READABLE))
        .values(state=FileState.UNDONE.value)
    )


def _write_files(connection: Connection, outcome: Outcome) -> None:
    counts = (
        {
            "key": file.file_id,
            "records": file.records,
            "loaded": file.loaded,
            "quarantined": file.quarantined,
            "amount": None if file.amount is None else str(file.amount),
            "refused_again": file.again,
        }
        for file in outcome.files
    )
    columns = ("records", "loaded", "quarantined", "amount", "refused_again")
    each = update(t.files).where(t.files.c.file_id == bindparam("key"))
    execute_many(connection, each.values({name: bindparam(name) for name in columns}), counts)
    # A file that counts again was loaded before.
    for ids in chunks(outcome.returned):
        connection.execute(delete(t.file_months).where(t.file_months.c.file_id.in_(ids)))
    _put_months(connection, {file.file_id: file.months for file in outcome.files})


def _write_counted(connection: Connection, outcome: Outcome) -> None:
    """Record how tables are counted, and what that makes of files that were loaded before."""
    for one in outcome.counted:
        columns = {"month": one.month, "balance": one.balance}
        put(connection, t.counted, {"table_name": one.table}, columns)
        for ids in chunks(one.files):
            connection.execute(delete(t.file_months).where(t.file_months.c.file_id.in_(ids)))
        amounts = {key: sum(months.values(), Totals()) for key, months in one.files.items()}
        said = [
            {"key": key, "said": str(total.amount) if one.balance else None}
            for key, total in amounts.items()
        ]
        if said:
            each = update(t.files).where(t.files.c.file_id == bindparam("key"))
            connection.execute(each.values(amount=bindparam("said")), said)
        if one.month:
            _put_months(connection, one.files)


def _put_months(connection: Connection, files: Mapping[int, MonthTotals]) -> None:
    rows = (
        {
            "file_id": file_id,
            "month": month,
            "row_count": totals.rows,
            "amount": str(totals.amount),
        }
        for file_id, months in files.items()
        for month, totals in months.items()
    )
    execute_many(connection, insert(t.file_months), rows)


def _write_replays(connection: Connection, outcome: Outcome) -> None:
    rows = [
        {"file_id": file.file_id, "origin_file_id": origin, "origin_line": line}
        for file in outcome.files
        for origin, line in file.origins
    ]
    for ids in chunks(outcome.returned):
        connection.execute(delete(t.replays).where(t.replays.c.file_id.in_(ids)))
    if rows:
        connection.execute(insert(t.replays), rows)


def _write_balances(connection: Connection, outcome: Outcome) -> None:
    columns = t.table_months.c
    for table, months in outcome.balances.items():
        connection.execute(
            delete(t.table_months).where(columns.table_name == table, columns.month.in_(months))
        )
        rows = [
            {
                "table_name": table,
                "month": month,
                "row_count": totals.rows,
                "amount": str(totals.amount),
            }
            for month, totals in months.items()
        ]
        if rows:
            connection.execute(insert(t.table_months), rows)


def _write_schemas(connection: Connection, batch: Batch, outcome: Outcome) -> None:
    """Add a row for each table whose columns, or knowledge of them, have changed."""
    columns = t.schemas.c
    for one in outcome.schemas:
        fields = json.dumps([asdict(column) for column in one.columns])
        known = connection.scalar(
            select(columns.fields)
            .where(columns.table_name == one.table)
            .order_by(columns.batch_id.desc())
            .limit(1)
        )
        if known != fields:
            connection.execute(
                insert(t.schemas).values(
                    table_name=one.table,
                    batch_id=batch.batch_id,
                    changed_at=now(),
                    fields=fields,
                    causes=json.dumps([asdict(change) for change in one.changes]),
                )
            )
