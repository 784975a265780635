"""What commands that run share: the log on stderr, and telling of a run that can't begin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retailmart.cli.common import LogFormat, talk
from retailmart.errors import RetailmartError
from retailmart.report import Silent

if TYPE_CHECKING:
    from retailmart.api import OpenProject
    from retailmart.monitoring.events import Observer
    from retailmart.report import Progress


@dataclass(frozen=True)
class Runnable:
    """A project opened to run a command: the progress and the observers to hand to it."""

    opened: OpenProject
    progress: Progress
    observers: tuple[Observer, ...] = ()


@contextmanager
def opened_to_run(
    project: Path, settings: list[str] | None, command: str, log: LogFormat | None, quiet: bool
) -> Iterator[Runnable]:
    """Open a project for a command that runs; if that fails, its targets are notified."""
    from retailmart import api, console
    from retailmart.project.settings import read_pairs

    talk.as_json = log is LogFormat.JSON
    overrides = read_pairs(with_log(settings, log))
    try:
        opened = api.open_project(project, overrides)
    except RetailmartError as error:
        known = api.log_settings(project, overrides)
        talk.as_json = known.format == "json"
        stderr = [api.json_log(sys.stderr, known.level)] if talk.as_json else []
        talk.is_told = talk.as_json
        api.tell_unopened(project, overrides, command, error, stderr)
        raise
    if observers := log_on_stderr(opened, quiet):
        talk.is_told = True  # the log has what is said of errors, and of what a run did
        yield Runnable(opened, Silent(), observers)
        return
    with console.progress(quiet) as progress:
        yield Runnable(opened, progress)


def with_log(settings: list[str] | None, log: LogFormat | None) -> list[str]:
    """The `--set` flags, and what `--log-format` says."""
    return [*(settings or []), *([f"log.format={log}"] if log else [])]


def log_on_stderr(opened: OpenProject, quiet: bool) -> tuple[Observer, ...]:
    """The log on stderr, if the settings want it as JSON; then all talk is JSON, too."""
    from retailmart import api

    said = opened.project.settings.log
    talk.as_json = said.format == "json"
    level = "warning" if quiet and said.level in ("debug", "info") else said.level
    return (api.json_log(sys.stderr, level),) if talk.as_json else ()
