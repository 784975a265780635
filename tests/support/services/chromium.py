"""Debian's Chromium without a window and without a network: what people see of a page."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.services.debian import install

_PROGRAM = "chromium"
# Each name is nowhere, so a page that wants something from outside does not get it.
_ALONE = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-background-networking",
)


def _call(page: Path, *options: str) -> str:
    failed = install(_PROGRAM, lambda: shutil.which(_PROGRAM) is not None)
    if failed or not shutil.which(_PROGRAM):
        pytest.fail(f"Chromium is needed: apt-get install chromium. {failed or ''}", pytrace=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [_PROGRAM, *_ALONE, f"--user-data-dir={profile}", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def dom_of(page: Path) -> str:
    """The page's document as Chromium has it."""
    return _call(page, "--dump-dom")


def picture_of(page: Path, to: Path, width: int, height: int, *, dark: bool = False) -> None:
    """A picture of the page in a window of this size, as PNG."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _call(page, f"--window-size={width},{height}", scheme, f"--screenshot={to}")


def printed(page: Path, to: Path) -> None:
    """The page as it is printed, as PDF."""
    _call(page, "--no-pdf-header-footer", f"--print-to-pdf={to}")
