"""The picture of measured years shows the figures beside it."""

from __future__ import annotations

from website.curves import FIGURES, PICTURE, picture


def test_the_picture_is_up_to_date() -> None:
    """Who measures again draws again."""
    assert PICTURE.read_text(encoding="utf-8") == picture(), f"{FIGURES}: make reference"
