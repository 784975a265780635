"""Parts that the health checks of all databases share: probe names, and how fixes are written."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from retailmart.check_results import CheckResult, clock

PREFIX = "retailmart_doctor_"
EMOJI = "🧾 ₦ é"


def probe_name() -> str:
    """The name of a table that a check creates, tries and drops."""
    return f"{PREFIX}{uuid.uuid4().hex[:12]}"


def as_admin(statement: str) -> str:
    """A statement that the account itself may not run."""
    return f"As the server's administrator: {statement}"


def lasting(statement: str) -> str:
    """A setting that a restart would forget."""
    return f"{as_admin(statement)} (and in the server's own settings file, to last)"


def setting_of(name: str) -> str:
    """Where retailmart.yml names this database; `name` begins its check results."""
    return "`database`" if name == "database" else f"`sources: {name.removeprefix('source ')}`"


def clock_of(name: str, now: Callable[[], datetime]) -> CheckResult:
    """How much a server's clock, as `now` asks for it, differs from this machine's."""
    before = datetime.now(UTC)
    there = now()
    here = before + (datetime.now(UTC) - before) / 2
    return clock(
        f"{name}: clock",
        (there - here).total_seconds(),
        problem_from=30,
        why="two machines could take each other's work over",
        fix="Synchronise both machines' clocks: timedatectl set-ntp true",
    )


def me() -> str:
    """The operating system's user who runs this."""
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "this user"
