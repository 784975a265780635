"""Loaded rows that break a rule which only warns: read again from the archive, with their lines."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from retailmart.database import translate_errors
from retailmart.engines import Engine
from retailmart.errors import CsvBroken, RetailmartError
from retailmart.feeds.deliveries import feeds_as_held
from retailmart.feeds.load_part import FileToLoad, warned_rows
from retailmart.feeds.quarantine import RefusedRow
from retailmart.files.check import clean
from retailmart.files.checked import Refusal
from retailmart.ledger.values import FileState, LedgerFile
from retailmart.operations.verify.reparse import checked_again
from retailmart.project import Feed, Project
from retailmart.report import Silent
from retailmart.session import Session


@dataclass(frozen=True)
class WarnedRow:
    """A loaded row that breaks a rule: its file and line, the rule, and its text as delivered."""

    file: str
    line: int
    column: str | None
    rule: str
    message: str
    raw: str


@dataclass(frozen=True)
class WarnedRows:
    """The rows in the files' order. `skipped` maps files that can't be read again → why."""

    rows: tuple[WarnedRow, ...]
    skipped: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain values."""
        return asdict(self)


def warned(project: Project, file: str | None = None) -> WarnedRows:
    """The loaded rows of a file, or of all files, that break a rule which warns.

    Raises RetailmartError if no such file was ever delivered.
    """
    rows: list[WarnedRow] = []
    skipped: dict[str, str] = {}
    with Session.open(project, Silent()) as session, translate_errors():
        session.ledger.migrate()
        files = _files(session, file)
        if not files:
            return WarnedRows((), {})
        feeds = feeds_as_held(project.feeds.values(), session.lake, session.ledger)
        scratch = session.private / f"warned-{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        try:
            for one in files:
                feed = feeds.get(str(one.feed))
                if feed is None:
                    skipped[one.path] = f"feeds/{one.feed}.yml is gone"
                    continue
                item = checked_again(
                    session.engine(),
                    session.ledger,
                    session.archive,
                    feed,
                    one,
                    scratch,
                    project.settings.keep.archive,
                )
                if isinstance(item, str):
                    skipped[one.path] = item
                    continue
                rows += [
                    WarnedRow(one.path, row.line, row.column, row.rule, row.message, row.raw)
                    for row in _rows(session.engine(), feed, item)
                ]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return WarnedRows(tuple(rows), skipped)


def _files(session: Session, name: str | None) -> list[LedgerFile]:
    ledger = session.ledger
    if name is None:
        found = ledger.files.among(ledger.history.warned_files())
        return [file for file in found if file.state is FileState.LOADED]
    newest = ledger.files.find(name)
    if newest is None:
        raise RetailmartError(
            f"no file {name!r} was ever delivered", "List them with: retailmart status --run RUN"
        )
    standing = ledger.files.current(newest.path)
    counted = ledger.files.counted_by_content(standing.sha256) if standing else None
    return [counted] if counted else []


def _rows(engine: Engine, feed: Feed, item: FileToLoad) -> Iterator[RefusedRow]:
    """As a run reads the file: cleaned first, if its lines are not regular."""
    try:
        yield from list(warned_rows(engine, feed, item))
    except CsvBroken:
        cleaned = clean(item.checked.delivered, feed, item.checked.layout)
        if isinstance(cleaned, Refusal):
            raise
        yield from warned_rows(engine, feed, replace(item, checked=cleaned))
