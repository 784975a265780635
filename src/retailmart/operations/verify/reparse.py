"""Parse deliveries again in a scratch lake, and compare the result with what the lake holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retailmart.engines import Engine
from retailmart.feeds.evolve import effective
from retailmart.feeds.load import LoadedFeed, counted_by, load
from retailmart.feeds.load_part import FileToLoad
from retailmart.feeds.quarantine import REFUSED_FIELDS, refused_columns
from retailmart.feeds.rows import raw_fields
from retailmart.files.archive import archived_copies, kept_for
from retailmart.files.checked import Refusal
from retailmart.files.staged import CheckCopy
from retailmart.lake import Lake
from retailmart.lake.layout import quarantine_table, raw_table
from retailmart.lake.places import Place
from retailmart.ledger import Ledger
from retailmart.ledger.values import LedgerFile
from retailmart.operations.verify.compare import LAKE, Side, side_of
from retailmart.operations.verify.pin import Pinned
from retailmart.operations.verify.rebuild import NO_BATCH, ScratchLake
from retailmart.project import Feed, Project
from retailmart.project.settings import Days
from retailmart.storage import Store
from retailmart.tables import FILE_ID, TableState, quoted

# Refused rows are compared in full except for the batch, which does not exist here.
_REFUSED = tuple(column for column in REFUSED_FIELDS if column.name != "batch_id")


@dataclass(frozen=True)
class Delivery:
    """A run's files of one feed, ready to be parsed again, and the months of their rows."""

    run_id: int
    feed: Feed
    files: Sequence[FileToLoad]
    months: frozenset[str]

    @property
    def ids(self) -> str:
        """The files' keys, as a list in SQL."""
        return ", ".join(str(item.file.file_id) for item in self.files)


def deliveries(
    engine: Engine,
    ledger: Ledger,
    archive: Store,
    project: Project,
    pinned: Pinned,
    scratch: Path,
    skipped: dict[str, str],
) -> Iterator[Delivery]:
    """The pinned deliveries by run and feed, copied from the archive into `scratch`.

    Files that can't be parsed again go to `skipped`, with the reason.
    """
    keep = project.settings.keep.archive
    for run_id, files in pinned.deliveries:
        by_feed: dict[str, list[LedgerFile]] = {}
        for file in files:
            by_feed.setdefault(str(file.feed), []).append(file)
        for name, of_feed in by_feed.items():
            feed = _feed_now(project, pinned, name)
            if isinstance(feed, str):
                skipped |= {file.path: feed for file in of_feed}
                continue
            items = {
                file.path: checked_again(engine, ledger, archive, feed, file, scratch, keep)
                for file in of_feed
            }
            skipped |= {path: why for path, why in items.items() if isinstance(why, str)}
            ready = [item for item in items.values() if isinstance(item, FileToLoad)]
            months = ledger.files.months_of(item.file.file_id for item in ready)
            if ready:
                yield Delivery(run_id, feed, ready, frozenset(months))


def _feed_now(project: Project, pinned: Pinned, name: str) -> Feed | str:
    """A feed with all that its raw table holds, or why its files can't be parsed again."""
    if name not in project.feeds:
        return f"feeds/{name}.yml is gone"
    raw = pinned.tables.get(raw_table(name))
    feed = effective(project.feeds[name], raw.fields if raw else None, pinned.columns[name])
    if raw is not None and raw.fields != raw_fields(feed):
        return f"feeds/{name}.yml has other columns than the lake's {raw_table(name)}"
    return feed


def checked_again(
    engine: Engine,
    ledger: Ledger,
    archive: Store,
    feed: Feed,
    file: LedgerFile,
    scratch: Path,
    keep: Days,
) -> FileToLoad | str:
    """A file as `load` takes it, or why it can't be parsed again."""
    work = CheckCopy(feed, file.path, scratch)
    found = (work(engine, copy) for copy in archived_copies(ledger, archive, file.sha256))
    verdict = next((one for one in found if one is not None), None)
    if verdict is None:
        return f"is no longer in the archive{kept_for(keep)}"
    if isinstance(verdict, Refusal):
        return f"would be refused by now: {verdict.message}"
    if verdict.layout.is_replay:
        return "brought refused rows back, and only once can they be"
    return FileToLoad(file, verdict)


def parse_again(
    engine: Engine, place: Place, pinned: Pinned, delivery: Delivery, scratch: Path
) -> LoadedFeed:
    """Parse a run's files of one feed again, into tables at `place`.

    `scratch` is the folder that `deliveries` has filled.
    """
    table = raw_table(delivery.feed.name)
    shown = {table: pinned.tables[table]} if table in pinned.tables else {}
    lake = ScratchLake(place, shown=shown)
    # Counted as the feed says now: what the ledger has counted is not to be counted again.
    known = counted_by(delivery.feed)
    return load(engine, lake, delivery.feed, delivery.files, {}, NO_BATCH, scratch, known=known)


def sides_of_raw(
    engine: Engine, lake: Lake, pinned: Pinned, delivery: Delivery, parsed: Mapping[str, LoadedFeed]
) -> list[Side]:
    """A delivery's accepted rows as the lake and each engine have them."""
    raw = pinned.raw(delivery.feed, lake)
    if delivery.feed.month:
        raw = raw.in_months(delivery.months.union(*(one.added.months for one in parsed.values())))
    of_lake = f"SELECT * FROM {engine.define(raw)} WHERE {FILE_ID} IN ({delivery.ids})"
    return [
        Side(LAKE, engine.query(of_lake)),
        *(side_of(engine, name, one.added) for name, one in parsed.items()),
    ]


def sides_of_refused(
    engine: Engine, lake: Lake, pinned: Pinned, delivery: Delivery, parsed: Mapping[str, LoadedFeed]
) -> list[Side]:
    """A delivery's refused rows as the lake and each engine have them."""
    path = quarantine_table(delivery.feed.name)
    none = TableState(str(lake.folder(path)), REFUSED_FIELDS, (), ())
    held = pinned.tables.get(path, none)
    columns = refused_columns([column.name for column in held.fields])
    kept = f"SELECT {columns} FROM {engine.define(held)} WHERE file_id IN ({delivery.ids})"
    sides = [_as_refused(engine, LAKE, kept)]
    for name, one in parsed.items():
        adds = one.quarantine.adds if one.quarantine else ()
        root = Path(one.after.root).parents[1] / path
        refused = engine.define(TableState(str(root), REFUSED_FIELDS, (), adds))
        sides.append(_as_refused(engine, name, f"SELECT * FROM {refused}"))
    return sides


def _as_refused(engine: Engine, name: str, query: str) -> Side:
    """Refused rows without the batch, each column of its type."""
    columns = ", ".join(f"CAST({quoted(f.name)} AS {f.type}) AS {quoted(f.name)}" for f in _REFUSED)
    return Side(name, engine.query(f"SELECT {columns} FROM ({query})"))
