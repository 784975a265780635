"""Debian's Chromium without a window and without a network: what people see of a page."""

from __future__ import annotations

import re
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


# Writes to the browser's log when the page is loaded and its first whole frame is on the screen.
_WATCH = """<script>
addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(
  () => console.log("painted after", Math.round(performance.now())))))
</script>"""
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def _call(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    failed = install(_PROGRAM, lambda: shutil.which(_PROGRAM) is not None)
    if failed or not shutil.which(_PROGRAM):
        pytest.fail(f"Chromium is needed: apt-get install chromium. {failed or ''}", pytrace=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [_PROGRAM, *_ALONE, f"--user-data-dir={profile}", *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def dom_of(page: Path) -> str:
    """The page's document as Chromium has it."""
    return _call(page, "--dump-dom").stdout


def seconds_to_paint(page: Path, scratch: Path) -> float:
    """From the start of the navigation until all of the page's first screen is painted.

    The page may forbid scripts: what is watched is a copy with one.
    """
    text = page.read_text(encoding="utf-8")
    watched = scratch / "watched.html"
    watched.write_text(_POLICY.sub("", text).replace("<head>", f"<head>{_WATCH}", 1), "utf-8")
    options = ("--enable-logging=stderr", "--window-size=1280,1000", "--timeout=10000")
    log = _call(watched, *options, f"--screenshot={scratch / 'watched.png'}").stderr
    (told,) = re.findall(r"painted after (\d+)", log)
    return int(told) / 1000


def picture_of(page: Path, to: Path, width: int, height: int, *, dark: bool = False) -> None:
    """A picture of the page in a window of this size, as PNG."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _call(page, f"--window-size={width},{height}", scheme, f"--screenshot={to}")


def printed(page: Path, to: Path) -> None:
    """The page as it is printed, as PDF."""
    _call(page, "--no-pdf-header-footer", f"--print-to-pdf={to}")
