"""An explanation as text: a first screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from retailmart.report import number_of

if TYPE_CHECKING:
    from retailmart.operations.explain import Explanation
    from retailmart.operations.explain.values import UsedRow

_ROWS, _FEW, _WIDE = 10, 5, 160
# What adds addends up, in words.
ADDS = {
    "sum": "their sum",
    "count": "their number",
    "count distinct": "the number of different ones",
    "sum distinct": "the sum of different ones",
    "min": "the least of them",
    "max": "the greatest of them",
}


def text_of(found: Explanation) -> str:
    """The text, without control characters that others have written."""
    return "\n".join(_visible(line) for line in _lines(found))


def said(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "NULL"
    if isinstance(value, Decimal):
        return f"{value:,f}"
    return str(value)


def row_of(found: Explanation) -> str:
    """The row, as in `_month 2024-03, store_id 122`."""
    return ", ".join(f"{name} {said(value)}" for name, value in found.key.items())


def place_of(row: UsedRow) -> str:
    """Where a row is from, as in `sales_1.csv:12 (run 1)`."""
    if row.file is None:
        if row.valid_from is None:
            return row.table
        return f"{row.table}, valid {row.valid_from} to {row.valid_to}"
    line = "" if row.line is None else f":{row.line}"
    again = f", first refused as {row.origin}" if row.origin else ""
    return f"{row.file}{line} (run {row.run}{again})"


def text_of_row(row: UsedRow) -> str:
    """What a row says: as delivered, or its columns."""
    if row.raw is not None:
        return row.raw
    shown = [f"{name} {said(v)}" for name, v in row.values.items() if not name.startswith("_")]
    return ", ".join(shown)


def unreadable_words(found: Explanation) -> str:
    """That there are refused rows of which nobody can tell."""
    rows = number_of(found.unreadable, "refused row")
    return f"{rows} can't be read far enough to tell of which number"


def check_words(found: Explanation) -> Iterator[str]:
    """What was checked, and how it came out."""
    check, compared = found.check, found.compared
    if check.adds is not None and check.added_agrees:
        yield f"{check.addends:,} amounts added up again: {said(check.added)}, equal"
    elif check.adds is not None:
        yield (
            f"{check.addends:,} amounts, {ADDS.get(check.adds, check.adds)}: {said(check.added)};"
            " the column's rule goes on from there"
        )
    if check.rerun_agrees:
        yield "the mart's query over these rows alone gives the same number"
    elif check.rerun_agrees is False:
        yield (
            f"the mart's query over these rows alone gives {said(check.rerun)}: the number also"
            " depends on other rows"
        )
    elif check.adds is None:
        yield "the mart's query over these rows alone gives no such row"
    if compared is not None and compared.agrees:
        rows = number_of(compared.count, "row")
        yield f"over the {rows} that it is compared with, the query gives the same number"
    if not check.agrees:
        yield "the number did not come out again"


def _lines(found: Explanation) -> Iterator[str]:
    yield f"{found.mart}.{found.column}, {row_of(found)}: {said(found.number)}"
    if not found.is_there:
        yield f"  {found.mart} has no such row, as of {found.as_of:%Y-%m-%d %H:%M} UTC"
    if found.matches > 1:
        yield f"  together, of {number_of(found.matches, 'row')}"
    yield ""
    yield f"Rule: {found.about or 'the SELECT'} (marts/{found.mart}.sql)"
    yield f"  as of {found.as_of:%Y-%m-%d %H:%M} UTC" + "".join(
        f", {name} = {said(value)}" for name, value in found.variables.items() if name != "as_of"
    )
    if found.is_there:
        yield ""
        yield from _made_of(found)
        yield ""
        yield "Check"
        yield from (f"  {line}" for line in check_words(found))
    yield from _compared(found)
    yield from _refused(found)
    if found.corrections:
        yield ""
        yield f"Corrections and undos in its months: {len(found.corrections)}"
        yield from (f"  {one.message}" for one in found.corrections[:_FEW])
        yield from _more(found.corrections, _FEW)
    if found.limits:
        yield ""
        yield "How far this goes"
        yield from (f"  {one}" for one in found.limits)


def _made_of(found: Explanation) -> Iterator[str]:
    counts = ", ".join(f"{count:,} of {table}" for table, count in found.used.items()) or "none"
    through = ", ".join(f"{count:,} of {mart}" for mart, count in found.through.items())
    yield f"Rows: {counts}" + (f"; through {through}" if through else "")
    for number, row in enumerate(found.rows[:_ROWS]):
        amounts = [one.amount for one in found.addends if one.rows == (number,)]
        money = f"  {said(amounts[0])}" if len(amounts) == 1 else ""
        yield _cut(f"  {place_of(row)}{money}  {text_of_row(row)}")
    total = sum(found.used.values())
    if total > _ROWS:
        yield f"  … {total - min(_ROWS, len(found.rows)):,} more: --output json lists them"
    if found.deliveries:
        yield f"Deliveries: {len(found.deliveries)}"
        for one in found.deliveries[:_FEW]:
            money = "" if one.amount is None else f", {said(one.amount)}"
            yield f"  {one.file} (run {one.run}, {one.state}): {number_of(one.rows, 'row')}{money}"
        yield from _more(found.deliveries, _FEW)


def _compared(found: Explanation) -> Iterator[str]:
    if not found.compares or found.compared is None:
        return
    yield ""
    scope = ", ".join(f"{n} {said(v)}" for n, v in found.compared.key.items()) or "all rows"
    yield f"Compared with {number_of(found.compared.count, 'row')} of {found.mart} ({scope}), by"
    yield from (f"  {one}" for one in found.compares[:_FEW])
    for row in found.compared.rows[:_ROWS]:
        yield f"  {_short(row)}"
    yield from _more(found.compared.rows, _ROWS)


def _refused(found: Explanation) -> Iterator[str]:
    if found.refused:
        yield ""
        yield (
            f"Refused rows that would count: {len(found.refused)}; with them it would be"
            f" {said(found.repaired)}"
        )
        for one in found.refused[:_FEW]:
            money = "" if one.amount is None else f"  {said(one.amount)}"
            yield _cut(f"  {one.file}:{one.line}{money}  {one.message}: {one.raw}")
        yield from _more(found.refused, _FEW)
    if found.unreadable:
        yield ""
        yield f"{unreadable_words(found)}: retailmart quarantine list"


def _more(rows: Sequence[object], shown: int) -> Iterator[str]:
    if len(rows) > shown:
        yield f"  … {len(rows) - shown:,} more"


def _short(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {said(value)}" for name, value in row.items() if name[0] != "_")


def _cut(line: str) -> str:
    return line if len(line) <= _WIDE else f"{line[: _WIDE - 1]}…"


def _visible(line: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
