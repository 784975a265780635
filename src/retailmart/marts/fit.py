"""Check whether the database can hold a mart's changed rows, before anything is decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from retailmart.database.dialect import Dialect, Limit
from retailmart.database.names import Names
from retailmart.engines import Engine, Relation
from retailmart.engines.dividing import relations_of_files
from retailmart.engines.together import Answer, answers_of
from retailmart.errors import RetailmartError
from retailmart.marts.build import BuiltMart
from retailmart.marts.held import HeldBack
from retailmart.tables import TableState, quoted, text_literal

_LONGEST = 60
NAME_FIX = 'Name it otherwise in the SELECT, as in "{column}" AS another_name'
_KEY_FIX = "Correct the SELECT, or `key` in the header: it must tell all rows of the mart apart"


def hold_unfit(
    engine: Engine,
    dialect: Dialect,
    names: Names,
    built: Sequence[BuiltMart],
    held: HeldBack,
) -> list[BuiltMart]:
    """The marts that the database can hold, without those that must agree with another mart."""
    checks: list[_Check] = []
    for part in built:
        if part.mart.publish_as is None:
            continue
        try:
            checks.append(_Check(engine, dialect, names, part))
        except RetailmartError as error:
            held.add(part.mart.name, error)
    answers = iter(answers_of(engine, [query for check in checks for query in check.queries]))
    for check in checks:
        own = [next(answers) for _ in check.queries]
        failed = [answer for answer in own if isinstance(answer, RetailmartError)]
        found = [answer for answer in own if not isinstance(answer, RetailmartError)]
        if problem := failed[0] if failed else check.problem(found):
            held.add(check.mart.name, problem)
    return held.release(built)


class _Check:
    """Whether a mart's changed rows fit into its published table, as `queries` find out.

    Raises RetailmartError if a column can't be published at all.
    """

    def __init__(self, engine: Engine, dialect: Dialect, names: Names, part: BuiltMart) -> None:
        self.mart = part.mart
        fields, key = part.change.fields, part.mart.key
        for column, why in names.wrong_columns(field.name for field in fields):
            raise RetailmartError(f"the column {column!r}: {why}", NAME_FIX.format(column=column))
        dialect.column_types(fields, key)
        self.limits = [
            *(
                Limit(name, f"{quoted(name)} IS NULL", "is empty, and a key never is", _KEY_FIX)
                for name in key
            ),
            *dialect.limits(fields, key),
        ]
        arrived = relations_of_files(engine, part.after.only(part.change.adds))
        self.queries = [self._first_unfit(rows) for rows in arrived if self.limits]
        if arrived:
            self.queries.append(self._first_repeated(engine.define(self._scope(part))))

    def _first_unfit(self, rows: Relation) -> str:
        """The number of the first limit that a row exceeds, the row's key and the value."""
        numbered = list(enumerate(self.limits))
        number = " ".join(f"WHEN {limit.condition} THEN {n}" for n, limit in numbered)
        value = " ".join(f"WHEN {n} THEN {_text(limit.column)}" for n, limit in numbered)
        return (
            f"SELECT _limit, {_row(self.mart.key)}, coalesce(CASE _limit {value} END, '') FROM"
            f" (SELECT *, CASE {number} END AS _limit FROM {rows})"
            f" WHERE _limit IS NOT NULL ORDER BY 1, 2 LIMIT 1"
        )

    def _scope(self, part: BuiltMart) -> TableState:
        """The rows whose keys may be equal: if a key has the month, only the months written."""
        month = self.mart.month
        if month is None or month not in self.mart.key:
            return part.after
        return part.after.in_months({str(file.partition[month]) for file in part.change.adds})

    def _first_repeated(self, rows: Relation) -> str:
        keys = ", ".join(map(quoted, self.mart.key))
        return (
            f"SELECT {_row(self.mart.key)}, count(*) FROM {rows} GROUP BY {keys}"
            " HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
        )

    def problem(self, answers: Sequence[Answer]) -> RetailmartError | None:
        """The first reason why the rows do not fit."""
        if not answers:
            return None
        *unfit, repeated = answers
        if found := sorted(row for rows in unfit for row in rows):
            number, row, value = found[0]
            limit = self.limits[number]
            shown = f"{value[:_LONGEST]}…" if len(value) > _LONGEST else value
            return RetailmartError(
                f"column {limit.column}, row {row}: {shown!r} {limit.reason}", limit.fix
            )
        for row, count in repeated:
            return RetailmartError(f"row {row}: {count} rows have this key", _KEY_FIX)
        return None


def _row(key: Iterable[str]) -> str:
    """SQL of a text that identifies a row by its key, for messages."""
    said = [
        f"{text_literal(f'{name} ')} || coalesce(left({_text(name)}, {_LONGEST}), 'NULL')"
        for name in key
    ]
    return "concat_ws(', ', " + ", ".join(said) + ")"


def _text(name: str) -> str:
    return f"CAST({quoted(name)} AS VARCHAR)"
