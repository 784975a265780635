"""The ledger's schema, built by named functions; each is recorded when it has been applied."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import Connection, Table, bindparam, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError

from retailmart.database.dialect import dialect_of
from retailmart.database.registry import kind_of
from retailmart.errors import NewerLedger
from retailmart.ledger import tables
from retailmart.ledger.returned import give_back
from retailmart.ledger.rows import pack, unpack
from retailmart.ledger.values import BatchState, Outcome, Totals, definition_of, name_hash
from retailmart.ledger.views import create_views

Migration = Callable[[Connection], None]


class NotAllowed(Exception):
    """The account may not do what a migration needs, and runs work without: it is tried again."""


def m001_first_tables(connection: Connection) -> None:
    """All tables of the first release."""
    tables.metadata.create_all(connection)


def m002_versions_undo_and_replays(connection: Connection) -> None:
    """Files by their store's version, batches that undo a run, replayed rows.

    A ledger that the first migration has just created already has them.
    """
    tables.metadata.create_all(connection)
    if "version" in _columns_of(connection, tables.files):
        return
    for statement in (
        f"ALTER TABLE {tables.files.name} ADD COLUMN version VARCHAR(150) NOT NULL DEFAULT ''",
        f"UPDATE {tables.files.name} SET version = size || '-' || mtime_ns",
        f"ALTER TABLE {tables.files.name} DROP COLUMN mtime_ns",
        f"ALTER TABLE {tables.batches.name} ADD COLUMN undoes INTEGER",
        f"ALTER TABLE {tables.batches.name} ADD COLUMN fence BIGINT",
    ):
        connection.exec_driver_sql(statement)


def m003_sources_that_move_and_schemas(connection: Connection) -> None:
    """Source tables with a cursor, by their source's version; the history of columns."""
    tables.metadata.create_all(connection)
    columns = ("definition VARCHAR(64)", "version VARCHAR(200)", "cursor_at TEXT")
    _add_columns(connection, tables.sources, *columns)


def m004_batches_by_who_finished_them(connection: Connection) -> None:
    """The run that finished a batch, which need not be the one that began it."""
    _add_columns(connection, tables.batches, "finished_by BIGINT")


def m005_files_by_what_their_names_share(connection: Connection) -> None:
    """Names without letter case, Unicode form and `.gz`, to find similar names."""
    table = tables.files
    _add_columns(connection, table, "name_hash VARCHAR(64)")
    known = {index["name"] for index in inspect(connection).get_indexes(table.name)}
    if "retailmart_files_by_name" not in known:
        connection.exec_driver_sql(
            f"CREATE INDEX retailmart_files_by_name ON {table.name} (name_hash)"
        )
    each = update(table).where(table.c.file_id == bindparam("key"))
    lacking = select(table.c.file_id, table.c.path).where(table.c.name_hash.is_(None))
    rows = [{"key": key, "name": name_hash(path)} for key, path in connection.execute(lacking)]
    if rows:
        connection.execute(each.values(name_hash=bindparam("name")), rows)


def m006_names_that_marts_had(connection: Connection) -> None:
    """The names of published marts, remembered after the marts are no longer published."""
    tables.metadata.create_all(connection)
    marts, published = tables.marts.c, tables.published
    known = select(published.c.name)
    names = select(marts.published_as).where(
        marts.published_as.is_not(None), marts.published_as.not_in(known)
    )
    connection.execute(insert(published).from_select(["name"], names.distinct()))


def m007_keys_as_their_database_compares_them(connection: Connection) -> None:
    """The collations of source tables' keys."""
    _add_columns(connection, tables.sources, "collation TEXT")


def m008_tables_by_the_marts_they_show(connection: Connection) -> None:
    """The mart that a published table shows, and its version in the lake."""
    table, marts = tables.published, tables.marts.c
    _add_columns(connection, table, "mart VARCHAR(100)", "version BIGINT")
    query = select(marts.published_as, marts.name, marts.published_version)
    # If several marts were published under one name, the table shows the last.
    query = query.where(marts.published_as.is_not(None)).order_by(marts.published_version)
    for name, mart, version in connection.execute(query).all():
        known = update(table).where(table.c.name == name)
        connection.execute(known.values(mart=mart, version=version))


def m009_files_by_the_run_that_delivered_them(connection: Connection) -> None:
    """Files that an undo staged again belong to the run that delivered them first."""
    batches = tables.batches.c
    finished = (batches.undoes.is_not(None), batches.state == BatchState.DONE.value)
    query = select(batches.batch_id).where(*finished).order_by(batches.batch_id)
    for batch_id in connection.scalars(query).all():
        give_back(connection, batch_id)


def m010_steps_that_failed_and_the_money_of_files(connection: Connection) -> None:
    """In which step a run failed; the sum of each file's months, which only the ledger knows."""
    _add_columns(connection, tables.steps, "state VARCHAR(20)")
    _add_columns(connection, tables.files, "amount VARCHAR(60)")
    months, files = tables.file_months.c, tables.files
    query = select(months.file_id, months.row_count, months.amount)
    totals: dict[int, Totals] = {}
    for key, rows, amount in connection.execute(query):
        totals[key] = totals.get(key, Totals()) + Totals(rows, Decimal(amount))
    # A feed without `balance` has recorded a plain zero, one with it a zero with decimals.
    known = [
        {"key": key, "said": str(total.amount)}
        for key, total in totals.items()
        if str(total.amount) != "0"
    ]
    if known:
        each = update(files).where(files.c.file_id == bindparam("key"))
        connection.execute(each.values(amount=bindparam("said")), known)


def m011_views_for_people(_: Connection) -> None:
    """Views of files, runs and steps: their newest form reads columns that later ones add."""


def m012_why_marts_are_held_back(connection: Connection) -> None:
    """What is held back, with its reason; until now only the run's own report had it."""
    tables.metadata.create_all(connection)


def m013_views_with_the_words_of_status(_: Connection) -> None:
    """The views with the words of `status`, made by the newest of these."""


def m014_by_which_columns_files_are_counted(connection: Connection) -> None:
    """The columns that say each row's month and money; unknown until a table is counted again."""
    tables.metadata.create_all(connection)


def m015_maintenance(connection: Connection) -> None:
    """What maintenance did, and whether it was cut off."""
    tables.metadata.create_all(connection)


def m015_dismissed_rows(connection: Connection) -> None:
    """Refused rows and files that nobody will repair; how many rows of a file were refused again.

    Of earlier repaired sheets, the rows that came back are known: the others were refused again.
    """
    tables.metadata.create_all(connection)
    files, replays = tables.files, tables.replays.c
    if _add_columns(connection, files, "refused_again BIGINT"):
        repaired = files.c.file_id.in_(select(replays.file_id))
        connection.execute(update(files).where(repaired).values(refused_again=files.c.quarantined))


def m017_settings_of_runs(connection: Connection) -> None:
    """The settings and definitions that runs were given, where they changed."""
    tables.metadata.create_all(connection)
    _add_columns(connection, tables.runs, "settings VARCHAR(64)")


def m018_who_holds_the_lease(connection: Connection) -> None:
    """The process that holds the lease, and since when; leases that somebody has broken."""
    tables.metadata.create_all(connection)
    _add_columns(connection, tables.lease, "pid BIGINT", "since VARCHAR(32)")


def m016_alerts(connection: Connection) -> None:
    """What is worth an alert, and who was told; with which code and error a run ended."""
    _add_columns(connection, tables.runs, "exit_code INTEGER", "error VARCHAR(100)")
    tables.metadata.create_all(connection)


def m019_without_what_nothing_reads(connection: Connection) -> None:
    """Drop the reports of runs and of maintenance: tables of their own have all of the figures."""
    unread = (
        (tables.runs, "report"),
        (tables.maintenance, "report"),
        (tables.steps, "finished_at"),
    )
    for table, column in unread:
        if column in _columns_of(connection, table):
            connection.exec_driver_sql(f"ALTER TABLE {table.name} DROP COLUMN {column}")


def m020_when_marts_were_built(connection: Connection) -> None:
    """Marts with what they were built for and by, instead of most of what done batches decided."""
    _add_columns(connection, tables.marts, "built_as_of VARCHAR(32)", "built_by VARCHAR(64)")
    steps, columns = tables.steps.c, tables.batches.c
    connection.execute(update(tables.steps).where(steps.state == "done").values(state=None))
    ended = columns.state.in_((BatchState.PUBLISHED.value, BatchState.DONE.value))
    keys = select(columns.batch_id).where(ended, columns.outcome.is_not(None))
    built: dict[str, dict[str, str]] = {}
    for key in connection.scalars(keys.order_by(columns.batch_id)).all():
        known = columns.batch_id == key
        query = select(columns.outcome, columns.as_of, columns.state).where(known)
        packed, as_of, state = connection.execute(query).one()
        outcome = Outcome.from_json(unpack(packed))
        for name, fingerprint in outcome.marts.items():
            if definition := definition_of(fingerprint):
                built[name] = {"built_as_of": as_of, "built_by": definition}
        if state == BatchState.DONE.value:
            kept = pack(outcome.of_done(outcome.sources).to_json())
            connection.execute(update(tables.batches).where(known).values(outcome=kept))
    for name, values in built.items():
        connection.execute(update(tables.marts).where(tables.marts.c.name == name).values(values))


def m021_what_batches_do_again(connection: Connection) -> None:
    """The files that a backfill reads again, and the marts that a rebuild builds again."""
    tables.metadata.create_all(connection)


def m022_views_with_exit_codes(connection: Connection) -> None:
    """Views of files, runs and steps, as they are now.

    A migration that changes them comes after all others and takes this one's part, which then does
    nothing, as m011 and m013.
    """
    try:
        if dialect_of(connection).ddl_in_transaction:
            with connection.begin_nested():  # a refusal would end the whole transaction
                create_views(connection)
        else:
            create_views(connection)
    except DBAPIError as error:
        if error.orig and kind_of(connection.dialect.name).errors.is_denied(error.orig):
            raise NotAllowed from error
        raise


def _columns_of(connection: Connection, table: Table) -> set[str]:
    return {column["name"] for column in inspect(connection).get_columns(table.name)}


def _add_columns(connection: Connection, table: Table, *columns: str) -> list[str]:
    """Add columns, each a name and a type, where the table lacks them; returns those it lacked.

    A ledger that the first migration has just created has them already.
    """
    has = _columns_of(connection, table)
    missing = [column for column in columns if column.partition(" ")[0] not in has]
    for column in missing:
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    return missing


MIGRATIONS: tuple[Migration, ...] = (
    m001_first_tables,
    m002_versions_undo_and_replays,
    m003_sources_that_move_and_schemas,
    m004_batches_by_who_finished_them,
    m005_files_by_what_their_names_share,
    m006_names_that_marts_had,
    m007_keys_as_their_database_compares_them,
    m008_tables_by_the_marts_they_show,
    m009_files_by_the_run_that_delivered_them,
    m010_steps_that_failed_and_the_money_of_files,
    m011_views_for_people,
    m012_why_marts_are_held_back,
    m013_views_with_the_words_of_status,
    m014_by_which_columns_files_are_counted,
    m015_maintenance,
    m015_dismissed_rows,
    m016_alerts,
    m017_settings_of_runs,
    m018_who_holds_the_lease,
    m019_without_what_nothing_reads,
    m020_when_marts_were_built,
    m021_what_batches_do_again,
    m022_views_with_exit_codes,
)


def is_current(connection: Connection) -> bool:
    """Whether no migration is missing. NewerLedger if a newer program has used it."""
    applied = _applied(connection)
    known = {migration.__name__ for migration in MIGRATIONS}
    if newer := sorted(applied - known):
        raise NewerLedger(
            "the ledger was changed by a newer retailmart than this one, which does not know"
            f" {newer[-1]}",
            "Use that version here, too: update its checkout, and there: pip install .",
        )
    return known <= applied


def _applied(connection: Connection) -> set[str]:
    if not inspect(connection).has_table(tables.migrations.name):
        return set()
    return set(connection.scalars(select(tables.migrations.c.name)))


def migrate(connection: Connection) -> None:
    """Apply missing migrations, in order. A new ledger is built as they would leave it."""
    applied = _applied(connection)
    is_new = not applied and tables.metadata.tables.keys().isdisjoint(
        inspect(connection).get_table_names()
    )
    if is_new:
        tables.metadata.create_all(connection, checkfirst=False)
    done = []
    for migration in MIGRATIONS:
        if migration.__name__ not in applied:
            try:
                if not is_new or migration is m022_views_with_exit_codes:
                    migration(connection)
            except NotAllowed:
                continue
            done.append(migration.__name__)
    at = datetime.now(UTC).isoformat()
    if done:
        connection.execute(
            insert(tables.migrations), [{"name": name, "applied_at": at} for name in done]
        )
