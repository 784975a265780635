"""Hold back marts that can't be built or published, and those that must agree with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from retailmart.errors import OF_THE_RUN, NotComputed, RetailmartError, WrongMonth
from retailmart.project.mart import Mart
from retailmart.report import Held
from retailmart.tables import TableChange

if TYPE_CHECKING:
    from retailmart.marts.build import BuiltMart

_FIX = (
    "Widen the expression in the SELECT, as in CAST(x AS DECIMAL(38,2)) or TRY(x / y), or correct"
    " the value where it comes from; the next run builds the mart"
)
_WRONG_FIX = "See whether it is the SELECT with: retailmart check; the next run builds the mart"


@dataclass
class HeldBack:
    """The marts that a batch holds back at their last good state, and why.

    `reads` returns what each mart reads; it is only called if a mart is held back. `firsts` are the
    tables of those without a good state yet: they begin without rows, so that queries find them.
    """

    marts: Mapping[str, Mart]
    reads: Callable[[], Mapping[str, frozenset[str]]]
    held: dict[str, Held] = field(default_factory=dict)
    firsts: list[TableChange] = field(default_factory=list)

    @contextmanager
    def building(self, mart: Mart) -> Iterator[None]:
        """Hold a mart back that can't be built, unless the error is of more than this mart."""
        try:
            yield
        except WrongMonth as error:
            self.add(mart.name, error)
        except OF_THE_RUN:
            raise
        except RetailmartError as error:
            place = f"marts/{mart.name}.sql:{mart.first_line}"
            message = error.message if place in error.message else f"{place}: {error.message}"
            fix = _FIX if isinstance(error, NotComputed) else _WRONG_FIX
            self.add(mart.name, RetailmartError(message, error.hint or fix))

    def add(self, name: str, error: RetailmartError) -> None:
        """Hold back a mart for its own reason, not because of another mart."""
        self.held[name] = Held(name, error.message, error.hint)

    def holds_reader(self, mart: Mart) -> bool:
        """Whether a mart reads one that is held back; if so, it is held back, too."""
        for name in self.held:
            if name in self.reads()[mart.name]:
                self._join(mart, name, f"it reads {name}")
                return True
        return False

    def release(self, built: Sequence[BuiltMart]) -> list[BuiltMart]:
        """Those of `built` that are not held back and need not agree with one that is."""
        self.spread(part.mart for part in built)
        held = [part for part in built if part.mart.name in self.held]
        self.firsts += [replace(part.change, adds=()) for part in held if part.is_first]
        return [part for part in built if part.mart.name not in self.held]

    def spread(self, candidates: Iterable[Mart]) -> None:
        """Hold back `candidates` that read, or must agree or balance with, a held-back mart."""
        others = [mart for mart in candidates if mart.name not in self.held]
        waiting = list(self.held)
        while waiting:
            name = waiting.pop(0)
            for other in others:
                if other.name not in self.held and (tie := self._tie(self.marts[name], other)):
                    self._join(other, name, f"it {tie} {name}")
                    waiting.append(other.name)

    def _join(self, mart: Mart, name: str, why: str) -> None:
        cause = self.held[name].cause or name
        self.held[mart.name] = Held(mart.name, why, None, cause)

    def _tie(self, one: Mart, other: Mart) -> str | None:
        if one.name in self.reads()[other.name]:
            return "reads"
        if one.name in other.agrees or other.name in one.agrees:
            return "must agree with"
        return "must balance with" if one.balance.keys() & other.balance.keys() else None
