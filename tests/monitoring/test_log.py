"""The log: a line an event, whatever is in it, in a file that rotates."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retailmart.monitoring.events import (
    BatchBegan,
    Failure,
    NotTold,
    Observers,
    RunBegan,
    RunEnded,
    StepBegan,
    StepEnded,
    StepMessage,
)
from retailmart.monitoring.log import log_to_file, log_to_stream, message_entry

AT = datetime(2024, 4, 1, 6, 30, 0, 123456, tzinfo=UTC)


def failed(message: str) -> RunEnded:
    """The end of a run that failed."""
    failure = Failure("GateFailed", message, "Correct it", "load", 3)
    return RunEnded("run", 3, "failed", 3, AT, {"load": 1.23456}, failure, None, AT)


def test_json_has_run_batch_and_step() -> None:
    """Each line says to which run, batch and step it belongs, as far as it does."""
    stream = io.StringIO()
    log = log_to_stream(stream, as_json=True)
    log.see(StepEnded("lease", 0.1, AT))
    log.see(RunBegan("run", 3, AT, (2,), AT))
    log.see(BatchBegan(9, True, AT))
    log.see(StepBegan("load", AT))  # of level debug: not written
    log.see(StepMessage("load", "sales\nnothing \x1b[31m é", AT))
    log.see(failed("no\nand why"))
    log.see(NotTold("the ping", "no answer", AT))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(x["run"], x["batch"], x["step"], x["event"], x["level"]) for x in lines] == [
        (None, None, "lease", "step_ended", "info"),
        (3, None, None, "run_began", "warning"),
        (3, 9, None, "batch_began", "info"),
        (3, 9, "load", "step_message", "info"),
        (3, None, "load", "run_ended", "error"),
        (3, None, None, "not_told", "warning"),
    ]
    assert stream.getvalue().isascii()
    assert lines[0]["time"] == "2024-04-01T06:30:00.123+00:00"
    assert lines[1]["fields"]["cut_off"] == [2]
    assert lines[4]["fields"]["error"] == {
        "kind": "GateFailed",
        "message": "no\nand why",
        "hint": "Correct it",
        "step": "load",
        "exit_code": 3,
    }


def test_text_keeps_to_its_line() -> None:
    """A file's name with a line end can't forge a line of the log."""
    stream = io.StringIO()
    log = log_to_stream(stream, as_json=False, level="warning")
    log.see(RunBegan("run", 3, AT, (), AT))
    log.see(failed("a\x1b[2Jb\u2028c"))
    assert stream.getvalue() == (
        "2024-04-01T06:30:00Z ERROR   run 3, load: run failed: a\\x1b[2Jb\\u2028c; Correct it\n"
    )


def test_a_file_rotates(tmp_path: Path) -> None:
    """The file is begun again at its size, and as many as are wanted are kept."""
    path = tmp_path / "new" / "run.log"
    log = log_to_file(path, as_json=True, level="info", max_bytes=2_000, keep=2)
    for _ in range(100):
        log.see(StepMessage("load", "x" * 100, AT))
    log.close()
    names = sorted(one.name for one in path.parent.iterdir())
    assert names == ["run.log", "run.log.1", "run.log.2"]
    assert all(one.stat().st_size <= 2_000 for one in path.parent.iterdir())
    for line in path.read_text().splitlines():
        json.loads(line)


def test_a_log_that_fails_is_told_to_the_others(tmp_path: Path) -> None:
    """No observer's error reaches the run; the others are told once."""
    (tmp_path / "file").write_text("")
    broken = log_to_file(tmp_path / "file" / "x", as_json=True, level="info", max_bytes=1, keep=0)
    stream = io.StringIO()
    both = Observers([broken, log_to_stream(stream, as_json=False)])
    for _ in range(3):
        both.see(StepMessage("load", "hello", AT))
    both.close()
    assert [one.target for one in both.problems] == ["the log file"]
    assert stream.getvalue().count("could not tell the log file of this run: ") == 1


def test_a_named_pipe_is_no_file(tmp_path: Path) -> None:
    """To open one waits for who reads it, perhaps for ever: what would be written says so."""
    os.mkfifo(tmp_path / "log")
    log = log_to_file(tmp_path / "log", as_json=False, level="info", max_bytes=100, keep=1)
    with pytest.raises(OSError, match="named pipe"):
        log.write(message_entry("a message", "info"))
