"""What marts are built by, and which of them are stale. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from retailmart.lake import Lake
from retailmart.lake.layout import mart_table
from retailmart.ledger import Ledger
from retailmart.ledger.values import HELD, UNAVAILABLE, MartRecord, definition_of
from retailmart.project import Project


def fingerprints(project: Project, as_of: datetime) -> dict[str, str]:
    """What each mart is built by: its definition, and the day if it reads `as_of`."""
    variables, functions = project.variables, project.functions
    found = {}
    for mart in project.marts.values():
        day = f"@{as_of:%Y-%m-%d}" if mart.looks_at_as_of else ""
        found[mart.name] = mart.fingerprint(variables, functions.used_in(mart.query)) + day
    return found


def held_marts(known: Mapping[str, MartRecord]) -> list[str]:
    """The marts that are held back at their last good state."""
    return sorted(one.name for one in known.values() if (one.fingerprint or "").startswith(HELD))


def stale_marts(
    project: Project,
    known: Mapping[str, MartRecord],
    as_of: datetime,
    available: Iterable[str] = (),
) -> frozenset[str]:
    """Marts that are new, or were built by another definition or for another day.

    `known` is what the ledger says of marts. One that could not be built is stale once it is
    `available`.
    """
    can_be_built = set(available)
    stale = set()
    for name, fingerprint in fingerprints(project, as_of).items():
        built = known.get(name, MartRecord(name)).fingerprint
        if built != fingerprint and (built != UNAVAILABLE + fingerprint or name in can_be_built):
            stale.add(name)
    return frozenset(stale)


def changed_by_others(ledger: Ledger, lake: Lake, marts: Iterable[str]) -> frozenset[str]:
    """Marts that lost or won rows since they were built: they are built again, from all rows."""
    counted = ledger.marts.row_counts()
    changed = set()
    for name in marts:
        table = mart_table(name)
        expected, state = counted.get(table), lake.state(table) if table in counted else None
        if state is not None and expected != sum(file.rows for file in state.files):
            changed.add(name)
    return frozenset(changed)


def changed_definitions(
    project: Project, known: Mapping[str, MartRecord], as_of: datetime
) -> list[str]:
    """The marts whose definition changed since they were built, or since that was tried."""
    return [
        name
        for name, fingerprint in fingerprints(project, as_of).items()
        if definition_of(fingerprint)
        != definition_of((known.get(name, MartRecord(name)).fingerprint or "").lstrip(UNAVAILABLE))
    ]


def built_by(
    project: Project, as_of: datetime, unavailable: Iterable[str] = (), held: Iterable[str] = ()
) -> dict[str, str]:
    """The fingerprints that a batch leaves behind; those of marts it lacks get a prefix."""
    marks = {**dict.fromkeys(held, HELD), **dict.fromkeys(unavailable, UNAVAILABLE)}
    return {
        name: marks.get(name, "") + fingerprint
        for name, fingerprint in fingerprints(project, as_of).items()
    }


def marts_away(project: Project, known: Iterable[str]) -> dict[str, str]:
    """What a batch records for marts whose files are missing.

    They miss the batch, so they no longer match any definition: if they come back, they are built
    from the whole history.
    """
    return dict.fromkeys(set(known) - project.marts.keys(), UNAVAILABLE)
