"""Checks whether all who are to be told of runs can be: files, packages and addresses.

Nobody is told anything: of an address, only its server is asked for a connection.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from retailmart.check_results import CheckResult, ok, problem, warning
from retailmart.errors import SettingsError
from retailmart.project import Monitoring, Project
from retailmart.project.monitoring import shown_target

_PORTS = {"http": 80, "https": 443}
_SECONDS = 5.0
_INSTALL = "Install its extra in the checkout of retailmart: pip install '.[{}]'"


def examine_monitoring(project: Project) -> Iterator[CheckResult]:
    """Check what the settings say of log, metrics, lineage, alerts and ping."""
    known = project.monitoring()
    settings = known.settings
    for name, file in (
        ("log", settings.log.file),
        ("metrics", settings.metrics.file),
        ("lineage", settings.lineage.file),
    ):
        if file is not None:
            yield _writable(f"{name}: file", known.folder / file)
    lineage = settings.lineage
    if (lineage.file or lineage.url) and not _has("openlineage"):
        yield problem("lineage: package", "is not installed", _INSTALL.format("lineage"))
    if lineage.url is not None:
        yield _reachable(known, "lineage: server", lineage.url)
    if settings.ping.url is not None:
        yield _reachable(known, "ping: server", settings.ping.url)
    for target in settings.alerts.targets:
        yield from _target(known, target)
    for feed in settings.alerts.expected.keys() - project.feeds.keys():
        fix = "Write the name of a file in feeds/ without its ending"
        yield problem("alerts: expected", f"there is no feed {feed!r}", fix)
    if settings.alerts.expected and not settings.alerts.targets:
        fix = "Write targets under `alerts`, or remove `expected`"
        yield warning("alerts: targets", "files are expected, and nobody is told", fix)


def _target(known: Monitoring, target: str) -> Iterator[CheckResult]:
    check = "alerts: target"
    try:
        url = known.url(target)
    except SettingsError:
        return  # the project's area says what it lacks
    if url.lower().startswith(("http://", "https://")):
        yield _reachable(known, check, target)
    elif not _has("apprise"):
        found = f"{shown_target(target)} needs a package that is not installed"
        yield problem(check, found, _INSTALL.format("alerts"))
    else:
        found = f"{shown_target(target)} was not asked; try it: retailmart alerts test"
        yield ok(check, found)


def _reachable(known: Monitoring, check: str, target: str) -> CheckResult:
    """Whether the server of an address takes a connection."""
    shown = shown_target(target)
    try:
        parts = urlsplit(known.url(target))
        place = (parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))
        socket.create_connection(place, _SECONDS).close()
    except SettingsError:
        return problem(check, f"{shown} refers to what is not set", "See: retailmart check")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        fix = "Correct the address, or see what stands between: firewall, proxy"
        return warning(check, f"{shown} does not answer: {reason or type(error).__name__}", fix)
    return ok(check, f"{shown} takes connections")


def _writable(check: str, path: Path) -> CheckResult:
    """Whether a run could write a file; nothing is created."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        fix = "Name a file in a folder that this account can write to"
        return problem(check, f"{path} can't be written", fix)
    if path.exists() and not os.access(path, os.W_OK):
        fix = "Let this account write to it, or name another file"
        return problem(check, f"{path} can't be written", fix)
    return ok(check, f"{path} can be written")


def _has(package: str) -> bool:
    return find_spec(package) is not None
