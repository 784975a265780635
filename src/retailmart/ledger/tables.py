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
from sqlalchemy.dialects.mysql import LONGBLOB

metadata = MetaData()

Blob = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
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
)

runs = Table(
    "retailmart_runs",
    metadata,
    Column("run_id", Serial, primary_key=True, autoincrement=True),
    Column("started_at", String(32), nullable=False),
    Column("finished_at", String(32)),
    Column("as_of", String(32), nullable=False),
    Column("state", String(20), nullable=False),
    Column("message", Text),
    Column("report", Blob),
)

steps = Table(
    "retailmart_steps",
    metadata,
    Column("step_id", Serial, primary_key=True, autoincrement=True),
    Column("run_id", Serial, ForeignKey(runs.c.run_id), nullable=False),
    Column("batch_id", Serial),
    Column("step", String(30), nullable=False),
    Column("finished_at", String(32), nullable=False),
    Column("milliseconds", BigInteger, nullable=False),
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
)

# Paths and contents are looked up by hash: a path may be longer than an index entry can be.
files = Table(
    "retailmart_files",
    metadata,
    Column("file_id", Serial, primary_key=True, autoincrement=True),
    Column("batch_id", Serial, ForeignKey(batches.c.batch_id), nullable=False),
    Column("path", Text, nullable=False),
    Column("path_hash", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),
    Column("feed", String(100)),
    Column("folder", String(50)),
    Column("message", Text),
    Column("supersedes", Serial),
    Column("records", BigInteger),
    Column("loaded", BigInteger),
    Column("quarantined", BigInteger),
    Index("retailmart_files_by_path", "path_hash", "state"),
    Index("retailmart_files_by_content", "sha256", "state"),
    Index("retailmart_files_by_batch", "batch_id"),
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
)

sources = Table(
    "retailmart_sources",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("digest", String(64), nullable=False),
)
