"""The log of a run: a line an event, as text or as JSON, on a stream or in a file that rotates."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, TextIO

from retailmart.monitoring.events import (
    BatchBegan,
    Event,
    NotTold,
    RunBegan,
    RunEnded,
    StepBegan,
    StepEnded,
    StepMessage,
)
from retailmart.report import RunReport

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@dataclass(frozen=True)
class Entry:
    """A line of the log."""

    at: datetime
    level: str
    event: str
    message: str
    run: int | None = None
    batch: int | None = None
    step: str | None = None
    fields: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """One JSON object in one line, in ASCII: no reader needs to know an encoding."""
        return json.dumps(
            {
                "time": self.at.isoformat(timespec="milliseconds"),
                "level": self.level,
                "run": self.run,
                "batch": self.batch,
                "step": self.step,
                "event": self.event,
                "message": self.message,
                "fields": dict(self.fields or {}),
            },
            default=str,
        )

    def to_text(self) -> str:
        """A line for people. What could pass for the end of a line is shown escaped."""
        where = [f"run {self.run}"] if self.run is not None else []
        where += [f"batch {self.batch}"] if self.batch is not None else []
        where += [self.step] if self.step else []
        place = f"{', '.join(where)}: " if where else ""
        text = "; ".join(part.strip() for part in self.message.split("\n")).replace(":; ", ": ")
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        return f"{self.at:%Y-%m-%dT%H:%M:%SZ} {self.level.upper():<7} {place}{shown}"


def message_entry(message: str, level: str) -> Entry:
    """A message that belongs to no run."""
    return Entry(datetime.now(UTC), level, "message", message)


class Log:
    """Writes what happens in a run to one handler."""

    name = "the log"

    def __init__(self, handler: logging.Handler, *, as_json: bool, level: str = "info") -> None:
        # Not one of logging's own tree: what others set up there does not change it.
        self._logger = logging.Logger("retailmart", LEVELS[level])
        self._logger.addHandler(handler)
        self._handler = handler
        self._as_json = as_json
        self._run: int | None = None
        self._batch: int | None = None

    def see(self, event: Event) -> None:
        """Write a line for an event."""
        if isinstance(event, RunBegan):
            self._run = event.run_id
        if isinstance(event, BatchBegan):
            self._batch = event.batch_id
        if isinstance(event, RunEnded):
            self._batch = None
        self.write(entry_of(event, self._run, self._batch))

    def write(self, entry: Entry) -> None:
        """Write a line."""
        level = LEVELS[entry.level]
        if self._logger.isEnabledFor(level):
            text = entry.to_json() if self._as_json else entry.to_text()
            record = self._logger.makeRecord("retailmart", level, "", 0, "%s", (text,), None)
            self._logger.handle(record)

    def close(self) -> None:
        """Close the file; a stream stays open, for the next run."""
        self._run = None
        self._handler.close()


class _Strict:
    """A handler that raises: its observer says so, where logging would print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        raise  # noqa: PLE0704, logging calls it while it handles an error


class _File(_Strict, RotatingFileHandler):
    pass


class _Stream(_Strict, logging.StreamHandler):  # type: ignore[type-arg]
    def close(self) -> None:
        self.flush()


def log_to_file(path: Path, *, as_json: bool, level: str, max_bytes: int, keep: int) -> Log:
    """A log in a file; it is opened when the first line is written."""
    handler = _File(
        path, maxBytes=max_bytes if keep else 0, backupCount=keep, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    return FileLog(handler, as_json=as_json, level=level)


def expect_no_pipe(path: Path) -> None:
    """Raise OSError for a named pipe: to open one waits for somebody who reads it."""
    if path.is_fifo():
        raise OSError(errno.EINVAL, "it is a named pipe, and perhaps nobody reads it", str(path))


class FileLog(Log):
    """A log in a file whose folder is created if it is not there."""

    name = "the log file"

    def write(self, entry: Entry) -> None:
        """Write a line."""
        if isinstance(self._handler, RotatingFileHandler) and self._handler.stream is None:
            path = Path(self._handler.baseFilename)
            path.parent.mkdir(parents=True, exist_ok=True)
            expect_no_pipe(path)
        super().write(entry)


def log_to_stream(stream: TextIO, *, as_json: bool, level: str = "info") -> Log:
    """A log on a stream, which stays open."""
    handler = _Stream(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return Log(handler, as_json=as_json, level=level)


def entry_of(event: Event, run: int | None, batch: int | None) -> Entry:
    """An event as a line of the log."""
    level: Level = "info"
    step: str | None = None
    fields: dict[str, Any] = {}
    match event:
        case RunBegan():
            name, message = (
                "run_began",
                f"{event.command} began, as of {event.as_of:%Y-%m-%d %H:%M} UTC",
            )
            fields = {"command": event.command, "as_of": event.as_of.isoformat()}
            if event.cut_off:
                level, fields = "warning", fields | {"cut_off": list(event.cut_off)}
                message += f"; cut off before it: run {', '.join(map(str, event.cut_off))}"
        case BatchBegan():
            name, message = "batch_began", "recovered" if event.recovered else "began"
            fields = {"recovered": event.recovered}
        case StepBegan():
            name, message, step, level = "step_began", "began", event.step, "debug"
        case StepMessage():
            name, message, step = "step_message", event.message, event.step
            level = "warning" if event.step in ("settings", "retry") else "info"
        case StepEnded():
            name, message, step = "step_ended", f"{event.seconds:.2f} s", event.step
            fields = {"seconds": round(event.seconds, 3)}
        case NotTold():
            name, message, level = "not_told", event.message, "warning"
            fields = {"target": event.target, "reason": event.reason}
        case RunEnded():
            name, (level, message, fields) = "run_ended", _end(event)
            step = event.failure.step if event.failure else None
            run = event.run_id
    return Entry(event.at, level, name, message, run, batch, step, fields)


def _end(event: RunEnded) -> tuple[Level, str, dict[str, Any]]:
    fields: dict[str, Any] = {
        "command": event.command,
        "state": event.state,
        "exit_code": event.exit_code,
        "seconds": round(event.seconds, 3),
        "steps": {name: round(took, 3) for name, took in event.steps.items()},
    }
    if (failure := event.failure) is not None:
        fields["error"] = asdict(failure)
        hint = f"\n{failure.hint}" if failure.hint else ""
        message = f"{event.command} {event.state}: {failure.message}{hint}"
        return "error" if event.state == "failed" else "warning", message, fields
    assert event.report is not None  # noqa: S101, one of both is given
    fields |= figures(event.report)
    if event.report.problems:
        listed = "\n".join(event.report.problems)
        return "warning", f"{event.command} done, but:\n{listed}", fields
    return "info", f"{event.command} done in {event.seconds:.2f} s: {_said(event.report)}", fields


def figures(report: RunReport) -> dict[str, Any]:
    """The figures of a run for a log: numbers, and what a person should look at."""
    plain = {
        "nothing_to_do": report.nothing_to_do,
        "files": report.files_by_state,
        "rows": report.rows_by_fate,
        "held": [one.mart for one in report.held],
        "unreadable": list(report.unreadable),
        "refused": [line.path for line in report.files if line.state == "refused"],
        "batches": [one.batch_id for one in report.batches],
        "problems": list(report.problems),
    }
    undone = [one.undoes for one in report.batches if one.undoes is not None]
    return plain | ({"undone": undone} if undone else {})


def _said(report: RunReport) -> str:
    if report.nothing_to_do:
        return "nothing to do"
    counts = {**{f"files {k}": n for k, n in report.files_by_state.items() if n}}
    counts |= {f"rows {k}": n for k, n in report.rows_by_fate.items() if n}
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "marts are built"
