"""A function's call, and the tables of what each function means in Spark's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.tree import Node
from retailmart.engines.spark.dialect.values import Value


@dataclass(frozen=True)
class Call:
    """A function with its arguments, as one handler sees it."""

    name: str
    node: Node
    args: tuple[Value, ...]
    type: str
    template: str

    def text(self, number: int) -> str:
        """An argument's SQL."""
        return self.args[number].sql


Handler = Callable[[Translator, Call], Value]


class Functions(dict[str, Handler]):
    """What tells a call, by the function's name in small letters."""

    def tells(self, *names: str) -> Callable[[Handler], Handler]:
        """Enter the decorated handler under these names."""

        def entered(handler: Handler) -> Handler:
            self.update(dict.fromkeys(names, handler))
            return handler

        return entered
