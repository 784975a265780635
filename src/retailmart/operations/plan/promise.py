"""What a plan rests on and comes to, as its file keeps it: a run that does it is held to that.

Everything that decides a run's numbers is compared before anything is committed: what has landed,
by its content; the lake's and the ledger's versions; the files that define feeds, tables, marts and
functions; the source tables that were read; and the rows and sums that were proven.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from retailmart.errors import GateFailed, SettingsError
from retailmart.lake import Lake
from retailmart.lake.layout import is_known
from retailmart.ledger import Ledger
from retailmart.ledger.values import LedgerFile, Outcome
from retailmart.operations.settings import recorded
from retailmart.project import Project

_FORMAT = 1
# Settings that decide what is read and written. Others, such as those of the log, may change.
_DECIDING = ("landing", "lake", "archive", "database", "sources.", "variables.", "publish.")
_TOLD = 10
_AGAIN = "Look at what it comes to now: retailmart plan"


@dataclass(frozen=True)
class Basis:
    """What a plan begins with: the newest batch, the tables' versions, and what defines the rest.

    `batch` is the key and the state of the newest batch, `definitions` are digests and settings.
    """

    batch: str
    versions: Mapping[str, int]
    definitions: Mapping[str, str | None]


@dataclass(frozen=True)
class PlannedBatch:
    """A batch as it was planned: its files and what is read of tables, and what comes of it.

    `files` maps each path to its state and SHA-256, `tables` each source table to the digest of its
    rows. `outcome` has the proven figures, by what they are of.
    """

    files: Mapping[str, str]
    tables: Mapping[str, str] = field(default_factory=dict)
    outcome: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Promise:
    """A plan that a run carries out: the run does just that, or GateFailed says what has moved.

    `command` is `run`, or another operation with its `arguments`. `staged` is the batch that it
    stages, None if there was nothing to do; `unfinished` is that of an earlier run, which it
    finishes first, if that was not prepared yet.
    """

    command: str
    arguments: Mapping[str, Any]
    as_of: datetime
    basis: Basis
    unfinished: PlannedBatch | None = None
    staged: PlannedBatch | None = None

    def expect_basis(self, found: Basis) -> None:
        """Raise GateFailed if the project has moved since the plan was made."""
        moved = []
        if found.batch != self.basis.batch:
            moved.append(f"the ledger: {found.batch} is the newest, it was {self.basis.batch}")
        moved += _differences("table", self.basis.versions, found.versions)
        moved += _differences("", self.basis.definitions, found.definitions)
        _expect_none(moved)

    def expect_staged(self, files: Sequence[LedgerFile] | None) -> None:
        """Raise GateFailed if a batch takes in other files than planned; None is no batch."""
        planned = self.staged
        if files is None and planned is None:
            return
        now = _files_of(files or ())
        moved = list(_differences("landing:", planned.files if planned else {}, now))
        if planned is None and not moved:
            moved.append("there is something to do now, there was nothing when this was planned")
        if files is None and planned is not None and not moved:
            moved.append("there is nothing to do now")
        _expect_none(moved)

    def expect_outcome(self, outcome: Outcome, files: Sequence[LedgerFile]) -> None:
        """Raise GateFailed if a batch comes to something else than planned."""
        now = planned_batch(outcome, files)
        batches = (one for one in (self.unfinished, self.staged) if one is not None)
        planned = next((one for one in batches if one.files == now.files), PlannedBatch({}))
        moved = [
            *_differences("source table", planned.tables, now.tables),
            *_differences("", planned.outcome, now.outcome),
        ]
        _expect_none(moved)

    def to_dict(self) -> dict[str, Any]:
        """The promise as plain values."""
        return {**asdict(self), "as_of": self.as_of.isoformat(), "format": _FORMAT}

    @classmethod
    def read(cls, file: Path) -> Promise:
        """The promise that `retailmart plan --out` wrote. Raises SettingsError if it is none."""
        try:
            plain = json.loads(file.read_bytes())["promise"]
            if plain["format"] != _FORMAT:
                raise SettingsError(
                    [f"{file} was written by another release of retailmart"], _AGAIN
                )
            return cls(
                str(plain["command"]),
                dict(plain["arguments"]),
                datetime.fromisoformat(plain["as_of"]),
                Basis(**plain["basis"]),
                _batch(plain["unfinished"]),
                _batch(plain["staged"]),
            )
        except OSError as error:
            raise SettingsError(
                [f"{file} can't be read: {error.strerror}"], "Write it: retailmart plan --out FILE"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                [f"{file} is no plan"], "Write it: retailmart plan --out FILE"
            ) from error


def basis_of(ledger: Ledger, lake: Lake, project: Project) -> Basis:
    """What a plan would begin with now."""
    newest = ledger.batches.newest()
    versions = {
        table: version
        for table in lake.place.tables()
        if is_known(table) and (version := lake.version(table)) is not None
    }
    definitions = {
        name: said
        for name, said in recorded(project).items()
        if name.startswith(_DECIDING) or "/" in name or name.endswith(".py")
    }
    batch = f"batch {newest.batch_id}, {newest.state.value}" if newest else "no batch"
    return Basis(batch, versions, definitions)


def planned_batch(outcome: Outcome, files: Iterable[LedgerFile]) -> PlannedBatch:
    """A batch as a plan keeps it."""
    outcome, files = Outcome.from_json(outcome.to_json()), list(files)
    paths = {file.file_id: file.path for file in files}
    found: dict[str, Any] = {}
    for one in outcome.files:
        path = paths.get(one.file_id, f"file {one.file_id}")
        rows = f"{one.records} rows: {one.loaded} loaded, {one.quarantined} refused"
        found[path] = f"{rows}; {_plain(one.months)}"
    for table, months in outcome.balances.items():
        found |= {f"{table} {month}": _plain(totals) for month, totals in months.items()}
    for name, lines in outcome.notes.items():
        if name != "all_refused":  # which are keys of files; their rows are above
            found[name] = _plain(lines)
    tables = {name: record.digest for name, record in outcome.sources.items()}
    return PlannedBatch(_files_of(files), tables, found)


def _files_of(files: Iterable[LedgerFile]) -> dict[str, str]:
    return {file.path: f"{file.state.value}, {file.sha256}" for file in files}


def _plain(value: Any) -> str:
    return json.dumps(value, default=_as_text, sort_keys=True, separators=(",", ":"))


def _as_text(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)


def _batch(plain: Mapping[str, Any] | None) -> PlannedBatch | None:
    return None if plain is None else PlannedBatch(**plain)


def _differences(what: str, planned: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*planned, *found}):
        if planned.get(name) == found.get(name):
            continue
        how = "is new" if name not in planned else "is gone" if name not in found else "has changed"
        yield f"{what} {name} {how}".strip()


def _expect_none(moved: Sequence[str]) -> None:
    if moved:
        listed = "\n  ".join(moved[:_TOLD])
        more = f"\n  and {len(moved) - _TOLD:,} more" if len(moved) > _TOLD else ""
        raise GateFailed(
            f"this is no longer what was planned; nothing was changed:\n  {listed}{more}", _AGAIN
        )
