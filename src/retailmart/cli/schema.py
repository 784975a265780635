"""`retailmart schema`: how the columns of raw tables came to be, and where they differ by now."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retailmart.cli.common import (
    Output,
    OutputOption,
    ProjectOption,
    SetOption,
    exits,
    open_at,
    print_json,
)
from retailmart.errors import RetailmartError

if TYPE_CHECKING:
    from retailmart.api import OpenProject
    from retailmart.feeds.evolve import Divergence
    from retailmart.files.checked import Layout, Refusal
    from retailmart.ledger.values import SchemaRecord
    from retailmart.project.feed import Feed
    from retailmart.storage import Entry, Store

app = typer.Typer(
    help="See how the columns of raw tables change, and by what.", no_args_is_help=True
)
NameArgument = Annotated[str | None, typer.Argument(metavar="NAME", help="One feed; default all.")]
# No header is longer; what does not fit is no file to be told of.
_LONGEST_HEADER = 1 << 20


@app.command("history", epilog=exits())
def schema_history(
    name: NameArgument = None,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """What changed when, in which run, and which file made it so."""
    opened = open_at(project, settings)
    with opened.ledger() as ledger:
        records = ledger.schemas.all()
    known = {*opened.project.feeds, *(_feed_of(record) for record in records)}
    chosen = set(_chosen(name, known))
    lines: list[dict[str, Any]] = [
        {
            "feed": _feed_of(record),
            "run": record.run_id,
            "batch": record.batch_id,
            "changed_at": record.changed_at,
            "is_new": record.schema.is_new,
            "changes": [asdict(change) for change in record.schema.changes],
        }
        for record in records
        if _feed_of(record) in chosen and record.schema.changes
    ]
    if output is Output.JSON:
        print_json({"history": lines})
        return
    for line in lines:
        for words in _translate_errors(line):
            _say(f"run {line['run']}  {line['changed_at'][:19]}  {line['feed']}  {words}")
    if not lines:
        print("no column has changed yet")


@app.command("diff", epilog=exits())
def schema_diff(
    name: NameArgument = None,
    project: ProjectOption = Path(),
    output: OutputOption = Output.TEXT,
    settings: SetOption = None,
) -> None:
    """Where the definition and raw differ now, and what files in landing would change."""
    opened = open_at(project, settings)
    chosen = _chosen(name, opened.project.feeds)
    found = [one for one in _differences(opened) if one.feed.name in chosen]
    if output is Output.JSON:
        print_json({"feeds": [one.plain() for one in found]})
        return
    told = False
    for one in found:
        for words in one.words():
            told = True
            _say(f"{one.feed.name}  {words}")
    if not told:
        print("definition and raw agree, and no file in landing would change that")


@dataclass(frozen=True)
class _Waiting:
    """A file in landing, by its header: what it brings and lacks, or why it would be refused."""

    path: str
    new: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True)
class _Difference:
    """A feed, where its file and raw differ, and what waits for it."""

    feed: Feed
    has_table: bool
    columns: list[Divergence]
    files: list[_Waiting]

    def plain(self) -> dict[str, Any]:
        return {
            "feed": self.feed.name,
            "has_table": self.has_table,
            "columns": [asdict(column) for column in self.columns],
            "files": [asdict(file) for file in self.files],
        }

    def words(self) -> Iterator[str]:
        place = f"feeds/{self.feed.name}.yml"
        if not self.has_table:
            yield "raw has no table yet"
        for one in self.columns:
            if one.refused:
                yield f"refused: {one.refused}"
            elif one.held is None:
                yield f"{one.column} {one.defined}: new in {place}; raw gets it with the next file"
            elif one.defined is None:
                names = ", ".join(map(repr, one.since))
                yield f"{one.column} {one.held}: brought by files as {names}; {place} lacks it"
            else:
                yield f"{one.column}: {one.defined} in {place}, {one.held} in raw"
        for file in self.files:
            if file.refused:
                yield f"landing: {file.path} {file.refused}"
            if file.new:
                yield f"landing: {file.path} brings {', '.join(file.new)}: {_fate(self.feed)}"
            if file.missing:
                yield f"landing: {file.path} lacks {', '.join(file.missing)}: empty in its rows"


def _fate(feed: Feed) -> str:
    """What becomes of columns that the feed does not name."""
    policy = feed.schema.columns
    if policy is None:
        return f"goes to {feed.extra_columns}" if feed.extra_columns else "is dropped"
    return {
        "evolve": "becomes a column of raw",
        "discard_row": "rows with a value there are quarantined",
    }.get(policy.value, "is dropped")


def _translate_errors(line: dict[str, Any]) -> Iterator[str]:
    made = f"feeds/{line['feed']}.yml"
    first = [change for change in line["changes"] if line["is_new"] and change["cause"] == made]
    if first:
        yield f"made with {len(first)} columns  {made}"
    for change in line["changes"]:
        if change in first:
            continue
        if change["before"] is None:
            yield f"+ {change['column']} {change['after']}  {change['cause']}"
        else:
            yield f"{change['column']} {change['before']} → {change['after']}  {change['cause']}"


def _feed_of(record: SchemaRecord) -> str:
    from retailmart.lake.layout import raw_name

    return raw_name(record.schema.table)


def _chosen(name: str | None, known: Iterable[str]) -> list[str]:
    from retailmart.project.documents import did_you_mean

    names = list(known)
    if name is None:
        return names
    if name not in names:
        raise RetailmartError(f"there is no feed {name!r}{did_you_mean(name, names)}")
    return [name]


def _differences(opened: OpenProject) -> Iterator[_Difference]:
    from retailmart.feeds.evolve import compare
    from retailmart.lake.layout import raw_table
    from retailmart.session import store_at

    feeds = opened.project.feeds
    landing = store_at(opened.project, opened.project.settings.landing)
    waiting: dict[str, list[Entry]] = {}
    for entry in landing.entries() if landing.is_there() else ():
        claimed = next((feed.name for feed in feeds.values() if feed.claims(entry.path)), "")
        waiting.setdefault(claimed, []).append(entry)
    with opened.ledger() as ledger:
        for name, feed in feeds.items():
            state, known = (
                opened.lake.state(raw_table(name)),
                ledger.schemas.current(raw_table(name)),
            )
            whole, columns = feed, list[Any]()
            if state is not None:
                whole, columns = compare(feed, state.fields, known.columns if known else ())
            files = [
                file
                for entry in waiting.get(name, ())
                if (file := _looked_at(landing, entry, whole)) is not None
            ]
            yield _Difference(whole, state is not None, columns, files)


def _looked_at(landing: Store, entry: Entry, feed: Feed) -> _Waiting | None:
    """None for a file whose header can't be looked at, or that brings just what the feed names."""
    from retailmart.feeds.evolve import unknown
    from retailmart.files.checked import Refusal

    layout = _header(landing, entry, feed)
    if layout is None:
        return None
    if isinstance(layout, Refusal):
        return _Waiting(entry.path, refused=layout.message)
    asked = (column.name for column in feed.columns if column.folder is None)
    missing = tuple(column for column in asked if column not in layout.columns)
    new = tuple(name for _, name in unknown(feed, layout))
    return _Waiting(entry.path, new, missing) if new or missing else None


def _header(landing: Store, entry: Entry, feed: Feed) -> Layout | Refusal | None:
    from retailmart.files.check import as_written, format_of
    from retailmart.files.header import read_header
    from retailmart.files.records import records
    from retailmart.storage import EntryKind

    packed = entry.path.lower().endswith(".gz")
    if entry.kind is not EntryKind.FILE:
        return None
    if format_of(entry.path) != "csv":
        return None  # its columns are told by all its records
    with TemporaryDirectory() as folder, landing.open(entry) as stream:
        head = Path(folder) / "head"
        try:
            source = gzip.GzipFile(fileobj=stream) if packed else stream
            head.write_bytes(source.read(_LONGEST_HEADER))
            feed = as_written(head, feed)
            first = next(records(head, feed), None)
        except (OSError, EOFError, zlib.error, UnicodeError):
            return None  # the run tells what is wrong with it
    return read_header(first, feed) if first and feed.header else None


def _say(words: str) -> None:
    from retailmart.console import one_line

    print(one_line(words))
