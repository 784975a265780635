"""What a run read and wrote, as OpenLineage names it, column by column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from retailmart.database import dataset_of
from retailmart.errors import RetailmartError
from retailmart.lake import Lake
from retailmart.lake.layout import MONTH, is_system_column, mart_table, raw_table
from retailmart.marts.bind import names_read
from retailmart.marts.lineage import Origin, origins_of
from retailmart.monitoring.events import Observer, RunEnded
from retailmart.monitoring.lineage import (
    ColumnInput,
    Dataset,
    DatasetName,
    Datasets,
    Lineage,
    ToFile,
    ToServer,
    Transport,
    expect_client,
    inputs_as,
    parents,
)
from retailmart.project import Feed, Mart, Monitoring, Project
from retailmart.project.monitoring import shown_target
from retailmart.project.table import HISTORY
from retailmart.report import FileLine, MartLine, RunReport
from retailmart.session import open_lake, open_ledger
from retailmart.tables import TableState


def lineage_observers(known: Monitoring, project: Project | None) -> Iterator[Observer]:
    """The observers that send OpenLineage events where the settings say. MissingExtra without it.

    `project` is None if its files have mistakes; a run that could not begin is told all the same.
    """
    expect_client()
    import os

    settings = known.settings.lineage
    transports: list[Transport] = []
    if settings.file is not None:
        transports.append(ToFile(known.folder / settings.file))
    if (url := settings.url) is not None:

        def address() -> tuple[str, str | None]:
            key = known.url(settings.api_key) if settings.api_key else None
            return known.url(url), key

        name = f"the lineage server ({shown_target(url)})"
        transports.append(ToServer(name, address, known.settings.notify_within))
    found: list[Datasets] = []

    def datasets(end: RunEnded) -> Datasets:
        if not found:  # found once for both
            found.append(_Finder(project).find(end) if project is not None else Datasets())
        return found[0]

    for transport in transports:
        yield Lineage(
            transport,
            settings.namespace,
            settings.job or known.folder.name,
            str(known.folder),
            datasets,
            parents(os.environ),
        )


class _Finder:
    """Finds the data sets of a run's report."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._lake: Lake = open_lake(project)
        self._states: dict[str, TableState | None] = {}

    def find(self, end: RunEnded) -> Datasets:
        """What the run read and wrote."""
        report = end.report
        if report is None or report.nothing_to_do:
            return Datasets()
        feeds = self._feeds(report)
        inputs = [self._landed(feed, lines) for feed, lines in feeds.items()]
        outputs = [self._raw_of_feed(feed, lines) for feed, lines in feeds.items()]
        for name, written in _tables_read(report).items():
            source = self._source_name(name)
            if source is not None:
                state = self._state(raw_table(name))
                inputs.append(Dataset(source, _fields(state), written))
                outputs.append(self._raw_of_table(name, source, written))
        marts = {line.name: line for batch in report.batches for line in batch.marts}
        read: dict[str, None] = {}
        for name, line in marts.items():
            if (mart := self._project.marts.get(name)) is not None:
                built = self._mart(mart, line)
                outputs.append(built)
                read |= dict.fromkeys(sorted(names_read(self._project, mart)))
                outputs += self._published(built, line)
        inputs += self._read(read, {one.name for one in (*inputs, *outputs)})
        return Datasets(tuple(inputs), tuple(outputs))

    def _feeds(self, report: RunReport) -> dict[Feed, list[FileLine]]:
        """The loaded files by feed; the ledger knows of which feed each is."""
        feeds: dict[str, list[FileLine]] = {}
        with open_ledger(self._project) as ledger:
            for batch in report.batches:
                of = {file.path: file.feed for file in ledger.files.of_batch(batch.batch_id)}
                for line in batch.files:
                    if line.state == "loaded" and (feed := of.get(line.path)):
                        feeds.setdefault(feed, []).append(line)
        known = self._project.feeds
        return {known[name]: lines for name, lines in feeds.items() if name in known}

    def _landed(self, feed: Feed, lines: Iterable[FileLine]) -> Dataset:
        lines = list(lines)
        fields = tuple((one.name, str(one.type)) for one in feed.columns)
        rows = sum(line.records or 0 for line in lines)
        rules = self._assertions(feed, lines)
        return Dataset(self._landing_name(feed), fields, rows, len(lines), assertions=rules)

    def _assertions(
        self, feed: Feed, lines: Iterable[FileLine]
    ) -> tuple[tuple[str, str | None, bool], ...]:
        """Whether all rows met the feed's rules; which rule a row broke is in quarantine."""
        refused = sum(line.quarantined or 0 for line in lines)
        warned = {name for line in lines for name, count in line.warned.items() if count}
        return (
            ("rows_accepted", None, not refused),
            *((name, None, False) for name in sorted(warned)),
        )

    def _raw_of_feed(self, feed: Feed, lines: Iterable[FileLine]) -> Dataset:
        state = self._state(raw_table(feed.name))
        landed = self._landing_name(feed)
        columns = {
            one.name: (ColumnInput(landed, one.name, "DIRECT", "IDENTITY"),) for one in feed.columns
        }
        loaded = sum(line.loaded or 0 for line in lines)
        return self._written(raw_table(feed.name), state, loaded, columns)

    def _raw_of_table(self, name: str, source: DatasetName, written: int) -> Dataset:
        state = self._state(raw_table(name))
        columns = {
            column: (ColumnInput(source, column, "DIRECT", "IDENTITY"),)
            for column, _ in _fields(state)
        }
        return self._written(raw_table(name), state, written, columns)

    def _mart(self, mart: Mart, line: MartLine) -> Dataset:
        state = self._state(mart_table(mart.name))
        read = {name: self._table_of(name) for name in names_read(self._project, mart)}
        tables = {
            name: [column for column, _ in _fields(self._state(table), system=True)]
            for name, table in read.items()
        }
        found = origins_of(mart.query, tables)
        known = {column.lower(): column for column, _ in _fields(state)}

        def used(origins: Iterable[Origin]) -> tuple[ColumnInput, ...]:
            shown = {self._delivered(one) for one in origins}
            return inputs_as(
                [
                    (self._lake_name(read[one.table]), one.column, one.how)
                    for one in sorted(one for one in shown if one is not None)
                ]
            )

        columns = {
            known[name.lower()]: inputs
            for name, origins in found.columns.items()
            if name.lower() in known and (inputs := used(origins))
        }
        built = self._written(mart_table(mart.name), state, line.rows, columns)
        return replace(built, decided_by=used(found.rows))

    def _delivered(self, origin: Origin) -> Origin | None:
        """The column that was delivered, for one that was added to a raw table; None without."""
        if not is_system_column(origin.column):
            return origin
        feed = self._project.feeds.get(origin.table)
        if origin.column != MONTH or feed is None or feed.month is None:
            return None
        how = "TRANSFORMATION" if origin.how == "IDENTITY" else origin.how
        return replace(origin, column=feed.month, how=how)

    def _published(self, mart: Dataset, line: MartLine) -> Iterator[Dataset]:
        if line.published_as is None or line.changed is None:
            return
        name = self._database_name(line.published_as)
        columns = {
            column: (ColumnInput(mart.name, column, "DIRECT", "IDENTITY"),)
            for column, _ in mart.fields
        }
        yield Dataset(name, mart.fields, line.changed, columns=columns)

    def _read(self, names: Iterable[str], known: set[DatasetName]) -> Iterator[Dataset]:
        """The tables of the lake that marts read and the run itself has not written."""
        for name in names:
            table = self._table_of(name)
            found = self._lake_name(table)
            if found not in known:
                known.add(found)
                yield Dataset(found, _fields(self._state(table)))

    def _written(
        self,
        table: str,
        state: TableState | None,
        rows: int,
        columns: Mapping[str, tuple[ColumnInput, ...]],
    ) -> Dataset:
        return Dataset(self._lake_name(table), _fields(state), rows, columns=columns)

    def _state(self, table: str) -> TableState | None:
        if table not in self._states:
            self._states[table] = self._lake.state(table)
        return self._states[table]

    def _table_of(self, name: str) -> str:
        """The table of the lake that a mart reads under a name."""
        if name in self._project.marts:
            return mart_table(name)
        stored = name.removesuffix(HISTORY)
        table = self._project.tables.get(stored)
        return raw_table(stored if table is not None and table.history else name)

    def _landing_name(self, feed: Feed) -> DatasetName:
        name = _place(self._project.settings.landing, self._project.folder)
        return replace(name, name=f"{name.name}/{feed.files[0]}")

    def _lake_name(self, table: str) -> DatasetName:
        name = _place(str(self._lake.place), self._project.folder)
        return replace(name, name=f"{name.name}/{table}".removeprefix("/" * (name.name == "")))

    def _database_name(self, table: str) -> DatasetName:
        url, folder = self._project.settings.database, self._project.folder
        with suppress(RetailmartError):
            url = self._project.database_url()
        return DatasetName(*dataset_of(url, folder, table))

    def _source_name(self, name: str) -> DatasetName | None:
        """A table of the shop's database; None if it is not known in which it is."""
        sources = self._project.settings.sources
        table = self._project.tables.get(name)
        with open_ledger(self._project) as ledger:
            record = ledger.sources.all().get(name)
        source = (record.source if record else None) or (table.source if table else None)
        if source not in sources:
            source = next(iter(sources), None)
        if source is None:
            return None
        url = self._project.source_url(source)
        return DatasetName(*dataset_of(url, self._project.folder, table.table if table else name))


def _tables_read(report: RunReport) -> dict[str, int]:
    """The source tables that were read, and how many of their rows were written."""
    return {line.name: line.written for batch in report.batches for line in batch.tables}


def _place(place: str, folder: Path) -> DatasetName:
    if place.startswith("s3://"):
        bucket, _, key = place.removeprefix("s3://").partition("/")
        return DatasetName(f"s3://{bucket}", key)
    return DatasetName("file", str((folder / place).resolve()))


def _fields(state: TableState | None, *, system: bool = False) -> tuple[tuple[str, str], ...]:
    return tuple(
        (one.name, str(one.type))
        for one in (state.fields if state else ())
        if system or not is_system_column(one.name)
    )
