"""The figures of the report: what marts hold, totalled exactly and cut to what a page can show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from retailmart.errors import RetailmartError
from retailmart.lake.layout import mart_table
from retailmart.operations.ask import asking_engine
from retailmart.project import Mart, Project
from retailmart.project.chart import Chart, ChartKind, Total
from retailmart.tables import quoted, text_literal

if TYPE_CHECKING:
    from retailmart.engines.duckdb.asking import AskingEngine

OTHERS, NONE = "others", "(none)"
# More months than this are shown by year; more values of `per` than this are not shown.
_MONTHS, _PER = 36, 6
# The most colours that people tell apart, and cells of a heat map's side.
_COLOURS, _SIDE = 7, 60
# No cell is longer, so that no value of a mart makes the page large.
_LONGEST = 500
_ROWS_OF_A_MART = 10
_IS_MONTH = re.compile(r"\d{4}-\d{2}")
_NUMBERS = ("DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "BIGINT", "INTEGER", "SMALLINT", "TINYINT")


@dataclass(frozen=True)
class Point:
    """One figure: its category, its colour or row (None without `by`), and the exact value."""

    x: str
    by: str | None
    value: Any


@dataclass(frozen=True)
class Figure:
    """A chart's points, and its table: `rows` of texts below `columns`.

    `numeric` says which columns hold numbers. `error` says why it has no figures.
    """

    title: str
    mart: str
    kind: ChartKind
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    points: tuple[Point, ...] = ()
    axes: tuple[str, str] = ("", "")
    note: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Page:
    """The figures below one heading."""

    title: str
    figures: tuple[Figure, ...]


def pages_of(project: Project) -> tuple[Page, ...]:
    """A page for each heading that marts' charts name, in the order of their `place`.

    All figures are of one moment. Raises MartNotBuilt before the first run, ProjectBusy while a run
    commits for long.
    """
    pages: dict[str, list[Figure]] = {}
    # A condition may use a function of the user's, so its text must be among what is asked.
    conditions = (one.where or "" for mart in project.marts.values() for one in mart.charts or ())
    names = " ".join([*project.marts, *conditions])
    engine, pinned = asking_engine(project, names)
    try:
        for mart in project.marts.values():
            if mart_table(mart.name) not in pinned.tables:
                continue
            for page, figure in _of_mart(engine, mart):
                pages.setdefault(page, []).append(figure)
    finally:
        engine.close()
    places: dict[str, int] = {}
    for mart in project.marts.values():
        for chart in mart.charts or ():
            title = chart.page or in_words(mart.name)
            places[title] = min(chart.place, places.get(title, chart.place))
    titles = sorted(pages, key=lambda title: places.get(title, 100))
    return tuple(Page(title, tuple(pages[title])) for title in titles)


def _of_mart(engine: AskingEngine, mart: Mart) -> Iterator[tuple[str, Figure]]:
    """A mart's figures with their headings; a chart that fails says why, the others go on."""
    columns = _columns(engine, mart)
    charts = _chosen(columns, mart) if mart.charts is None else mart.charts
    for chart in charts:
        page = chart.page or in_words(mart.name)
        title = chart.title or _title(chart)
        try:
            for figure in _figures(engine, mart, chart, title, columns):
                yield page, figure
        except RetailmartError as error:
            why = f"{mart.name}: this chart can't be shown: {error.message}"
            yield page, Figure(title, mart.name, chart.kind, (), (), (), error=why)


def _columns(engine: AskingEngine, mart: Mart) -> dict[str, str]:
    """The mart's columns with their types."""
    relation = engine.ask(f"SELECT * FROM {quoted(mart.name)}")
    return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _chosen(columns: Mapping[str, str], mart: Mart) -> Iterator[Chart]:
    """The charts of a mart whose header has none: money by month or by its key, and its rows."""
    shown = [name for name in columns if not name.startswith("_")]
    keys = {*mart.key, *mart.partitions}
    measures = [
        name
        for name in shown
        if columns[name].startswith(_NUMBERS)
        and name not in keys
        and not name.lower().endswith("id")
        and name.lower() not in ("year", "month")
    ]
    # Money is decimal, so a decimal says more than a count does.
    measures.sort(key=lambda name: not columns[name].startswith("DECIMAL"))
    words = [name for name in mart.key if columns.get(name) == "VARCHAR"]
    if measures and mart.month in columns:
        yield Chart(kind=ChartKind.LINE, x=mart.month, y=measures[0])
    elif measures and words:
        yield Chart(kind=ChartKind.BAR, x=words[0], y=measures[0])
    if shown:
        first = f"-{measures[0]}" if measures else None
        yield Chart(
            kind=ChartKind.TABLE, columns=shown[:8], order=first, top=_ROWS_OF_A_MART, title="Rows"
        )


def _figures(
    engine: AskingEngine, mart: Mart, chart: Chart, title: str, columns: Mapping[str, str]
) -> Iterator[Figure]:
    if chart.per is None:
        yield _figure(engine, mart, chart, title, columns, ())
        return
    per = quoted(chart.per)
    where = _where(chart, ())
    query = f"SELECT {per}, count(*) FROM {quoted(mart.name)}{where} GROUP BY 1 ORDER BY 2 DESC, 1"
    values = [value for value, _ in _rows(engine, query)]
    for value in values[:_PER]:
        given = f"{per} IS NULL" if value is None else f"{per} = {text_literal(str(value))}"
        yield _figure(engine, mart, chart, f"{title}: {text_of(value)}", columns, (given,))
    if (left := len(values) - _PER) > 0:
        note = f"{left:,} more values of {chart.per} are not shown"
        yield Figure(title, mart.name, ChartKind.TABLE, (), (), (), note=note)


def _figure(
    engine: AskingEngine,
    mart: Mart,
    chart: Chart,
    title: str,
    columns: Mapping[str, str],
    given: Sequence[str],
) -> Figure:
    if chart.kind is ChartKind.TABLE:
        return _table(engine, mart, chart, title, columns, given)
    return _totals(engine, mart, chart, title, columns, given)


def _table(
    engine: AskingEngine,
    mart: Mart,
    chart: Chart,
    title: str,
    columns: Mapping[str, str],
    given: Sequence[str],
) -> Figure:
    name, where = quoted(mart.name), _where(chart, given)
    ((count,),) = _rows(engine, f"SELECT count(*) FROM {name}{where}")
    order = [f"{quoted(key)} NULLS LAST" for key in mart.key]
    if chart.order:
        down = " DESC" if chart.order.startswith("-") else ""
        order.insert(0, f"{quoted(chart.order.removeprefix('-'))}{down} NULLS LAST")
    sort = f" ORDER BY {', '.join(order)}" if order else ""
    chosen = ", ".join(map(quoted, chart.columns))
    rows = _rows(engine, f"SELECT {chosen} FROM {name}{where}{sort} LIMIT {chart.top:d}")
    note = f"{len(rows):,} of {count:,} rows" if count > len(rows) else None
    return Figure(
        title,
        mart.name,
        chart.kind,
        tuple(map(in_words, chart.columns)),
        tuple(tuple(map(text_of, row)) for row in rows),
        tuple(_is_amount(name, columns) for name in chart.columns),
        note=note,
    )


def _totals(
    engine: AskingEngine,
    mart: Mart,
    chart: Chart,
    title: str,
    columns: Mapping[str, str],
    given: Sequence[str],
) -> Figure:
    x, by = chart.x or "", chart.by
    value = f"{chart.total.value}({quoted(chart.y or '')})"
    if chart.total is Total.COUNT:
        value = "count(*)"
    source = f"{quoted(mart.name)}{_where(chart, given)}"
    at, note = quoted(x), None
    if chart.kind is ChartKind.LINE and columns.get(x) == "VARCHAR":
        ((many, months),) = _rows(
            engine,
            f"SELECT count(DISTINCT {at}), bool_and(regexp_full_match({at}, '\\d{{4}}-\\d{{2}}'))"
            f" FROM {source}",
        )
        if months and many > _MONTHS and chart.total in (Total.SUM, Total.COUNT):
            at, note = f"left({at}, 4)", f"{many:,} months, by year"
    adds = chart.total in (Total.SUM, Total.COUNT)
    most = _SIDE if chart.kind is ChartKind.HEAT else chart.top
    in_order = chart.kind in (ChartKind.LINE, ChartKind.HEAT)
    xs, x_note = (at, None) if in_order else _cut(engine, source, at, value, most, adds)
    if by is None:
        bys, by_note = "NULL", None
    elif chart.kind is ChartKind.HEAT:
        bys, by_note = quoted(by), None
    else:
        colours = min(chart.top, _COLOURS)
        bys, by_note = _cut(engine, source, quoted(by), value, colours, adds)
    query = f"SELECT {xs} AS x, {bys} AS b, {value} FROM {source} GROUP BY 1, 2 ORDER BY 1, 2"
    found = _rows(engine, f"SELECT * FROM ({query}) LIMIT {_SIDE * _SIDE}")
    points = tuple(
        Point(text_of(one), None if by is None else text_of(other), total)
        for one, other, total in found
        if total is not None
    )
    if not in_order:
        sums: dict[str, Any] = {}
        for point in points:
            sums[point.x] = sums.get(point.x, 0) + point.value
        points = tuple(sorted(points, key=lambda p: (p.x == OTHERS, -sums[p.x], p.x, p.by or "")))
    heading = [in_words(x), *([in_words(by)] if by else []), _measure(chart)]
    rows = tuple((p.x, *([p.by or NONE] if by else []), text_of(p.value)) for p in points)
    notes = [text for text in (note, x_note, by_note) if text]
    return Figure(
        title,
        mart.name,
        chart.kind,
        tuple(heading),
        rows,
        (*(False for _ in heading[:-1]), True),
        points,
        (in_words(x), in_words(by) if by and chart.kind is ChartKind.HEAT else _measure(chart)),
        "; ".join(notes) or None,
    )


def _cut(
    engine: AskingEngine, source: str, column: str, value: str, most: int, adds: bool
) -> tuple[str, str | None]:
    """An expression for a column's values of the largest figures; all others become one."""
    order = "2" if not adds else f"abs({value})"
    found = _rows(
        engine,
        f"SELECT {column}, {value} FROM {source} GROUP BY 1 ORDER BY {order} DESC NULLS LAST, 1"
        f" LIMIT {most + 1}",
    )
    if len(found) <= most:
        return column, None
    ((count,),) = _rows(engine, f"SELECT count(DISTINCT {column}) FROM {source}")
    texts = [text_literal(str(one)) for one, _ in found[:most] if one is not None]
    inside = f"CAST({column} AS VARCHAR) IN ({', '.join(texts)})"
    if any(one is None for one, _ in found[:most]):
        inside = f"({column} IS NULL OR {inside})"
    others = text_literal(OTHERS)
    cut = f"CASE WHEN {inside} THEN CAST({column} AS VARCHAR) ELSE {others} END"
    return cut, f"the largest {most:,} of {count:,}, the rest in the table as “{OTHERS}”"


def _where(chart: Chart, given: Sequence[str]) -> str:
    conditions = [*([f"(\n{chart.where}\n)"] if chart.where else []), *given]
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _rows(engine: AskingEngine, query: str) -> list[tuple[Any, ...]]:
    engine.ask(query)  # refuses what is more than a query: conditions come from files
    return list(engine.answered(query))


def _is_amount(name: str, columns: Mapping[str, str]) -> bool:
    return columns.get(name, "").startswith(_NUMBERS)


def _measure(chart: Chart) -> str:
    if chart.total is Total.COUNT:
        return "rows"
    name = in_words(chart.y or "")
    return name if chart.total is Total.SUM else f"{chart.total.value} of {name}"


def _title(chart: Chart) -> str:
    if chart.kind is ChartKind.TABLE:
        return "Rows"
    parts = [in_words(one) for one in (chart.x, chart.by) if one]
    return f"{_measure(chart).capitalize()} by {' and '.join(parts)}"


def in_words(name: str) -> str:
    """A column's or mart's name as people write it."""
    return name.strip("_").replace("_", " ")


def text_of(value: Any) -> str:
    """A value as the page shows it: decimals with all their digits, thousands apart."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return f"{value:,f}"
    if isinstance(value, datetime | date):
        return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
