"""What a service tells systemd: a few texts over a socket whose name is in the environment."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*words: str) -> None:
    """Tell systemd, as in `READY=1` or `STATUS=waiting`; without effect elsewhere."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place[:1] not in ("/", "@"):
        return
    # An abstract socket's name begins with a NUL, written as @.
    address = f"\0{place[1:]}" if place.startswith("@") else place
    # A service manager that does not answer is no reason to stop.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.settimeout(1)
        wire.connect(address)
        wire.sendall("\n".join(word.replace("\n", " ") for word in words).encode())


def watchdog_seconds() -> float | None:
    """The seconds within which systemd wants to hear from this process; None if it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    told = os.environ.get("WATCHDOG_USEC", "")
    return int(told) / 1e6 if told.isdecimal() and int(told) else None
