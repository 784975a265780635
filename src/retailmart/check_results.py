"""Results of checks of the project's surroundings, each with its fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How much a check result matters. Runs may fail or lose data while there is a problem."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class CheckResult:
    """One check's result. `check` is `place: what`; `fix` is what to type or to set."""

    check: str
    level: Level
    found: str
    fix: str | None = None


@dataclass(frozen=True)
class DoctorReport:
    """All check results of one examination, in a fixed order."""

    results: tuple[CheckResult, ...]

    @property
    def problems(self) -> int:
        """How many results are problems."""
        return sum(one.level is Level.PROBLEM for one in self.results)

    @property
    def warnings(self) -> int:
        """How many results are warnings."""
        return sum(one.level is Level.WARNING for one in self.results)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        # The names in JSON are older than those here, and programs read them.
        results = [
            {"check": one.check, "level": one.level, "found": one.found, "cure": one.fix}
            for one in self.results
        ]
        return {"findings": results, "problems": self.problems, "warnings": self.warnings}


def ok(check: str, found: str) -> CheckResult:
    """All is well."""
    return CheckResult(check, Level.OK, found)


def warning(check: str, found: str, fix: str) -> CheckResult:
    """Runs work, but slower or less safely than they could."""
    return CheckResult(check, Level.WARNING, found, fix)


def problem(check: str, found: str, fix: str) -> CheckResult:
    """Runs fail, or could lose data."""
    return CheckResult(check, Level.PROBLEM, found, fix)


def clock(check: str, seconds: float, *, problem_from: float, why: str, fix: str) -> CheckResult:
    """How much another clock differs; `seconds` is positive if it is ahead of this machine's."""
    direction = "ahead of" if seconds > 0 else "behind"
    found = f"{abs(seconds):,.1f} s {direction} this machine"
    if abs(seconds) > problem_from:
        return problem(check, f"{found}: {why}", fix)
    if abs(seconds) > _TOLERATED:
        return warning(check, found, fix)
    return ok(check, found)


_TOLERATED = 5.0
