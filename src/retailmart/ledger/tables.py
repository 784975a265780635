"""The ledger's tables. Money is text and times are ISO texts in UTC: exact in every database."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT

metadata = MetaData()

Blob = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
Long = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
Serial = BigInteger().with_variant(Integer(), "sqlite")

migrations = Table(
    "retailmart_migrations",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("applied_at", String(32), nullable=False),
)

lease = Table(
    "retailmart_lease",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("holder", String(500)),
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", String(32), nullable=False),
    Column("pid", BigInteger),
    Column("since", String(32)),
)

# Leases that somebody has broken: whose it was, and who did it.
lease_breaks = Table(
    "retailmart_lease_breaks",
    metadata,
    Column("break_id", Serial, primary_key=True, autoincrement=True),
    Column("holder", String(500), nullable=False),
    Column("pid", BigInteger),
    Column("fence", BigInteger, nullable=False),
    Column("broken_at", String(32), nullable=False),
    Column("broken_by", String(300), nullable=False),
)

runs = Table(
    "retailmart_runs",
    metadata,
    Column("run_id", Serial, primary_key=True, autoincrement=True),
    Column("started_at", String(32), nullable=False),
    Column("finished_at", String(32)),
    Column("as_of", String(32), nullable=False),
    Column("state", String(20), nullable=False),
    Column("message", Long),
    Column("exit_code", Integer),
    Column("error", String(100)),
    Column("settings", String(64)),
)

# What a run was given that differs from the run before: settings, and digests of definitions. It
# stays when the run itself is folded.
settings = Table(
    "retailmart_settings",
    metadata,
    Column("run_id", Serial, primary_key=True, autoincrement=False),
    Column("name", String(250), primary_key=True),
    Column("recorded_at", String(32), nullable=False),
    Column("value", Long),
)

steps = Table(
    "retailmart_steps",
    metadata,
    Column("step_id", Serial, primary_key=True, autoincrement=True),
    Column("run_id", Serial, ForeignKey(runs.c.run_id), nullable=False),
    Column("batch_id", Serial),
    Column("step", String(30), nullable=False),
    Column("milliseconds", BigInteger, nullable=False),
    Column("state", String(20)),
)

batches = Table(
    "retailmart_batches",
    metadata,
    Column("batch_id", Serial, primary_key=True, autoincrement=True),
    Column("run_id", Serial, ForeignKey(runs.c.run_id), nullable=False),
    Column("as_of", String(32), nullable=False),
    Column("stamp", String(15), nullable=False, unique=True),
    Column("state", String(20), nullable=False),
    Column("outcome", Blob),
    Column("undoes", Serial),
    Column("fence", BigInteger),
    Column("finished_by", Serial),
)

# Paths and contents are looked up by hash, because a path may exceed an index entry. `name_hash` is
# of a path without what senders vary: letter case, Unicode form and `.gz`.
files = Table(
    "retailmart_files",
    metadata,
    Column("file_id", Serial, primary_key=True, autoincrement=True),
    Column("batch_id", Serial, ForeignKey(batches.c.batch_id), nullable=False),
    Column("path", Text, nullable=False),
    Column("path_hash", String(64), nullable=False),
    Column("name_hash", String(64)),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("version", String(150), nullable=False),
    Column("state", String(20), nullable=False),
    Column("feed", String(100)),
    Column("folder", String(50)),
    Column("message", Long),
    Column("supersedes", Serial),
    Column("records", BigInteger),
    Column("loaded", BigInteger),
    Column("quarantined", BigInteger),
    Column("amount", String(60)),
    Column("refused_again", BigInteger),
    Index("retailmart_files_by_path", "path_hash", "state"),
    Index("retailmart_files_by_name", "name_hash"),
    Index("retailmart_files_by_content", "sha256", "state"),
    Index("retailmart_files_by_batch", "batch_id"),
)

# What a batch does again: counted files that it reads again (their keys), marts that it rebuilds.
again = Table(
    "retailmart_again",
    metadata,
    Column("batch_id", Serial, ForeignKey(batches.c.batch_id), primary_key=True),
    Column("kind", String(10), primary_key=True),
    Column("name", String(100), primary_key=True),
)

# Replayed rows: which row of which file the replaying file delivered again.
replays = Table(
    "retailmart_replays",
    metadata,
    Column("file_id", Serial, ForeignKey(files.c.file_id), primary_key=True),
    Column("origin_file_id", Serial, primary_key=True),
    Column("origin_line", BigInteger, primary_key=True),
    Index("retailmart_replays_by_origin", "origin_file_id"),
)

# Refused rows, by the file and line where they were first refused, that nobody will repair; line 0
# is a file that was refused as a whole.
dismissed = Table(
    "retailmart_dismissed",
    metadata,
    Column("file_id", Serial, ForeignKey(files.c.file_id), primary_key=True),
    Column("line", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Long, nullable=False),
    Column("dismissed_at", String(32), nullable=False),
    Column("dismissed_by", String(300), nullable=False),
)

file_months = Table(
    "retailmart_file_months",
    metadata,
    Column("file_id", Serial, ForeignKey(files.c.file_id), primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("row_count", BigInteger, nullable=False),
    Column("amount", String(50), nullable=False),
)

table_months = Table(
    "retailmart_table_months",
    metadata,
    Column("table_name", String(150), primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("row_count", BigInteger, nullable=False),
    Column("amount", String(50), nullable=False),
)

commits = Table(
    "retailmart_commits",
    metadata,
    Column("batch_id", Serial, ForeignKey(batches.c.batch_id), primary_key=True),
    Column("table_name", String(150), primary_key=True),
    Column("change", Blob, nullable=False),
)

marts = Table(
    "retailmart_marts",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("fingerprint", String(80)),
    Column("published_as", String(100)),
    Column("published_version", BigInteger),
    Column("published_fingerprint", String(64)),
    Column("built_as_of", String(32)),
    Column("built_by", String(64)),
)

# Every name under which a mart was ever published: this project may replace a table of that name.
# The table shows the rows that this mart had in this version of the lake.
published = Table(
    "retailmart_published",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("mart", String(100)),
    Column("version", BigInteger),
)

# What is held back, and why: marts, and source tables that cannot be read correctly.
held = Table(
    "retailmart_held",
    metadata,
    Column("kind", String(10), primary_key=True),
    Column("name", String(150), primary_key=True),
    Column("message", Long, nullable=False),
    Column("hint", Long),
    Column("cause", String(100)),
)

sources = Table(
    "retailmart_sources",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("definition", String(64)),
    Column("version", String(200)),
    Column("cursor_at", Text),
    Column("collation", Text, quote=True),  # a reserved word in PostgreSQL
)

# By which columns the rows and money of a table, or of a raw table's files, are known, by month.
counted = Table(
    "retailmart_counted",
    metadata,
    Column("table_name", String(150), primary_key=True),
    Column("month", Text),
    Column("balance", Text),
)

# The history of each raw table's columns: the batch from which they hold, and the cause.
schemas = Table(
    "retailmart_schemas",
    metadata,
    Column("table_name", String(150), primary_key=True),
    Column("batch_id", Serial, ForeignKey(batches.c.batch_id), primary_key=True),
    Column("changed_at", String(32), nullable=False),
    Column("fields", Long, nullable=False),
    Column("causes", Long, nullable=False),
)

# What maintenance did and when; a row that is still running was cut off.
maintenance = Table(
    "retailmart_maintenance",
    metadata,
    Column("maintenance_id", Serial, primary_key=True, autoincrement=True),
    Column("run_id", Serial),
    Column("started_at", String(32), nullable=False),
    Column("finished_at", String(32)),
    Column("state", String(20), nullable=False),
    Column("message", Long),
)

# What is or was worth an alert, and which target was told that it began, and that it is over. A
# notice without a time was tried, and not delivered.
alerts = Table(
    "retailmart_alerts",
    metadata,
    Column("alert_id", Serial, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("subject", Long, nullable=False),
    Column("message", Long, nullable=False),
    Column("hint", Long),
    Column("opened_at", String(32), nullable=False),
    Column("opened_by", Serial),
    Column("closed_at", String(32)),
    Column("closed_by", Serial),
    Index("retailmart_alerts_by_end", "closed_at"),
)

notices = Table(
    "retailmart_notices",
    metadata,
    Column("alert_id", Serial, ForeignKey(alerts.c.alert_id), primary_key=True),
    Column("target", String(64), primary_key=True),
    Column("about", String(10), primary_key=True),
    Column("sent_at", String(32)),
)

# Independent of the database's default: names and paths in all scripts, compared by bytes.
for _table in metadata.tables.values():
    _table.dialect_options["mysql"].update(
        engine="InnoDB", charset="utf8mb4", collate="utf8mb4_bin", row_format="DYNAMIC"
    )
