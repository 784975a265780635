"""Pin the lake at one moment while runs go on: everything read from then on fits together."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from retailmart.errors import MartNotBuilt, ProjectBusy
from retailmart.feeds.rows import raw_fields, raw_partitions
from retailmart.lake import Lake
from retailmart.lake.layout import is_known, is_mart, mart_table, raw_table
from retailmart.ledger import Ledger
from retailmart.ledger.values import (
    BatchState,
    FileState,
    LedgerFile,
    SchemaColumn,
    SourceRecord,
)
from retailmart.project import Feed, Project
from retailmart.tables import TableState

# Seconds between checks of a lake that a run is committing to.
_PAUSES = (0.2, 0.5, 1.0, 3.0, 8.0, 15.0)
_MANY = 1_000_000


@dataclass(frozen=True)
class Pinned:
    """The lake at a moment without a half-committed batch, and what the ledger says of it then.

    `tables` are by path. `moments` and `definitions` give what each mart was last built for and by;
    `behind` are those that the newest batch should have built but could not. `last_moment` is the
    newest batch's. `deliveries` are the counted files by run, newest run first.
    """

    tables: Mapping[str, TableState]
    moments: Mapping[str, datetime]
    definitions: Mapping[str, str]
    last_moment: datetime
    sources: Mapping[str, SourceRecord]
    delivered: Collection[str]
    columns: Mapping[str, Sequence[SchemaColumn]]
    deliveries: Sequence[tuple[int, Sequence[LedgerFile]]]
    behind: Collection[str] = ()

    def raw(self, feed: Feed, lake: Lake) -> TableState:
        """A feed's raw table, empty if nothing was loaded yet."""
        path = raw_table(feed.name)
        empty = TableState(str(lake.folder(path)), raw_fields(feed), raw_partitions(feed), ())
        return self.tables.get(path, empty)


def pin(
    lake: Lake,
    ledger: Ledger,
    project: Project,
    runs: int,
) -> Pinned:
    """Pin the lake between two commits; data files of a version that was read stay where they are.

    Tables are committed one by one while a batch is prepared. So all tables are checked twice, with
    the ledger in between: if no version has changed and no batch was in progress, all that was seen
    existed at one time. Waits for a run that is committing; raises ProjectBusy if that takes long.
    `runs` is how many runs' deliveries are wanted.
    """
    for pause in (*_PAUSES, None):
        versions = _versions(lake)
        states = {path: lake.state(path) for path in versions}
        tables = {path: state for path, state in states.items() if state}
        if not any(is_mart(path) for path in tables):
            raise MartNotBuilt("no mart is built yet", "Build them with: retailmart run")
        batch = ledger.batches.unfinished()
        if batch is None or batch.state in (BatchState.ACTIVE, BatchState.PUBLISHED):
            pinned = _read(ledger, project, tables, runs)
            if _versions(lake) == versions:
                return pinned
        if pause is not None:
            time.sleep(pause)
    raise ProjectBusy(
        "a batch is on its way into the lake, or was cut off there",
        "Finish it with: retailmart run; then verify",
    )


def _versions(lake: Lake) -> dict[str, int]:
    found = {path: lake.version(path) for path in lake.place.tables() if is_known(path)}
    return {path: version for path, version in found.items() if version is not None}


def _read(
    ledger: Ledger,
    project: Project,
    tables: Mapping[str, TableState],
    runs: int,
) -> Pinned:
    last = ledger.batches.last_built()
    if last is None:
        raise MartNotBuilt("no run has ended yet", "Build the marts with: retailmart run")
    known = ledger.marts.all()
    marts = [one for name in project.marts if (one := known.get(name))]
    built = [one for one in marts if mart_table(one.name) in tables]
    schemas = {name: ledger.schemas.current(raw_table(name)) for name in project.feeds}
    return Pinned(
        tables,
        {one.name: one.built_as_of for one in built if one.built_as_of},
        {one.name: one.built_by for one in built if one.built_by},
        last.as_of,
        ledger.sources.all(),
        ledger.files.feeds_delivered(),
        {name: schema.columns if schema else () for name, schema in schemas.items()},
        list(_deliveries(ledger, runs)),
        [one.name for one in marts if one.is_behind],
    )


def _deliveries(ledger: Ledger, runs: int) -> Iterator[tuple[int, Sequence[LedgerFile]]]:
    for run in ledger.runs.last(_MANY if runs else 0):
        if not runs:
            return
        files = [f for f in ledger.files.of_run(run.run_id) if f.state is FileState.LOADED]
        if files:
            runs -= 1
            yield run.run_id, files
