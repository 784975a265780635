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
        types = self.types
        if isinstance(definition, OfTable):
            relation = types.define(definition.table.only(()))
        elif isinstance(definition, OfRows):
            relation = types.values(definition.rows.slice(0, 0))
        elif isinstance(definition, OfQuery):
            relation = types.query(definition.text)
        else:
            numbered = definition.numbered
            relation = types.records(definition.files, definition.shape, numbered=numbered)
        with self._lock:
            self._defined[relation.name] = definition
        return relation

    def forget(self, values: Relation) -> None:
        """Forget rows in memory."""
        with self._lock:
            self._defined.pop(values.name, None)
        self.types.forget(values)

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


def _named(query: str) -> frozenset[str]:
    try:
        return tables_in(query)
    except ValueError:  # it runs on the driver, where DuckDB reports the error
        return frozenset()
