"""What of the shop's tables a project uses, by the names that its marts and feeds hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retailmart.project import Project
    from retailmart.project.table import Table


def is_mentioned(project: Project, table: str) -> bool:
    """Whether a mart or a feed may read a table.

    A word is enough, and spares the engine that would know more: a table that nothing reads any
    more would cause a batch in which nothing is done, again and again.
    """
    words = (mart.words for mart in project.marts.values())
    return table in referenced(project) or any(table.lower() in each for each in words)


def tables_by_source(project: Project) -> dict[str | None, list[Table]]:
    """The declared tables that a mart or a feed may read, by the source that is to have them.

    The source is None where the project does not say which of several it is, or names none.
    """
    sources = project.settings.sources
    found: dict[str | None, list[Table]] = {}
    for table in project.tables.values():
        if is_mentioned(project, table.name):
            source = table.source or next(iter(sources), None) if len(sources) < 2 else table.source
            found.setdefault(source, []).append(table)
    return found


def referenced(project: Project) -> frozenset[str]:
    """The tables that columns of feeds refer to."""
    columns = (column for feed in project.feeds.values() for column in feed.columns)
    return frozenset(column.references[0] for column in columns if column.references)


def uses_column(project: Project, table: Table, column: str) -> bool:
    """Whether a mart or a feed may use a column of a table.

    Each mart that reads the table uses what it names, and all columns if it has a `*`. A name in a
    comment or a text is not a use.
    """
    if column in table.key or column == table.cursor:
        return True
    references = {c.references for feed in project.feeds.values() for c in feed.columns}
    if (table.name, column) in references:
        return True
    names = {name.lower() for name in table.names}
    return any(
        column.lower() in mart.words or mart.takes_all_columns
        for mart in project.marts.values()
        if names & mart.words
    )
