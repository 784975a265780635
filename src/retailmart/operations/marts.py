"""List a project's marts: what each one is, how much it holds, when it was built, where it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retailmart.lake import Lake
from retailmart.lake.layout import mart_table
from retailmart.ledger.values import MartRecord
from retailmart.operations.status import held_back
from retailmart.project import Mart, Project
from retailmart.report import Held
from retailmart.session import LedgerView, open_lake, view_ledger


@dataclass(frozen=True)
class ListedMart:
    """A mart as it is in the lake.

    `rows`, `months` (None where it is not kept by month), `first_month` and `last_month` are those
    of its newest version; `built_as_of` is the moment it was computed for, as an ISO time in UTC.
    `published_as` is its table in the database, None if only the lake has it. `held` says why it is
    held back at an older state, None if it is not.
    """

    name: str
    about: str | None
    refresh: str
    rows: int | None
    months: int | None
    first_month: str | None
    last_month: str | None
    built_as_of: str | None
    folder: str
    published_as: str | None
    held: str | None = None

    @property
    def is_built(self) -> bool:
        """Whether the lake has it."""
        return self.rows is not None


@dataclass(frozen=True)
class MartList:
    """The marts of a project by name."""

    marts: tuple[ListedMart, ...]

    def to_dict(self) -> dict[str, Any]:
        """The list as plain values."""
        return asdict(self)


def list_marts(project: Project) -> MartList:
    """All marts that the project defines. Nothing is written."""

    def read(view: LedgerView) -> tuple[dict[str, MartRecord], dict[str, Held]]:
        return view.ledger.marts.all(), {one.mart: one for one in held_back(view.ledger)}

    records, held = view_ledger(project, read)
    lake = open_lake(project)
    return MartList(
        tuple(
            _listed(lake, mart, records.get(name, MartRecord(name)), held.get(name))
            for name, mart in project.marts.items()
        )
    )


def _listed(lake: Lake, mart: Mart, record: MartRecord, held: Held | None) -> ListedMart:
    table = mart_table(mart.name)
    state = lake.state(table)
    months = {
        month
        for file in (state.files if state else ())
        if mart.month and (month := file.partition.get(mart.month))
    }
    as_of = record.built_as_of
    return ListedMart(
        mart.name,
        mart.about,
        mart.refresh.value,
        sum(file.rows for file in state.files) if state else None,
        len(months) if state and mart.month else None,
        min(months, default=None),
        max(months, default=None),
        as_of.isoformat() if as_of else None,
        str(lake.folder(table)),
        record.published_as,
        held.message if held else None,
    )
