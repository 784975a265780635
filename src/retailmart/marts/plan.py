"""Plan marts: what each reads, in which order, and which have nothing to be built from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from retailmart.errors import RetailmartError
from retailmart.marts.bind import names_read
from retailmart.marts.build import build_order, without_input
from retailmart.project import Mart, Project
from retailmart.project.table import Table, undeclared
from retailmart.sources.databases import Sources, gone, locate


@dataclass(frozen=True)
class Plan:
    """The marts in an order in which each follows what it reads, and what each reads.

    `tables` are the source tables that are read, and the source that has each; `gone` are those
    that were read before and are in no source now, with the error that says so. `unavailable` are
    the marts that lack something, and what they lack.
    """

    order: tuple[Mart, ...]
    reads: Mapping[str, frozenset[str]]
    tables: Mapping[str, tuple[str, Table]]
    gone: Mapping[str, RetailmartError]
    unavailable: Mapping[str, str]

    def without(self, tables: Mapping[str, str]) -> Plan:
        """The same without marts that read these names, and what reads those; with reasons."""
        held = without_input(self.order, self.reads, tables, {}, ())
        order = tuple(mart for mart in self.order if mart.name not in held)
        return replace(self, order=order, unavailable={**self.unavailable, **held})


def reads_of(project: Project) -> dict[str, frozenset[str]]:
    """What each mart reads, by the names that the project has for it.

    RetailmartError names the mart that cannot be parsed.
    """
    reads = {}
    for mart in project.marts.values():
        try:
            reads[mart.name] = names_read(project, mart)
        except ValueError as error:
            place = f"marts/{mart.name}.sql:{mart.first_line}"
            raise RetailmartError(f"{place}: {error}", "Correct the mart's SELECT") from error
    return reads


def plan_marts(
    project: Project,
    sources: Sources,
    known: Collection[str],
    delivered: Collection[str],
) -> Plan:
    """Find what each mart reads, and whether it exists.

    `known` are the source tables that were read before, `delivered` are the feeds of which files
    have come. RetailmartError names the mart that cannot be parsed, SettingsError names what no
    source has and no file declares.
    """
    reads = reads_of(project)
    taken = {*project.feeds, *project.marts}
    tables, nowhere = locate(_wanted_tables(project, reads), sources, known, taken)
    lost = {table.name: gone(table) for table in nowhere if table.name in known}
    absent: dict[str, str] = {}
    for table in nowhere:
        why = f"no source has the table {table.table}"
        if table.name in lost:
            why = lost[table.name].one_line
        absent |= dict.fromkeys(table.names, why)
    undelivered = {
        feed: f"no file of feed {feed} has come yet"
        for feed in project.feeds
        if feed not in delivered
    }
    order = build_order(project.marts, reads)
    unavailable = without_input(order, reads, absent, undelivered, project.feeds)
    available = tuple(mart for mart in order if mart.name not in unavailable)
    return Plan(available, reads, tables, lost, unavailable)


def _wanted_tables(
    project: Project, reads: Mapping[str, frozenset[str]]
) -> list[tuple[Table, str]]:
    """Tables that must come from sources, with the place that names each."""
    tables = project.tables
    own = {*project.feeds, *project.marts}
    own |= {name for table in tables.values() for name in table.names}
    wanted = {table: f"marts/{mart}.sql" for mart, names in reads.items() for table in names - own}
    for feed in project.feeds.values():
        for column in feed.columns:
            if column.references and column.references[0] not in own:
                wanted.setdefault(column.references[0], f"feeds/{feed.name}.yml")
    declared = [(table, f"tables/{name}.yml") for name, table in tables.items()]
    return [*declared, *((undeclared(name), place) for name, place in sorted(wanted.items()))]
