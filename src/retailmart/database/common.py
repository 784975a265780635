"""What some dialects have in common: those of servers, and those with transactions for tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sqlalchemy import func

from retailmart.database.bulk import bound
from retailmart.database.dialect import Since
from retailmart.project.table import ReadRules
from retailmart.project.types import ColumnType
from retailmart.tables import DatabaseAddress, Extract, Field

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Connection, Engine


class Reading(Protocol):
    """A server's module `reading`, whose functions are the members of `Dialect` by these names."""

    def fields(self, engine: Engine, name: str, rules: ReadRules) -> tuple[Field, ...]: ...

    def read_table(
        self, engine: Engine, name: str, rules: ReadRules, since: Since | None = None
    ) -> pa.Table: ...

    def key_collation(
        self, engine: Engine, name: str, rules: ReadRules
    ) -> tuple[str, str] | None: ...

    def newest(self, engine: Engine, name: str, column: str) -> Any: ...

    def extract(
        self, engine: Engine, address: DatabaseAddress, name: str, rules: ReadRules, least: int
    ) -> Extract | None: ...

    def fingerprint(self, engine: Engine, name: str) -> str | None: ...


class ServerDialect(ABC):
    """A server: it adds decimals exactly, and other connections fill tables at the same time."""

    loads_beside: ClassVar[bool] = True
    # A server has one thread a connection; more than these only wait for the engine's rows.
    loads_at_once: ClassVar[int] = 4

    @property
    @abstractmethod
    def reading(self) -> Reading:
        """The module that reads source tables, imported on demand."""

    @abstractmethod
    def address(self, engine: Engine) -> DatabaseAddress | None: ...

    def compact(self, engine: Engine) -> None:
        return  # a server uses the room again

    def bound(self, field: Field) -> str:
        return bound(field)

    def exact_sum(self, column: Any, kind: ColumnType) -> Any:
        return func.sum(column)

    def exact(self, value: Any, kind: ColumnType) -> Decimal:
        return Decimal(value or 0)

    def fields(self, engine: Engine, name: str, rules: ReadRules) -> tuple[Field, ...]:
        return self.reading.fields(engine, name, rules)

    def read_table(
        self, engine: Engine, name: str, rules: ReadRules, since: Since | None = None
    ) -> pa.Table:
        return self.reading.read_table(engine, name, rules, since)

    def key_collation(self, engine: Engine, name: str, rules: ReadRules) -> tuple[str, str] | None:
        return self.reading.key_collation(engine, name, rules)

    def newest(self, engine: Engine, name: str, column: str) -> Any:
        return self.reading.newest(engine, name, column)

    def extract(self, engine: Engine, name: str, rules: ReadRules, least: int) -> Extract | None:
        address = self.address(engine)
        return (
            None if address is None else self.reading.extract(engine, address, name, rules, least)
        )

    def fingerprint(self, engine: Engine, name: str) -> str | None:
        return self.reading.fingerprint(engine, name)


class TransactionalTables:
    """Tables are created, changed and renamed in transactions: nothing is ever half done."""

    ddl_in_transaction: ClassVar[bool] = True

    def settle(self, connection: Connection, table: str) -> None:
        """Nothing to do: a column is added in the transaction that fills it."""

    def mark_of(self, connection: Connection, table: str) -> str | None:
        """None: the transaction that swaps a table in also records it in the ledger."""
        return None


class UnlimitedTexts:
    """A column of type TEXT holds any text, can be indexed, and is never too short."""

    sizes_texts: ClassVar[bool] = False

    def collation(self, connection: Connection) -> str | None:
        """None: a column uses the database's own collation unless it names another."""
        return None

    def widen(self, connection: Connection, table: str, longest: Mapping[str, int]) -> None:
        """Nothing to do: columns have no length limit."""

    def in_the_way(
        self, connection: Connection, table: str, longest: Mapping[str, int]
    ) -> tuple[str, str] | None:
        return None
