"""What the documentation shows: its code blocks, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks that call retailmart, without their comments."""
    lines = (line for block in blocks(page, "sh") for line in block.splitlines())
    return [line.partition("  #")[0].strip() for line in lines if "retailmart " in line]
