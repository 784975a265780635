"""The page on backup: what is restored elsewhere is right, and goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.pages import blocks
from tests.support.shop import AS_OF, Called, Shop, all_marts, sale

_PAGE = "docs/backup.md"


@all_marts
def test_the_page_followed_word_for_word(shop: Shop, called: Called, tmp_path: Path) -> None:
    """Copied with its links, restored elsewhere, checked; each file counts once."""
    shop.sales("sales_a.csv", [sale(), sale(2)])
    shop.run()
    save, restore = (block.splitlines() for block in blocks(_PAGE, "sh"))
    follow(called, save, shop.folder)
    shop.sales("sales_b.csv", [sale(3)])
    shop.run()  # what comes later is not in the backup
    restored = tmp_path / "restored"
    follow(called, restore, shop.folder, restored)
    again = Shop(restored)
    assert len(again.mart("sales_mart")) == 2
    latest = restored / "lake" / "business_insights" / "latest" / "sales_mart"
    assert latest.is_symlink()
    assert latest.resolve().is_relative_to(restored)
    files = (restored / "lake" / "business_insights").rglob("part-*.parquet")
    assert any(path.stat().st_nlink > 1 for path in files)
    again.sales("sales_a.csv", [sale(), sale(2)])
    again.sales("sales_b.csv", [sale(3)])
    report = again.run(AS_OF)
    assert (report.count("duplicate"), report.count("loaded")) == (1, 1)
    assert len(again.mart("sales_mart")) == 3


def follow(called: Called, lines: list[str], folder: Path, then: Path | None = None) -> None:
    """Run the lines of a block; those of retailmart in `then`, if it is there."""
    for line in lines:
        words = line.split()
        if words[0] == "rsync" and shutil.which("rsync") is None:
            words = ["cp", "-a", "./", "../backup/"]
        if words[0] == "retailmart":
            done = called(then or folder, *words[1:])
            assert done.returncode == 0, f"{line}: {done.stderr}"
        else:
            subprocess.run(words, cwd=folder, check=True, env=os.environ)


def test_the_page_names_both_kinds_of_links() -> None:
    """A copy without them holds exports many times over."""
    text = " ".join(blocks(_PAGE, "sh"))
    assert "rsync -aH" in text
