"""Draws what simulated years cost and leave behind: `make reference`. A test compares the picture.

The figures are measured by tests/test_years.py; the picture is drawn from them, and from nothing
else.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "decisions"
FIGURES = FOLDER / "two-years.csv"
PICTURE = FOLDER / "two-years.svg"
# Grey and one blue, readable on the white and the dark page.
_LINE, _TEXT, _GRID = "#2f7ed8", "#7a7a7a", "#7a7a7a44"
_WEEKS = 28


def picture() -> str:
    """The picture as SVG: three curves over the days."""
    import vl_convert

    with FIGURES.open(encoding="utf-8", newline="") as file:
        days = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    return vl_convert.vegalite_to_svg(_spec(days), vl_version="5.20")


def _spec(days: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    seconds = [
        (days[n]["day"], fmean(day["seconds"] for day in days[max(0, n - _WEEKS + 1) : n + 1]))
        for n in range(_WEEKS - 1, len(days), 7)
    ]
    weekly = days[::7]
    panels = [
        ("Processor time of a day, seconds (mean of four weeks)", seconds),
        ("Files below the project", [(day["day"], day["files"]) for day in weekly]),
        ("Bytes for each byte of live data", [(d["day"], d["bytes"] / d["live"]) for d in weekly]),
    ]
    return {
        "background": None,
        "config": {
            "view": {"stroke": None},
            "axis": {
                "labelColor": _TEXT,
                "titleColor": _TEXT,
                "gridColor": _GRID,
                "domainColor": _GRID,
                "tickColor": _GRID,
            },
            "title": {"color": _TEXT, "fontWeight": "normal", "fontSize": 12, "anchor": "start"},
        },
        "hconcat": [_panel(title, points) for title, points in panels],
    }


def _panel(title: str, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ticks = {"tickCount": 5}
    return {
        "title": title,
        "width": 230,
        "height": 160,
        "data": {"values": [{"day": day, "value": round(value, 4)} for day, value in points]},
        "mark": {"type": "line", "color": _LINE, "strokeWidth": 2},
        "encoding": {
            "x": {"field": "day", "type": "quantitative", "title": "day", "axis": ticks},
            "y": {"field": "value", "type": "quantitative", "title": None, "axis": ticks},
        },
    }
