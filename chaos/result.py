"""What comes of a scenario of the fault campaign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What came of one scenario."""

    scenario: str  # "kill sweep, files and SQLite"
    tries: Mapping[str, int]  # {"kills": 2000, "effects found": 312}
    faults: Mapping[str, int]  # what must be 0: {"lost": 0, "doubled": 0, "unreadable": 0}
    seeds: str  # "20240401..20240440"
    seconds: float
    notes: tuple[str, ...] = ()  # failures in words, the first ones, each with its seed

    @property
    def passed(self) -> bool:
        """Whether something was tried and nothing went wrong."""
        return not any(self.faults.values()) and any(self.tries.values())
