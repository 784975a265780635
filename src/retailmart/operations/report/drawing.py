"""Charts as SVG by Vega-Lite, when the file is written: no script is left in the page."""

from __future__ import annotations

import re
from typing import Any

from retailmart.errors import MissingExtra
from retailmart.operations.report.figures import NONE, OTHERS, Figure, Point
from retailmart.project.chart import ChartKind

# Stand-ins that no other part of a drawing has; the page's style says what they are in light and
# dark.
_INK, _GRID = "#010203", "#040506"
_COLOURS = tuple(f"#0a0b{number:02x}" for number in range(1, 9))
_WIDTH, _ROW, _HEIGHT = 440, 22, 220
# A label is cut in a drawing; the table beside it has all of it.
_LABEL = 24


def expect_library() -> None:
    """Raise MissingExtra if what draws and fills the page is not installed."""
    try:
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        message = "the report needs vl-convert-python and jinja2, which are not installed"
        raise MissingExtra("report", message) from error


def draw(figure: Figure) -> str | None:
    """A figure's chart as SVG without addresses, or None for one that has nothing to draw."""
    if not figure.points:
        return None
    import vl_convert

    svg = str(vl_convert.vegalite_to_svg(_spec(figure), vl_version="5.20"))
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height|class)="[^"]*"', _kept, svg)
    for number, colour in enumerate(_COLOURS, 1):
        svg = svg.replace(f'"{colour}"', f'"var(--c{number})"')
    svg = svg.replace(f'"{_INK}"', '"currentColor"').replace(f'"{_GRID}"', '"var(--line)"')
    # Nothing is drawn beyond its view, and ids would be those of other drawings of the page, too.
    svg = re.sub(r'<defs>.*?</defs>| clip-path="[^"]*"', "", svg, flags=re.DOTALL)
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", svg)


def _kept(found: re.Match[str]) -> str:
    """Sizes of what is inside a drawing stay; classes and name spaces are of no use in a page."""
    text = found[0]
    return text if text.lstrip().startswith(("width", "height")) else ""


def _label(text: str | None) -> str:
    text = " ".join((text or NONE).split())
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"


def _labels(texts: list[str]) -> dict[str, str]:
    """A short label for each text; those that look the same when cut get a number."""
    labels: dict[str, str] = {}
    taken: dict[str, int] = {}
    for text in dict.fromkeys(texts):
        label = _label(text)
        taken[label] = taken.get(label, 0) + 1
        labels[text] = label if taken[label] == 1 else f"{label} ({taken[label]})"
    return labels


def _drawn(figure: Figure) -> tuple[Point, ...]:
    """The points of a drawing: beside all others, the bars of the largest would not be seen."""
    if figure.kind is not ChartKind.BAR:
        return figure.points
    return tuple(point for point in figure.points if point.x != OTHERS) or figure.points


def _spec(figure: Figure) -> dict[str, Any]:
    points = _drawn(figure)
    xs = _labels([point.x for point in points])
    bys = _labels([point.by for point in points if point.by is not None])
    values = [
        {"x": xs[p.x], "b": bys.get(p.by) if p.by is not None else None, "y": float(p.value)}
        for p in points
    ]
    spec = {
        "data": {"values": values},
        "width": _WIDTH,
        "padding": 4,
        "background": None,
        "config": _CONFIG,
    }
    shape = {
        ChartKind.BAR: _bars,
        ChartKind.LINE: _lines,
        ChartKind.HEAT: _heat,
    }[figure.kind]
    return spec | shape(figure, list(xs.values()), list(bys.values()))


def _amount(title: str) -> dict[str, Any]:
    axis = {"title": title, "format": "~s", "tickCount": 5}
    return {"field": "y", "type": "quantitative", "axis": axis}


def _colour(bys: list[str]) -> dict[str, Any]:
    if not bys:
        return {"value": _COLOURS[0]}
    return {
        "field": "b",
        "type": "nominal",
        "sort": bys,
        "title": None,
        "scale": {"domain": bys, "range": list(_COLOURS)},
        "legend": {"orient": "bottom", "columns": 4, "labelLimit": 100},
    }


def _bars(figure: Figure, xs: list[str], bys: list[str]) -> dict[str, Any]:
    encoding = {
        "y": {"field": "x", "type": "nominal", "sort": xs, "axis": {"title": None, "grid": False}},
        "x": _amount(figure.axes[1]),
        "color": _colour(bys),
    }
    return {
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "height": max(3, len(xs)) * _ROW,
        "encoding": encoding,
    }


def _lines(figure: Figure, xs: list[str], bys: list[str]) -> dict[str, Any]:
    every = max(1, len(xs) // 6)
    at = {
        "field": "x",
        "type": "nominal",
        "sort": xs,
        "axis": {"title": None, "values": xs[::every], "labelAngle": 0, "grid": False},
    }
    encoding = {"x": at, "y": _amount(figure.axes[1]), "color": _colour(bys)}
    return {
        "mark": {"type": "line", "point": {"size": 28}, "strokeWidth": 2},
        "height": _HEIGHT,
        "encoding": encoding,
    }


def _heat(figure: Figure, xs: list[str], bys: list[str]) -> dict[str, Any]:
    across = sorted(xs, key=_as_number)
    down = sorted(bys, key=_as_number)
    axis = {"grid": False, "labelAngle": 0, "labelOverlap": True}
    most = max(abs(float(point.value)) for point in figure.points) or 1
    encoding = {
        "x": {
            "field": "x",
            "type": "ordinal",
            "sort": across,
            "axis": axis | {"title": figure.axes[0]},
        },
        "y": {
            "field": "b",
            "type": "ordinal",
            "sort": down,
            "axis": axis | {"title": figure.axes[1]},
        },
        # One colour, more or less of it: right on a light and on a dark ground.
        "opacity": {
            "field": "y",
            "type": "quantitative",
            "title": figure.columns[-1],
            "scale": {"domain": [0, most], "range": [0.06, 1]},
            "legend": {"orient": "bottom", "format": "~s", "tickCount": 4},
        },
        "color": {"value": _COLOURS[0]},
    }
    return {"mark": "rect", "height": max(3, len(bys)) * _ROW, "encoding": encoding}


def _as_number(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


_CONFIG: dict[str, Any] = {
    "aria": False,  # the page gives each chart one name and a table
    "view": {"stroke": None},
    "font": "sans-serif",
    "axis": {
        "labelColor": _INK,
        "titleColor": _INK,
        "titleFontWeight": "normal",
        "domainColor": _GRID,
        "tickColor": _GRID,
        "gridColor": _GRID,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 170,
    },
    "legend": {
        "labelColor": _INK,
        "titleColor": _INK,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "symbolStrokeWidth": 2,
        # The legend of a heat map shows amounts of this colour.
        "symbolFillColor": _COLOURS[0],
    },
}
