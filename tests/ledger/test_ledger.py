"""The ledger: states move by compare-and-set, stamps are never shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import event

from retailmart.database import open_database
from retailmart.errors import RetailmartError
from retailmart.ledger import Ledger, acquire_lease
from retailmart.ledger.values import (
    Batch,
    BatchState,
    FileOutcome,
    FileState,
    NewFile,
    Outcome,
    SourceRecord,
    Totals,
)

_AS_OF = datetime(2024, 4, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A new ledger, held by this test."""
    engine = open_database("sqlite:///retail.db", tmp_path)
    Ledger(engine).migrate()
    with acquire_lease(engine, tmp_path / "lock") as lease:
        yield Ledger(engine, lease)
    engine.dispose()


def new_file(path: str, sha256: str = "a", supersedes: int | None = None) -> NewFile:
    """A file to be loaded."""
    return NewFile(path, sha256, 10, "1", FileState.ACTIVE, "sales", supersedes=supersedes)


def staged(ledger: Ledger, *files: NewFile) -> Batch:
    """A new batch of these files."""
    return ledger.batches.stage(ledger.runs.begin(_AS_OF), _AS_OF, files)


def outcome(file_id: int, month: str, amount: str) -> Outcome:
    """One row of a file."""
    totals = {month: Totals(1, Decimal(amount))}
    return Outcome((FileOutcome(file_id, 1, 1, 0, months=totals),), {"raw/sales": totals})


def publish(ledger: Ledger, batch: Batch, made: Outcome) -> None:
    """Say that a batch is published."""
    with ledger.transaction() as connection:
        ledger.batches.mark_published(connection, batch, made, [])


def finish(ledger: Ledger, batch: Batch, made: Outcome) -> None:
    """Move a batch through all its states."""
    ledger.batches.prepare(batch, {"raw/sales": "{}"}, made)
    ledger.batches.mark_committed(batch)
    publish(ledger, batch, made)
    ledger.batches.mark_done(batch, Outcome())


def test_a_batch_goes_through_its_states_once(ledger: Ledger) -> None:
    """Each repeated or early move is refused and changes nothing."""
    batch = staged(ledger, new_file("sales.csv"))
    made = outcome(ledger.files.of_batch(batch.batch_id)[0].file_id, "2024-01", "1.00")
    moves: dict[BatchState, Callable[[], None]] = {
        BatchState.PREPARED: lambda: ledger.batches.prepare(batch, {"raw/sales": "{}"}, made),
        BatchState.COMMITTED: lambda: ledger.batches.mark_committed(batch),
        BatchState.PUBLISHED: lambda: publish(ledger, batch, made),
        BatchState.DONE: lambda: ledger.batches.mark_done(batch, Outcome()),
    }
    for reached, move in moves.items():
        move()
        state = ledger.batches.unfinished()
        assert (state.state if state else BatchState.DONE) is reached
        allowed = list(moves)[list(moves).index(reached) + 1 :][:1]
        for other, refused in moves.items():
            if other not in allowed:
                with pytest.raises(RetailmartError, match=f"batch {batch.batch_id} is no longer"):
                    refused()
    assert ledger.files.counted_months("sales", ["2024-01"]) == {
        "2024-01": Totals(1, Decimal("1.00"))
    }


def test_only_an_active_batch_can_be_abandoned(ledger: Ledger) -> None:
    """What is decided can only be finished; what is abandoned is as if never seen."""
    batch = staged(ledger, new_file("sales.csv"))
    ledger.batches.abandon(batch)
    assert ledger.batches.unfinished() is None
    assert ledger.files.counted_by_content("a") is None
    with pytest.raises(RetailmartError):
        ledger.batches.prepare(batch, {}, Outcome())
    decided = staged(ledger, new_file("sales.csv"))
    ledger.batches.prepare(decided, {}, Outcome())
    with pytest.raises(RetailmartError):
        ledger.batches.abandon(decided)


def test_stamps_are_unique_within_a_second(ledger: Ledger) -> None:
    """Batches of one second have archive folders of their own, in the order of the batches."""
    stamps = []
    for _ in range(5):
        batch = staged(ledger)
        stamps.append(batch.stamp)
        ledger.batches.abandon(batch)
    assert len(set(stamps)) == 5
    assert stamps == sorted(stamps)
    for stamp in stamps:
        datetime.strptime(stamp, "%Y%m%d_%H%M%S").replace(tzinfo=UTC)


def test_a_superseded_file_is_counted_no_more(ledger: Ledger) -> None:
    """Its path, content and months are those of the new version."""
    first = staged(ledger, new_file("sales.csv", "old"))
    old = ledger.files.of_batch(first.batch_id)[0]
    finish(ledger, first, outcome(old.file_id, "2024-01", "1.10"))
    second = staged(ledger, new_file("sales.csv", "new", supersedes=old.file_id))
    new = ledger.files.of_batch(second.batch_id)[0]
    assert ledger.files.counted_by_content("old") == ledger.files.get(old.file_id), (
        "not before published"
    )
    finish(ledger, second, outcome(new.file_id, "2024-02", "2.20"))
    assert ledger.files.counted_by_content("new") == ledger.files.get(new.file_id)
    assert ledger.files.counted_by_content("old") is None
    counted = ledger.files.counted_months("sales", ["2024-01", "2024-02"])
    assert counted == {"2024-02": Totals(1, Decimal("2.20"))}


def test_what_was_prepared_is_read_back_exactly(ledger: Ledger) -> None:
    """Money, names and notes survive the way through the database."""
    batch = staged(ledger, new_file("sales.csv"))
    file = ledger.files.of_batch(batch.batch_id)[0]
    plain = outcome(file.file_id, "2024-01", "123456789012.34")
    made = Outcome(
        plain.files,
        plain.balances,
        {"m": "f"},
        {"s": SourceRecord("s", "d", "x", "1", "2")},
        {"ä": ["€", 1]},
    )
    ledger.batches.prepare(batch, {"raw/sales": '{"a": "ü"}'}, made)
    assert ledger.batches.prepared(batch) == (made, {"raw/sales": '{"a": "ü"}'})


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    """An error between the ledger's own writes rolls all of them back."""
    batch = staged(ledger, new_file("sales.csv"))
    made = outcome(ledger.files.of_batch(batch.batch_id)[0].file_id, "2024-01", "1.00")
    ledger.batches.prepare(batch, {}, made)
    ledger.batches.mark_committed(batch)

    def half() -> None:
        with ledger.transaction() as connection:
            ledger.batches.mark_published(connection, batch, made, [])
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        half()
    assert ledger.files.counted_by_content("a") is None
    assert ledger.files.counted_months("sales", ["2024-01"]) == {}
    publish(ledger, batch, made)
    assert ledger.files.counted_by_content("a") is not None


def refuse_rows(ledger: Ledger, table: str) -> None:
    """Let no row be added to a table, as for want of space."""

    @event.listens_for(ledger.engine, "before_cursor_execute")
    def refuse(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(f"INSERT INTO {table} "):
            raise OSError("the disk is full")


def test_a_batch_is_staged_with_its_files_or_not_at_all(ledger: Ledger) -> None:
    """Files that can't be recorded leave no batch without them."""
    refuse_rows(ledger, "retailmart_files")
    with pytest.raises(OSError, match="disk is full"):
        staged(ledger, new_file("sales.csv"))
    assert ledger.batches.unfinished() is None


def test_a_batch_is_decided_with_its_commits_or_not_at_all(ledger: Ledger) -> None:
    """A prepared batch that lacks its commits would be finished without them."""
    batch = staged(ledger, new_file("sales.csv"))
    refuse_rows(ledger, "retailmart_commits")
    with pytest.raises(OSError, match="disk is full"):
        ledger.batches.prepare(batch, {"raw/sales": "{}"}, Outcome())
    left = ledger.batches.unfinished()
    assert left is not None
    assert left.state is BatchState.ACTIVE


def test_a_run_that_was_killed_is_told_as_such(ledger: Ledger) -> None:
    """The next run closes it, as nothing else can."""
    ledger.runs.begin(_AS_OF)
    second = ledger.runs.begin(_AS_OF)
    ledger.runs.close(second, "done", None)
    assert [run.state for run in ledger.runs.last(5)] == ["done", "killed"]


def test_a_reader_cannot_write(ledger: Ledger) -> None:
    """Without a lease there is no transaction."""
    with pytest.raises(RetailmartError, match="opened for reading"):
        Ledger(ledger.engine).runs.begin(_AS_OF)


def test_a_ledger_of_an_earlier_release_learns_its_files_names(tmp_path: Path) -> None:
    """Names alike are found among files of before, and batches without a finisher stay whole."""
    database = open_database(f"sqlite:///{tmp_path / 'old.db'}", tmp_path)
    ledger = Ledger(database)
    ledger.migrate()
    with database.begin() as connection:
        for statement in (
            "DROP INDEX retailmart_files_by_name",
            "ALTER TABLE retailmart_files DROP COLUMN name_hash",
            "ALTER TABLE retailmart_batches DROP COLUMN finished_by",
            "DELETE FROM retailmart_migrations WHERE name >= 'm004'",
            "INSERT INTO retailmart_runs (run_id, started_at, finished_at, as_of, state)"
            " VALUES (1, '', '', '2024-04-01T00:00:00+00:00', 'done')",
            "INSERT INTO retailmart_batches VALUES (1, 1, '2024-04-01T00:00:00+00:00', 's', 'done',"
            " NULL, NULL, 1)",
            "INSERT INTO retailmart_files (batch_id, path, path_hash, sha256, size, version, state)"
            " VALUES (1, 'Sales.csv', 'x', 'y', 1, 'v', 'loaded')",
        ):
            connection.exec_driver_sql(statement)
    ledger.migrate()
    assert [file.path for file in ledger.files.readable_alike(["sales.CSV.gz"])] == ["Sales.csv"]
    assert [batch.batch_id for batch in ledger.batches.to_undo(1)] == [1]
    database.dispose()
