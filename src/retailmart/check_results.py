"""Results of checks of the project's surroundings, each with its fix."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How much a check result matters. Runs may fail or lose data while there is a problem."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class CheckResult:
    """One check's result. `check` is `place: what`; `cure` is the fix: what to type or to set."""

    check: str
    level: Level
    found: str
    cure: str | None = None


@dataclass(frozen=True)
class DoctorReport:
    """All check results of one examination, in a fixed order."""

    findings: tuple[CheckResult, ...]

    @property
    def problems(self) -> int:
        """How many results are problems."""
        return sum(finding.level is Level.PROBLEM for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many results are warnings."""
        return sum(finding.level is Level.WARNING for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        findings = [asdict(finding) for finding in self.findings]
        return {"findings": findings, "problems": self.problems, "warnings": self.warnings}


def ok(check: str, found: str) -> CheckResult:
    """All is well."""
    return CheckResult(check, Level.OK, found)


def warning(check: str, found: str, cure: str) -> CheckResult:
    """Runs work, but slower or less safely than they could."""
    return CheckResult(check, Level.WARNING, found, cure)


def problem(check: str, found: str, cure: str) -> CheckResult:
    """Runs fail, or could lose data."""
    return CheckResult(check, Level.PROBLEM, found, cure)


def clock(check: str, seconds: float, *, problem_from: float, why: str, cure: str) -> CheckResult:
    """How much another clock differs; `seconds` is positive if it is ahead of this machine's."""
    direction = "ahead of" if seconds > 0 else "behind"
    found = f"{abs(seconds):,.1f} s {direction} this machine"
    if abs(seconds) > problem_from:
        return problem(check, f"{found}: {why}", cure)
    if abs(seconds) > _TOLERATED:
        return warning(check, found, cure)
    return ok(check, found)


_TOLERATED = 5.0
