"""What the driver works on itself: little, and what it has anyway."""

from __future__ import annotations

import re

from retailmart.engines import Item, Result, Work
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.engines.relations import Definition, OfRows, OfTable
from retailmart.engines.spark.work import Reads
from retailmart.tables import DataFile

# Files already on this machine are processed here, up to this many bytes at a time.
_MOST_KNOWN = 32 << 20


class Driver:
    """The driver's own work, with `engine`. `limit` is what it may read of others' files in all."""

    def __init__(self, engine: DuckDBEngine, limit: str) -> None:
        self.engine = engine
        self._left = _bytes(limit)
        # Files that this machine has read or written, by the roots of their tables.
        self._known: set[tuple[str, str]] = set()

    def is_little(self, size: int) -> bool:
        """Whether the driver may read this much itself."""
        return size <= self._left

    def takes(self, size: int) -> bool:
        """Whether the driver does the work itself; what it reads then counts towards its limit."""
        if not self.is_little(size):
            return False
        self._left -= size
        return True

    def work(self, work: Work[Item, Result], item: Item) -> Result:
        """Do the work here; files that it writes are known here then."""
        before = len(self.engine.writer.written)
        result = work(self.engine, item)
        written = self.engine.writer.written[before:]
        self._known |= {(str(root), file.path) for root, file in written}
        return result

    def size(self, reads: Reads) -> int:
        """The bytes to read that are not on this machine yet; if those are many, all bytes."""
        here = sum(
            definition.size
            if isinstance(definition, OfRows)
            else sum(file.size for file in self._known_of(definition))
            for _, definition in reads.defined
        )
        return reads.size - here if here <= _MOST_KNOWN else reads.size

    def _known_of(self, definition: Definition) -> list[DataFile]:
        if not isinstance(definition, OfTable):
            return []
        table = definition.table
        return [file for file in table.files if (table.root, file.path) in self._known]

    def read(self, reads: Reads) -> None:
        """Remember that this machine now has the files that it reads."""
        for _, definition in reads.defined:
            if isinstance(definition, OfTable):
                table = definition.table
                self._known |= {(table.root, file.path) for file in table.files}


def _bytes(size: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+)\s*([A-Za-z]+)", size).groups()  # type: ignore[union-attr]
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** " KMGT".index(unit[0].upper()))
