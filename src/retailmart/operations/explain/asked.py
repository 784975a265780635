"""The rows of a mart that somebody asks about, by the names and texts of people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from retailmart.engines.duckdb.sql import sql_type
from retailmart.errors import RetailmartError
from retailmart.lake.layout import is_system_column
from retailmart.marts.tracing import Untraceable
from retailmart.operations.explain.trace import Tracing, condition, text_of
from retailmart.project import Mart
from retailmart.project.documents import did_you_mean
from retailmart.tables import TableState, quoted, text_literal

_MONTH: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_ADDED: Final = ("INT", "BIGINT", "DECIMAL", "DOUBLE")


@dataclass(frozen=True)
class Asked:
    """Finds rows and columns of one mart."""

    tracing: Tracing
    mart: Mart

    @cached_property
    def state(self) -> TableState:
        """The mart's table."""
        return self.tracing.state(self.mart)

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """The SQL types of its columns."""
        return {one.name: sql_type(one.type) for one in self.state.fields}

    def chosen(self, key: Mapping[str, object]) -> dict[str, Any]:
        """The values of the key by column, each of its column's type."""
        if not key:
            wanted = " ".join(f"{self.option(n)} VALUE" for n in self.mart.key or ("COLUMN",))
            raise RetailmartError(
                f"name the row of {self.mart.name} by its key",
                f"retailmart explain {self.mart.name} {wanted}",
            )
        chosen = {}
        for said, value in key.items():
            name = self._named(said, value)
            chosen[name] = self._value(name, value)
        return chosen

    def option(self, name: str) -> str:
        """How a column is named on the command line."""
        return "--month" if name == self.mart.month else f"--{name}"

    def _named(self, said: str, value: object) -> str:
        """The column that somebody means: `month` may be the mart's month, `-` is `_`."""
        plain = said.replace("-", "_").lower()
        by_low = {name.lower(): name for name in self.kinds}
        is_month = isinstance(value, str) and len(value) == 7 and value[4] == "-"
        if plain == "month" and is_month and self.mart.month is not None:
            return self.mart.month
        for one in (said.lower(), plain, f"_{plain}"):
            if one in by_low:
                return by_low[one]
        if plain == "month" and self.mart.month is not None:
            return self.mart.month
        raise RetailmartError(
            f"{self.mart.name} has no column {said!r}{did_you_mean(plain, self.kinds)}",
            f"Its key: {', '.join(self.mart.key) or 'none; any of its columns chooses rows'}",
        )

    def _value(self, name: str, value: object) -> Any:
        if value is None:
            return None
        if name == self.mart.month and not _MONTH.fullmatch(text_of(value)):
            raise RetailmartError(f"{text_of(value)!r} is no month", "Write it as 2024-03")
        kind, text = self.kinds[name], text_literal(text_of(value))
        ((found,),) = self.tracing.engine.rows(f"SELECT TRY_CAST({text} AS {kind})")
        if found is None:
            raise RetailmartError(
                f"{name}: {text_of(value)!r} is no {kind}",
                f"See values with: retailmart show {self.mart.name} --columns {name}",
            )
        return found

    def rows(self, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows that have these values, by month and then in the order of the columns."""
        seen = self.state
        month = self.mart.month
        if month is not None and chosen.get(month) is not None:
            seen = seen.in_months([str(chosen[month])])
        where = condition(chosen, self.kinds)
        # By month first, since the mart's query is asked for one month at a time.
        names = [*([month] if month is not None else []), *self.kinds]
        order = ", ".join(map(quoted, dict.fromkeys(names)))
        relation = self.tracing.engine.define(seen)
        return self.tracing.engine.dicts(
            f"SELECT * FROM {relation} AS made WHERE {where} ORDER BY {order}"
        )

    def column(self, column: str | None) -> str:
        """The column that somebody means; by default the one to explain."""
        if column is not None:
            by_low = {name.lower(): name for name in self.kinds}
            plain = column.replace("-", "_").lower()
            if plain not in by_low:
                raise RetailmartError(
                    f"{self.mart.name} has no column {column!r}{did_you_mean(plain, self.kinds)}",
                    f"Its columns: {', '.join(self.kinds)}",
                )
            return by_low[plain]
        for name in self.mart.balance.values():
            return name
        key = {*self.mart.key, *self.mart.partitions}
        types = {one.name: one.type.name for one in self.state.fields}
        plain_ones = [n for n in types if n not in key and not is_system_column(n)]
        numbers = [name for name in plain_ones if types[name] in _ADDED]
        for wanted in ("DECIMAL", None):
            for name in numbers:
                if wanted in (types[name], None) and self._adds(name):
                    return name
        return (numbers or plain_ones or list(types))[0]

    def _adds(self, name: str) -> bool:
        try:
            return self.tracing.of(self.mart, name).adds is not None
        except Untraceable:
            return False

    def month(self, row: Mapping[str, Any]) -> str | None:
        """The month for which a row was built."""
        month = self.mart.month
        if month is None or not self.tracing.is_monthly(self.mart):
            return None
        return str(row[month])
