"""SQL that turns a cell's text into a typed value, or NULL if it is not exactly such a value.

Engines' own casts accept too much, in different ways: they read '1.5' as the integer 2, '1e3' as
1000, '1.005' as 1.01 and a timestamp as its date. Here a value is accepted only if it reads back
as it was written, or if its text has the plain form of its type. A text in another form that the
feed declares becomes that plain form first (`plain`), if it has the declared form exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from retailmart.project.feed import Column
from retailmart.project.types import ColumnType
from retailmart.project.writing import NUMBERS, PLAIN, TIMES, Marks, directives
from retailmart.tables import text_literal

# Non-breaking blanks count, too: web pages and French tills write them.
_ANY_BLANK = r"[\s\x{00A0}\x{202F}]"
_PAD = f"{_ANY_BLANK}*"
_WHOLE = f"{_PAD}[+-]?[0-9]+{_PAD}"
# The year 0000 does not exist; engines take it for 1 BC.
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_CALENDAR = rf"{_YEAR}-[0-9]{{2}}-[0-9]{{2}}"
_DAY = f"{_PAD}{_CALENDAR}{_PAD}"
_OFFSET = "[+-](0[0-9]|1[0-4])(:?[0-5][0-9])?"
# Digits beyond microseconds are accepted if they are zeros, as .NET writes them.
_MOMENT = (
    rf"{_PAD}{_CALENDAR}[T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,6}}0*)?)?"
    rf"( ?(Z|UTC|{_OFFSET}))?{_PAD}"
)
# In microseconds: an offset may lead beyond the years of four digits, which no database holds.
_WITHIN = "BETWEEN -62135596800000000 AND 253402300799999999"
# More digits than any number has would become infinity.
_FLOATING = rf"{_PAD}[+-]?[0-9]{{1,100}}(\.[0-9]*)?([eE][+-]?[0-9]{{1,2}})?{_PAD}"
_YES = ("'true'", "'yes'", "'y'", "'1'", "'t'")
_NO = ("'false'", "'no'", "'n'", "'0'", "'f'")
_BLANKS = "E' \\t\\n\\f\\r\u00a0\u202f'"
_TRUTH = f"{_PAD}(?i:true|false|t|f|yes|no|y|n|1|0){_PAD}"
# A number in groups of three, decimals not declared: its point may be a thousands separator.
_DOUBTFUL = rf"{_PAD}[+-]?[1-9][0-9]{{0,2}}\.[0-9]{{3}}{_PAD}"


def attempt(text: str, kind: ColumnType) -> str:
    """The engine's own generous cast of a text expression: the first half of `typed`."""
    name = {"INT": "INTEGER", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}.get(kind.name)
    return f"TRY_CAST({text} AS {name or kind})"


def typed(text: str, attempted: str, kind: ColumnType, *, doubts: bool = False) -> str:
    """An SQL expression of type `kind`: the value of `attempt`, if `text` says exactly that.

    With `doubts`, '3.000' is not an amount in a column of two decimals: it may be three thousand.
    """
    if kind.name == "STRING":
        return f"CASE WHEN trim({text}) <> '' THEN {text} END"
    bare = f"trim({text}, {_BLANKS})"
    if kind.name == "BOOLEAN":
        # The first two branches match nearly all values; patterns cost five times as much.
        word, bare = f"lower({text})", f"trim(lower({text}), {_BLANKS})"
        padded = f"CASE WHEN regexp_full_match({text}, '{_TRUTH}') THEN {_one_of(bare, _YES)}"
        return (
            f"CASE WHEN {_one_of(word, _YES)} THEN true WHEN {_one_of(word, _NO)} THEN false"
            f" ELSE {padded} END END"
        )
    plain = f"regexp_full_match({text}, '{_plain_form(kind, doubts=doubts)}')"
    if kind.name == "TIMESTAMP":
        # The engine accepts no blank before an offset; a text without an offset is UTC to it.
        respelt = attempt(rf"regexp_replace({bare}, ' ?(?:UTC|Z)| ([+-])', '\1')", kind)
        return (
            f"CASE WHEN NOT {plain} THEN NULL"
            f" WHEN epoch_us({attempted}) {_WITHIN} THEN {attempted}"
            f" WHEN {attempted} IS NULL AND epoch_us({respelt}) {_WITHIN} THEN {respelt} END"
        )
    # The only blanks that engines know are those of ASCII.
    value = f"coalesce({attempted}, {attempt(bare, kind)})"
    if kind.name == "DOUBLE":
        return f"CASE WHEN {plain} THEN {value} END"
    # The first branch is fast and matches nearly all; the pattern is for '007', ' 7' or '12.5'.
    same = f"CAST({attempted} AS VARCHAR) = {text}"
    if kind.name == "DATE":  # 'infinity', '12024-01-05' and '0044-03-15 (BC)' read back as well
        same = f"length({text}) = 10 AND {same}"
    return f"CASE WHEN {same} THEN {attempted} WHEN {plain} THEN {value} END"


def _one_of(word: str, words: tuple[str, ...]) -> str:
    """SQL: whether a word is one of a few; longer lists become joins, which cost 10 ms."""
    return f"({word} IN ({', '.join(words[:4])}) OR {word} = {words[4]})"


def is_doubtful(text: str) -> str:
    """SQL: whether a point in a text may separate thousands as well as decimals."""
    return f"regexp_full_match({text}, '{_DOUBTFUL}')"


def _plain_form(kind: ColumnType, *, doubts: bool = False) -> str:
    if kind.is_decimal:
        scale = kind.scale
        bare = rf"\.[0-9]{{1,{scale}}}0*" if scale else r"\.0+"
        if not doubts or scale > 2:
            return rf"{_PAD}[+-]?([0-9]+(\.[0-9]{{0,{scale}}}0*)?|{bare}){_PAD}"
        # Three digits after the point may be a group, if one to three come before it.
        few = (
            rf"[0-9]+(\.([0-9]{{0,{scale}}}0{{0,{2 - scale}}}|[0-9]{{{scale}}}0{{{4 - scale},}}))?"
        )
        three = rf"(0[0-9]*|[0-9]{{4,}})\.[0-9]{{{scale}}}0{{{3 - scale}}}"
        return rf"{_PAD}[+-]?({few}|{three}|{bare}){_PAD}"
    if kind.name == "DATE":
        return _DAY
    if kind.name == "TIMESTAMP":
        return _MOMENT
    if kind.name == "DOUBLE":
        return _FLOATING
    return _WHOLE


# what senders write in other forms


def is_declared(column: Column) -> bool:
    """Whether the feed says that a column's values are written in another form."""
    return bool(column.formats) or column.marks != PLAIN


def plain(text: str, column: Column) -> str:
    """The plain form of a text that has exactly the column's declared form; NULL for any other."""
    if column.formats:
        return _plain_time(text, column.formats, column.defined or column.type)
    return _plain_number(text, column.marks)


def plain_or_as_it_is(text: str, column: Column) -> str:
    """`plain`, or the text itself; NULL if the two say different things.

    This is for cells that either a program or a person may have written.
    """
    declared = f"({plain(text, column)})"
    number = rf"regexp_full_match({text}, '\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*')"
    return (
        f"CASE WHEN {declared} IS NULL THEN {text}"
        f" WHEN {declared} = ltrim(trim({text}), '+') OR NOT {number} THEN {declared} END"
    )


def _plain_number(text: str, marks: Marks) -> str:
    bare = text
    for sign in sorted(marks.currency, key=len, reverse=True):
        bare = f"replace({bare}, {text_literal(sign)}, '')"
    if marks.thousands not in (None, " "):
        bare = f"replace({bare}, {text_literal(str(marks.thousands))}, '')"
    if marks.point != ".":
        bare = f"replace({bare}, {text_literal(marks.point)}, '.')"
    bare = rf"regexp_replace({bare}, '[\s\x{{00A0}}\x{{202F}}()+]+', '', 'g')"
    if marks.parentheses:
        bare = f"CASE WHEN contains({text}, '(') THEN '-' ELSE '' END || {bare}"
    form = text_literal(_number_form(marks))
    return f"CASE WHEN regexp_full_match({text}, {form}) THEN {bare} END"


def _number_form(marks: Marks) -> str:
    """A regular expression of all numbers that are written with these marks."""
    blanks, point = _PAD, re.escape(marks.point)
    whole = "[0-9]+"
    if marks.thousands:
        group = r"[ \x{00A0}\x{202F}]" if marks.thousands == " " else re.escape(marks.thousands)
        whole = f"(?:[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}})+|[0-9]+)"
    number = f"(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]{{1,2}})?"
    forms = [f"[+-]?{number}"]
    sign = "|".join(re.escape(one) for one in sorted(marks.currency, key=len, reverse=True))
    if sign:
        before, after = f"(?:{sign}){blanks}", f"{blanks}(?:{sign})"
        forms += [f"[+-]?{before}{number}", f"{before}[+-]{number}", f"[+-]?{number}{after}"]
    if marks.parentheses:
        inner = rf"\({blanks}{number}{blanks}\)"
        forms.append(inner)
        if sign:
            forms += [rf"\({blanks}(?:{before}{number}|{number}{after}){blanks}\)"]
            forms += [f"{before}{inner}", f"{inner}{after}"]
    return f"{blanks}(?:{'|'.join(forms)}){blanks}"


def _plain_time(text: str, formats: tuple[str, ...], kind: ColumnType) -> str:
    """The plain form of a time; NULL if several formats read it as different times."""
    name = "DATE" if kind.name == "DATE" else "TIMESTAMPTZ"
    found = [f"CAST({_parsed(text, one)} AS {name})" for one in formats]
    if len(found) == 1:
        return f"CAST({found[0]} AS VARCHAR)"
    some = ", ".join(found)
    return f"CASE WHEN least({some}) = greatest({some}) THEN CAST(least({some}) AS VARCHAR) END"


def _parsed(text: str, format_: str) -> str:
    form = text_literal(f"{_PAD}{_time_form(format_)}{_PAD}")
    said = f"trim({text})"
    if "z" in directives(format_):
        said = rf"regexp_replace({said}, 'Z(\s*)$', '+00:00')"
    pattern = text_literal(format_.replace("%-", "%"))
    return f"CASE WHEN regexp_full_match({text}, {form}) THEN try_strptime({said}, {pattern}) END"


_MONTHS = "January February March April May June July August September October November December"
_PARTS = {
    "Y": _YEAR,
    "y": "[0-9]{2}",
    "m": "(0?[1-9]|1[0-2])",
    "d": "(0?[1-9]|[12][0-9]|3[01])",
    "b": f"(?i:{'|'.join(name[:3] for name in _MONTHS.split())})",
    "B": f"(?i:{'|'.join(_MONTHS.split())})",
    "H": "([01]?[0-9]|2[0-3])",
    "I": "(0?[1-9]|1[0-2])",
    "M": "[0-5][0-9]",
    "S": "[0-5][0-9]",
    "f": "[0-9]{1,6}",
    "p": "(?i:am|pm)",
    "z": f"(Z|{_OFFSET})",
}


def _time_form(format_: str) -> str:
    """A regular expression for a format; `20240105` needs all digits of each part."""
    parts = re.split(r"%-?(.)", format_)
    found = [re.escape(parts[0])]
    for n in range(1, len(parts), 2):
        letter, after = parts[n], parts[n + 1]
        joined = (n > 1 and not parts[n - 1]) or (not after and n + 2 < len(parts))
        part = _PARTS[letter]
        found.append(part.replace("0?", "0").replace("[01]?", "[01]") if joined else part)
        found.append(re.escape(after))
    return "".join(found)


# messages for users


def expected(kind: ColumnType, column: Column | None = None) -> str:
    """What a cell of this type, or of this column, should look like, as a message."""
    if column is not None and column.formats:
        word = "date" if kind.name == "DATE" else "time"
        return f"a {word} written as {' or '.join(column.formats)}"
    marks = column.marks if column is not None else PLAIN
    if kind.is_decimal:
        example = f"1{marks.thousands or ''}234{marks.point}50"
        return f"an amount such as {example}, with at most {kind.scale} decimals"
    return {
        "INT": "a whole number such as 42",
        "BIGINT": "a whole number such as 42",
        "DATE": "a date such as 2024-01-31",
        "TIMESTAMP": "a time such as 2024-01-31T18:30:00Z",
        "BOOLEAN": "true or false",
        "DOUBLE": f"a number such as 3{marks.point}14",
        "STRING": "a text",
    }[kind.name]


# A sign, or a word of two or three letters.
_CURRENCY = r"(\p{Sc}|\p{L}{2,3}[.]?|[A-Z]{2}\p{Sc})"
_TWO = r"\s*{first}[./-]{second}[./-]([0-9]{{4}}|[0-9]{{2}})([ T,].*)?"
_NUMBER, _LOW, _HIGH = "[0-9]{1,2}", "(0?[1-9]|1[0-2])", "(1[3-9]|2[0-9]|3[01])"
_SAY = "write its order as `format:` of the column, such as"
_ORDERS = (
    ("its day seems to stand first", '"%d/%m/%Y"', _TWO.format(first=_HIGH, second=_LOW)),
    ("its month seems to stand first", '"%m/%d/%Y"', _TWO.format(first=_LOW, second=_HIGH)),
    (
        "its day or its month stands first",
        '"%d/%m/%Y" or "%m/%d/%Y"',
        _TWO.format(first=_LOW, second=_LOW),
    ),
    ("it has other marks", '"%Y/%m/%d"', r"\s*[0-9]{4}([./][0-9]{1,2}){2}\s*"),
    ("it has no marks", '"%Y%m%d"', r"\s*(19|20)[0-9]{6}\s*"),
)


def likely_causes(column: Column, text: str) -> list[tuple[str, str]]:
    """Why a text may not be one of a column's values: a message, and SQL that says if it fits."""
    if column.type.name in TIMES and not column.formats:
        return [
            (f"{message}: {_SAY} {fix}", f"regexp_full_match({text}, '{form}')")
            for message, fix, form in _ORDERS
        ]
    if column.type.name not in NUMBERS:
        return []
    return [*_signs(column, text), *_marks(column, text)]


def _signs(column: Column, text: str) -> Iterator[tuple[str, str]]:
    """What may stand around a number, but is not declared: a currency, parentheses."""
    if not column.marks.currency:
        number = r"[+-]?\s*[0-9][0-9.,'’_\s]*"
        form = rf"\s*([+-]?\s*{_CURRENCY}\s*{number}|{number}{_CURRENCY}\s*)"
        message = "it seems to have the sign of a currency: say `currency:` with that sign, such as"
        yield (
            f'{message} `currency: ["$", EUR]`',
            f"regexp_full_match({text}, {text_literal(form)})",
        )
    if not column.marks.parentheses:
        message = "it may be a negative number in parentheses: say `parentheses: true`"
        yield message, f"regexp_full_match({text}, '\\s*[(][^()]*[0-9][^()]*[)]\\s*')"


def _marks(column: Column, text: str) -> list[tuple[str, str]]:
    """Marks between digits that are not declared, with or without the sign of a currency."""
    marks = column.marks
    before, after = rf"\s*[+-]?\s*({_CURRENCY}\s*)?[+-]?", rf"\s*({_CURRENCY}\s*)?"
    group = f"{before}[0-9]{{1,3}}"
    if marks.thousands:
        return []
    if marks.decimal:
        mark, word = (".", "points") if marks.point == "," else (",", "commas")
        grouped = rf"{group}([{mark}][0-9]{{3}})+([{marks.point}][0-9]*)?{after}"
        message = f'it seems to have {word} between thousands: say `thousands: "{mark}"`'
        return [(message, f"regexp_full_match({text}, {text_literal(grouped)})")]
    comma = rf"{group}(([.][0-9]{{3}})*|[0-9]*),[0-9]{{1,2}}{after}"
    commas = rf"{group}(,[0-9]{{3}})+([.][0-9]*)?{after}"
    return [
        (
            'its point may stand before decimals or between thousands: say `decimal: "."`, or'
            ' `decimal: ","` and `thousands: "."`',
            is_doubtful(text),
        ),
        (
            'it seems to have a comma before its decimals: say `decimal: ","`, and perhaps'
            ' `thousands: "."`',
            f"regexp_full_match({text}, {text_literal(comma)})",
        ),
        (
            'it seems to have commas between thousands: say `thousands: ","`',
            f"regexp_full_match({text}, {text_literal(commas)})",
        ),
    ]
