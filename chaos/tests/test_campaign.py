"""The campaign itself: what it prints, and that no fault gets past it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from chaos import campaign
from chaos.campaign import BEGIN, END, SCENARIOS, Scenario
from chaos.result import Result, Tell

GOOD = Result("good | one", {"kills": 2_000}, {"lost": 0, "doubled": 0}, "1..40", 61.2)
BAD = Result("bad", {"kills": 3}, {"lost": 2}, "7", 1.0, ("seed 7: two\nfiles\nare gone",))
IDLE = Result("idle", {"kills": 0}, {"lost": 0}, "7", 1.0)


def scenario(name: str, *results: Result) -> Scenario:
    def run(_seed: int, _size: int, work: Path, _tell: Tell) -> list[Result]:
        (work / "left").touch()
        return list(results)

    return Scenario(name, 10, 1, run)


def heard(_words: str) -> None:
    """Nobody listens."""


def test_the_table_names_each_scenario_with_its_figures() -> None:
    """One line a scenario; a name cannot break the table."""
    lines = campaign.table([GOOD]).splitlines()
    assert lines[2:] == ["| good \\| one | 2,000 kills | 0 lost, 0 doubled | 1..40 | 61 |"]


def test_faults_are_told_in_words() -> None:
    """A failure's note is one line below the table, with its seed."""
    assert campaign.table([GOOD, BAD]).endswith("- bad: seed 7: two files are gone")


@pytest.mark.parametrize(("result", "code"), [(GOOD, 0), (BAD, 1), (IDLE, 1)])
def test_the_exit_code_tells(
    result: Result, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fault is exit code 1, and so is a scenario that tried nothing."""
    monkeypatch.setattr(campaign, "SCENARIOS", (scenario("one", result),))
    assert campaign.main(["--work", str(tmp_path)]) == code


def test_a_scenario_that_breaks_off_is_a_fault(tmp_path: Path) -> None:
    """An error in a scenario is told with its seed, and the next one still runs."""

    def broken(_seed: int, _size: int, _work: Path, _tell: Tell) -> Result:
        raise ValueError("no such file")

    scenarios = [Scenario("broken", 1, 1, broken), scenario("good", GOOD)]
    first, second = campaign.campaign(scenarios, 7, tmp_path, heard)
    assert first.faults == {"broken off": 1}
    assert "seed 7" in first.notes[0]
    assert "no such file" in first.notes[0]
    assert second == GOOD


def test_what_a_failed_scenario_left_is_kept(tmp_path: Path) -> None:
    """The folder of a fault can be looked at; others go."""
    campaign.campaign([scenario("good", GOOD), scenario("bad", BAD)], 7, tmp_path, heard)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_the_page_gets_the_last_runs_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What stands between the marks is replaced, all else stays."""
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(campaign, "SCENARIOS", (scenario("good", GOOD), scenario("bad", BAD)))
    for _ in range(2):
        assert campaign.main(["--small", "--only", "good", "--out", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert text.count("2,000 kills") == 1
    assert "old" not in text
    assert "bad" not in text


def test_the_projects_own_page_has_the_marks(tmp_path: Path) -> None:
    """docs/reliability.md can take the table."""
    page = Path(campaign.__file__).parents[1] / "docs" / "reliability.md"
    copy = tmp_path / page.name
    copy.write_text(page.read_text())
    campaign.write_between(copy, "the table")
    assert f"{BEGIN}\nthe table\n{END}" in copy.read_text()


def test_every_scenario_has_its_module_and_its_page() -> None:
    """What the campaign runs is there, and the page says what it does."""
    page = (Path(campaign.__file__).parents[1] / "docs" / "reliability.md").read_text()
    for known in SCENARIOS:
        assert find_spec(f"chaos.{known.name}"), known.name
        assert f"`{known.name}`" in page
