"""What is known of a project: its last runs, the open batch, the files by state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from retailmart.ledger import Ledger
from retailmart.ledger.values import STATE_WORDS, Batch, RunRecord
from retailmart.marts.definitions import held_marts
from retailmart.project import Project
from retailmart.project.uses import is_mentioned, tables_by_source
from retailmart.report import Held
from retailmart.session import open_ledger

_RUNS = 10


@dataclass(frozen=True)
class Status:
    """The last runs, newest first, and what the ledger says now.

    `files` counts them by state; `nothing_loaded` are those of them whose rows are all still in
    quarantine, with their number. `held` are the marts that are held back, `unreadable` the source
    tables that cannot be read correctly, with the reason and what to do: the marts that read them
    are held back, too. `expected` says what has not come yet, a line each.
    """

    runs: tuple[RunRecord, ...]
    open_batch: Batch | None
    files: Mapping[str, int]
    nothing_loaded: Mapping[str, int]
    held: tuple[Held, ...]
    unreadable: Mapping[str, str]
    expected: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The status as plain values."""
        return asdict(self)


def status(project: Project) -> Status:
    """Read the ledger; sources and stores are not asked."""
    with open_ledger(project) as ledger:
        return Status(
            tuple(
                replace(run, state=STATE_WORDS.get(run.state, run.state))
                for run in ledger.runs.last(_RUNS)
            ),
            ledger.batches.unfinished(),
            {STATE_WORDS.get(state, state): n for state, n in ledger.files.count().items()},
            _nothing_loaded(ledger),
            tuple(held_back(ledger)),
            {
                name: why
                for name, why in ledger.held.tables().items()
                if name in project.tables or is_mentioned(project, name)
            },
            expected_inputs(project, ledger),
        )


def _nothing_loaded(ledger: Ledger) -> dict[str, int]:
    """The rows of files that are all in quarantine, and that no sheet has brought back."""
    files = ledger.files.nothing_loaded()
    back = Counter(key for key, _ in ledger.replays.brought_back(file.file_id for file in files))
    rows = {file.path: (file.records or 0, back[file.file_id]) for file in files}
    return {path: records for path, (records, brought) in rows.items() if brought < records}


def held_back(ledger: Ledger) -> Iterator[Held]:
    """The marts that are held back, those with a reason of their own first."""
    reasons = ledger.held.marts()
    unknown = "the run that held it back has not recorded why; the next one tries again"
    found = [reasons.get(name, Held(name, unknown)) for name in held_marts(ledger.marts.all())]
    yield from sorted(found, key=lambda one: one.cause is not None)


def expected_inputs(project: Project, ledger: Ledger) -> tuple[str, ...]:
    """What has not come yet of what the project is to read, a line for each place.

    Only the definitions are asked: a source that does not answer must not make people wait.
    """
    lines = []
    came = ledger.files.feeds_delivered() | ledger.files.feeds_in_progress()
    patterns = [feed.files[0] for feed in project.feeds.values() if feed.name not in came]
    if patterns:
        lines.append(f"files in {project.settings.landing}: {', '.join(patterns)}")
    read = {*ledger.sources.all(), *ledger.held.tables()}
    sources = project.settings.sources
    for source, tables in tables_by_source(project).items():
        where = f"{source} ({sources[source]})" if source else "a database that `sources` names"
        if missing := [table.table for table in tables if table.name not in read]:
            lines.append(f"tables in {where}: {', '.join(missing)}")
    return tuple(lines)
