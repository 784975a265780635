"""An explanation as one page to print: no script, nothing from elsewhere, all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from retailmart.cli.explain_text import (
    check_words,
    place_of,
    row_of,
    said,
    text_of_row,
    unreadable_words,
)
from retailmart.report import number_of

if TYPE_CHECKING:
    from retailmart.operations.explain import Explanation

# So many rows of each table are printed; JSON has the others.
_MOST = 1_000
_STYLE: Final = """
@page { size: A4; margin: 15mm }
body { font: 10pt/1.4 system-ui, sans-serif; max-width: 60em; margin: 1em auto; padding: 0 1em;
  color: #111; background: #fff }
h1 { font-size: 15pt; margin: 0 } h2 { font-size: 11pt; margin: 1.4em 0 .3em }
.number { font-size: 22pt; margin: .2em 0 }
table { border-collapse: collapse; width: 100%; font-size: 8.5pt }
th, td { border-bottom: .5pt solid #bbb; padding: .2em .5em; text-align: left;
  vertical-align: top; overflow-wrap: anywhere }
th { border-bottom: 1pt solid #111 } thead { display: table-header-group }
tr { break-inside: avoid } td.n, th.n { text-align: right; white-space: nowrap }
pre { white-space: pre-wrap; font-size: 8pt; border-left: 2pt solid #bbb; padding-left: .8em }
"""


def page_of(found: Explanation) -> str:
    """The page as HTML."""
    title = f"{found.mart}.{found.column}, {row_of(found)}"
    body = "\n".join(_parts(found))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
        f'<body><h1>{_text(title)}</h1><p class="number">{_text(said(found.number))}</p>\n'
        f"{body}\n</body></html>"
    )


def _parts(found: Explanation) -> Iterator[str]:
    if not found.is_there:
        yield f"<p>{_text(found.mart)} has no such row.</p>"
    elif found.matches > 1:
        yield f"<p>Together, of {number_of(found.matches, 'row')}.</p>"
    else:
        yield _table(["column", "value"], [(n, said(v)) for n, v in found.row.items()])
    if found.is_there:
        yield "<h2>Check</h2>" + _list(check_words(found))
    yield "<h2>Rule</h2>"
    yield f"<p>{_text(found.about or '')} As of {found.as_of:%Y-%m-%d %H:%M} UTC.</p>"
    if found.variables:
        yield _list(f"{name} = {said(value)}" for name, value in found.variables.items())
    yield f"<pre>{_text(found.query)}</pre>"
    yield from _rows(found)
    if found.compared is not None:
        yield "<h2>Compared with other rows</h2>" + _list(found.compares)
        if found.compared.rows:
            names = list(found.compared.rows[0])
            yield _table(names, [[said(row[n]) for n in names] for row in found.compared.rows])
    if found.refused:
        yield f"<h2>Refused rows that would count: it would be {_text(said(found.repaired))}</h2>"
        yield _table(
            ["place", "amount", "why", "text"],
            [(f"{r.file}:{r.line}", said(r.amount), r.message, r.raw) for r in found.refused],
        )
    if found.unreadable:
        yield f"<p>{_text(unreadable_words(found))}.</p>"
    if found.corrections:
        yield "<h2>Corrections and undos</h2>" + _list(one.message for one in found.corrections)
    if found.limits:
        yield "<h2>How far this goes</h2>" + _list(found.limits)


def _rows(found: Explanation) -> Iterator[str]:
    if found.deliveries:
        yield "<h2>Deliveries</h2>"
        yield _table(
            ["file", "run", "state", "rows", "amount"],
            [
                (
                    one.file,
                    f"{one.run}, {one.began[:10]}",
                    one.state,
                    f"{one.rows:,}",
                    said(one.amount),
                )
                for one in found.deliveries
            ],
        )
    if not found.rows:
        return
    yield "<h2>Rows</h2>"
    amounts = {one.rows[0]: said(one.amount) for one in found.addends if len(one.rows) == 1}
    yield _table(
        ["place", "amount", "row"],
        [
            (place_of(row), amounts.get(number, ""), text_of_row(row))
            for number, row in enumerate(found.rows[:_MOST])
        ],
    )
    if (total := sum(found.used.values())) > _MOST:
        yield f"<p>{total - _MOST:,} more rows: --output json lists them.</p>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    lines = ("".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _text(text: str) -> str:
    """Others' text: escaped, and without characters that no page may hold."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return escape(shown)
