"""Links work where GitHub shows a page, and on the site."""

from __future__ import annotations

from pathlib import Path

import pytest
from website.pages import LINK, ROOT_PAGES, relinked

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / name for name in ROOT_PAGES] + [*(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_name_files_of_the_repository(page: Path) -> None:
    """What a page links to is there for those who read it on GitHub."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "docs/marts.md", "marts.md"),
        ("index.md", "ARCHITECTURE.md", "architecture.md"),
        ("architecture.md", "docs/decisions/README.md", "decisions/README.md"),
        ("decisions/undo.md", "../../ARCHITECTURE.md", "../architecture.md"),
        ("decisions/undo.md", "../speed.md", "../speed.md"),
        ("speed.md", "../bench/results.md", "results.md"),
        ("reference/cli.md", "../running.md", "../running.md"),
    ],
)
def test_links_are_those_of_the_site(page: str, link: str, expected: str) -> None:
    """A link that leaves docs/ leads to the page's place on the site; its anchor stays."""
    assert relinked(f"[a]({link}#b), [c]({link})", page) == f"[a]({expected}#b), [c]({expected})"


@pytest.mark.parametrize("link", ["https://example.org/docs/marts.md", "#here"])
def test_other_links_stay(link: str) -> None:
    """Addresses and places on the same page are not touched."""
    assert relinked(f"[a]({link})", "index.md") == f"[a]({link})"
