"""Injection: a small cut of the campaign, and proof that it sees what gets through."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.amount import ALL, SEED, tries

from chaos import names
from chaos.files import Findings
from chaos.names import HOSTILE


def test_there_are_enough_tries() -> None:
    """Each hostile text is another, and each place tries most of them."""
    assert len(set(HOSTILE)) == len(HOSTILE)
    assert len(HOSTILE) * len(names.PLACES) > 400


@pytest.mark.long
def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every place hostile texts work as the texts they are, or are refused in words."""
    monkeypatch.chdir(tmp_path)
    hostile = HOSTILE if ALL else names.one_of_each_kind(SEED)
    result = names.run_names(tmp_path / "names", hostile, print)
    assert not any(result.faults.values()), "\n".join(result.notes)
    assert sum(result.tries.values()) >= 100
    assert all(result.tries.values())


def test_users_sql_reaches_nothing_outside(tmp_path: Path) -> None:
    """Marts, rules and queries read nothing and write nothing but what is theirs."""
    every = tries(5, 1)
    result = names.run_sql(tmp_path / "sql", print, every=every, first=SEED % every)
    assert not any(result.faults.values()), "\n".join(result.notes)
    assert sum(result.tries.values()) >= 220 // every


def test_sql_that_reads_and_writes_is_found(tmp_path: Path) -> None:
    """Where the fence lets SQL go, all kinds of it are found at work."""
    inside = "shop/.retailmart/outside"
    result = names.run_sql(tmp_path / "sql", print, every=3, outside=inside)
    assert result.faults["read outside"] > 3
    assert result.faults["written outside"] >= 1


@pytest.mark.parametrize(
    "said", ["a \x1b[31mPWNED", "title \x1b]0;x\x07", "\x9b31m", "back\x08", "x\n  FORGED line"]
)
def test_what_steers_a_terminal_is_found(said: str) -> None:
    """Control characters of others, and lines that a name servers, are faults."""
    found = Findings()
    names._judge_talk(said, "a command", found)
    assert found.faults["told to the terminal"]


def test_colours_of_our_own_are_none() -> None:
    """What Rich sends to draw its bars is no fault."""
    found = Findings()
    names._judge_talk(
        "\x1b[?25l\x1b[38;5;237m━\x1b[0m\x1b[2K\x1b[1A\n\\x1b[31m shown", "run", found
    )
    assert not found.faults
