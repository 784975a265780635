"""Parts that the health checks of all databases share: probe names, and how fixes are written."""

from __future__ import annotations

import getpass
import uuid
from contextlib import suppress

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


def me() -> str:
    """The operating system's user who runs this."""
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "this user"
