"""How everything in this package reaches the ledger's tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from retailmart.errors import RetailmartError
from retailmart.ledger.lease import Lease

# The connection option for reads without a lock; `database` begins transactions accordingly.
READS = "retailmart_reads"


@dataclass(frozen=True)
class Access:
    """The ledger's tables in one database; writes verify the lease in their own transaction."""

    engine: Engine
    lease: Lease | None = None
    # Where marts are published, if that is another database: a copy of a ledger has none of them.
    publishes_to: Engine | None = None

    @property
    def database(self) -> Engine:
        """The database that marts are published to: the ledger's own, unless it is a copy."""
        return self.publishes_to or self.engine

    def reading(self) -> Connection:
        """A connection that only reads, and so does not wait for writers."""
        return self.engine.execution_options(**{READS: True}).connect()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction that only the holder of the lease can commit."""
        if self.lease is None:
            raise RetailmartError("the ledger was opened for reading")
        with self.engine.begin() as connection:
            self.lease.verify(connection)
            yield connection
