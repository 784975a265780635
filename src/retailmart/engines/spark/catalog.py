"""The relations that queries can name, as values; on the driver they have columns and no rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Lock

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.engines.parsing import tables_in
from retailmart.engines.relations import Definition, OfQuery, OfRows, OfTable, Relation
from retailmart.engines.spark.work import Reads


class Catalog:
    """Each relation's definition; `types` has them without rows, so that queries can be typed."""

    def __init__(self, types: DuckDBEngine) -> None:
        self.types = types
        self._defined: dict[str, Definition] = {}
        self._lock = Lock()

    def add(self, definition: Definition) -> Relation:
        """A new relation."""
        relation = self.types.added(_without_rows(definition))
        with self._lock:
            self._defined[relation.name] = definition
        return relation

    def forget(self, relation: Relation) -> None:
        """Forget what no later query reads."""
        with self._lock:
            self._defined.pop(relation.name, None)
        self.types.forget(relation)

    def reads(
        self,
        query: str,
        names: Mapping[str, Relation] | None = None,
        monthly: Iterable[str] = (),
    ) -> Reads:
        """The relations that a query reads, without `monthly` names, which differ by month."""
        meant = {name.lower(): relation for name, relation in (names or {}).items()}
        skipped = {name.lower() for name in monthly}
        found: dict[str, Definition] = {}
        used: dict[str, str] = {}
        for name in sorted(_named(query)):
            if (relation := meant.get(name.lower())) is not None:
                used[name] = relation.name
                self._collect(relation.name, found)
            elif name.lower() not in skipped:
                self._collect(name, found)
        return Reads(tuple(found.items()), used)

    def _collect(self, name: str, found: dict[str, Definition]) -> None:
        if name in found or name not in self._defined:
            return
        definition = self._defined[name]
        if isinstance(definition, OfQuery):
            for inner in sorted(_named(definition.text)):
                self._collect(inner, found)
        found[name] = definition


def _without_rows(definition: Definition) -> Definition:
    if isinstance(definition, OfTable):
        return OfTable(definition.table.only(()))
    if isinstance(definition, OfRows):
        return OfRows(definition.rows.slice(0, 0))
    return definition


def _named(query: str) -> frozenset[str]:
    try:
        return tables_in(query)
    except ValueError:  # it runs on the driver, where DuckDB reports the error
        return frozenset()
