"""Rebuild marts in a scratch lake from what the lake holds; the project is not written to."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from retailmart.engines import Engine
from retailmart.errors import ProjectBusy, RetailmartError
from retailmart.lake import Lake
from retailmart.lake.layout import mart_table, raw_table
from retailmart.lake.places import Place
from retailmart.ledger.values import SourceRecord
from retailmart.marts.build import Inputs, build, build_order, without_input
from retailmart.marts.held import HeldBack
from retailmart.marts.plan import reads_of
from retailmart.operations.verify.pin import Pinned
from retailmart.project import Mart, Project
from retailmart.project.table import Table, undeclared
from retailmart.sources.loaded import LoadedTable
from retailmart.tables import TableState

# Not the number of any batch: what is written here is never committed.
NO_BATCH = 0


@contextmanager
def scratch_lake(private: Path) -> Iterator[Path]:
    """A folder to build in, removed at the end; what a killed command left there goes first."""
    private.mkdir(parents=True, exist_ok=True)
    with (private / "verify.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProjectBusy(
                "another verify is at work on this project", "Wait until it has ended"
            ) from error
        folder = private / "verify"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class ScratchLake(Lake):
    """A scratch lake that shows tables of another lake as they were pinned; it commits nothing."""

    shown: Mapping[str, TableState]

    def state(self, table: str, version: int | None = None) -> TableState | None:
        return self.shown.get(table)


@dataclass(frozen=True)
class Plan:
    """What is built: the marts in order, what each reads, and all that they are built from.

    `moments` is what each is computed for. `left_out` are those that can't be compared with the
    lake's own, `unavailable` those that can't be built; both with the reason.
    """

    order: tuple[Mart, ...]
    reads: Mapping[str, frozenset[str]]
    inputs: Inputs
    moments: Mapping[str, datetime]
    left_out: Mapping[str, str]
    unavailable: Mapping[str, str]


def plan(
    engine: Engine,
    lake: Lake,
    project: Project,
    pinned: Pinned,
    definitions: Mapping[str, str | None],
    as_of: datetime | None,
) -> Plan:
    """Find what marts are built from. `definitions` are today's, by mart."""
    reads = reads_of(project)
    tables = _tables(project, pinned, frozenset().union(*reads.values()))
    named = {*project.feeds, *project.marts, *tables}
    absent = {
        name: f"the lake holds no table {name} yet"
        for names in reads.values()
        for name in names - named
    }
    undelivered = {
        feed: f"no file of feed {feed} has come yet"
        for feed in project.feeds
        if feed not in pinned.delivered
    }
    order = build_order(project.marts, reads)
    unavailable = without_input(order, reads, absent, undelivered, project.feeds)
    message = "the last run could not build it, and said why"
    unavailable = {**dict.fromkeys(pinned.behind, message), **unavailable}
    for mart in order:  # one that came after the last run may read one that it could not build
        if mart.name not in unavailable and (others := sorted(reads[mart.name] & {*unavailable})):
            unavailable[mart.name] = unavailable[others[0]]
    order = tuple(mart for mart in order if mart.name not in unavailable)
    raw = {name: (feed, pinned.raw(feed, lake)) for name, feed in project.feeds.items()}
    functions = frozenset(project.functions.defined)
    inputs = Inputs(feeds={}, unchanged=raw, tables=tables, functions=functions)
    moments = {
        mart.name: as_of or pinned.moments.get(mart.name, pinned.last_moment) for mart in order
    }
    left_out = _left_out(order, reads, pinned, definitions, as_of)
    return Plan(order, reads, inputs, moments, left_out, unavailable)


def _tables(project: Project, pinned: Pinned, names: frozenset[str]) -> dict[str, LoadedTable]:
    """The source tables of these names that the lake holds, by each name."""
    declared = {name: table for table in project.tables.values() for name in table.names}
    found: dict[str, LoadedTable] = {}
    for name in sorted(names - project.feeds.keys() - project.marts.keys()):
        table: Table = declared.get(name) or undeclared(name)
        state = pinned.tables.get(raw_table(table.name))
        if state is None:
            continue
        record = pinned.sources.get(table.name, SourceRecord(table.name, ""))
        if record.definition not in (None, table.definition):
            raise RetailmartError(
                f"tables/{table.name}.yml has changed since the lake's {raw_table(table.name)} was"
                " read",
                "Run first: retailmart run",
            )
        found[name] = LoadedTable(table, record, state, state)
    return found


def _left_out(
    order: Iterable[Mart],
    reads: Mapping[str, frozenset[str]],
    pinned: Pinned,
    definitions: Mapping[str, str | None],
    as_of: datetime | None,
) -> dict[str, str]:
    """Marts that can't be compared with the lake's own, and those that read them, with reasons."""
    found: dict[str, str] = {}
    for mart in order:
        if mart_table(mart.name) not in pinned.tables or mart.name not in pinned.moments:
            found[mart.name] = "the lake does not hold it yet"
        elif pinned.definitions[mart.name] != definitions[mart.name]:
            found[mart.name] = "it was defined otherwise when the lake's was built"
        elif mart.looks_at_as_of and as_of not in (None, pinned.moments[mart.name]):
            found[mart.name] = f"the lake's is as of {pinned.moments[mart.name]:%Y-%m-%d %H:%M} UTC"
        elif others := sorted(reads[mart.name] & found.keys()):
            found[mart.name] = found[others[0]]
    return found


def rebuild(
    engine: Engine, place: Place, work: Plan, progress: Callable[[str], None]
) -> tuple[dict[str, TableState], dict[str, str]]:
    """Build all marts of a plan at `place`, from all rows. `progress` is called with each name.

    Also returns those that can't be built, with reasons. Raises RetailmartError if the lake has
    such a mart by the same definition.
    """
    held = HeldBack({mart.name: mart for mart in work.order}, lambda: work.reads)
    names = frozenset(mart.name for mart in work.order)
    built = build(
        engine,
        ScratchLake(place, shown={}),
        work.order,
        work.reads,
        work.inputs,
        names,
        NO_BATCH,
        progress,
        held,
        work.moments,
    )
    for one in held.held.values():
        if one.mart not in work.left_out:
            raise RetailmartError(one.message, one.hint)
    return {part.mart.name: part.after for part in built}, {
        name: f"it can't be built: {one.message}" for name, one in held.held.items()
    }
