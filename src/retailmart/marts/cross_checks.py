"""Cross-mart check: marts that cut the same figures differently must have the same totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from retailmart.engines import Engine, Relation
from retailmart.engines.together import Answer, Asking, answers_of
from retailmart.errors import RetailmartError
from retailmart.lake import Lake
from retailmart.lake.layout import mart_table
from retailmart.marts.build import BuiltMart
from retailmart.marts.held import HeldBack
from retailmart.project.mart import Mart
from retailmart.report import Agreement
from retailmart.tables import TableState, quoted

_TOLD = 3
_FIX = (
    "Correct the SELECT of one of them, or `agrees` in the header; the next run builds both again"
)


def agree(
    engine: Engine,
    lake: Lake,
    marts: Mapping[str, Mart],
    built: Iterable[BuiltMart],
    held: HeldBack,
) -> Asking[list[Agreement]]:
    """Run the cross-mart checks (`agrees` in mart headers) where the batch built either mart.

    A mart's columns, summed by the other's key, must equal the other's columns. If any group
    differs, the marts of the pair that were built are held back: nothing shows which one is wrong.
    """
    after = {part.mart.name: part.after for part in built}

    def state(name: str) -> TableState | None:
        return after[name] if name in after else lake.state(mart_table(name))

    found: list[Agreement] = []
    pairs: list[_Pair] = []
    for mart in marts.values():
        for other, columns in mart.agrees.items():
            if mart.name not in after and other not in after:
                continue
            own, against = state(mart.name), state(other)
            if own is None or against is None:
                continue  # one of them is not available, which is reported elsewhere
            sides = (_Side(mart.name, engine.define(own)), _Side(other, engine.define(against)))
            groups = sum(file.rows for file in against.files)
            agreement = Agreement(mart.name, other, tuple(columns), groups)
            pairs.append(_Pair(*sides, marts[other].key, columns, agreement))
    queries = [pair.query for pair in pairs]
    try:
        answers: Sequence[Answer | RetailmartError] = yield queries
    except RetailmartError:  # some columns can't be added up or compared: find the pair
        answers = answers_of(engine, queries)
    for pair, answer in zip(pairs, answers, strict=True):
        problems = [answer.message] if isinstance(answer, RetailmartError) else pair.told(answer)
        if not problems:
            found.append(pair.agreement)
            continue
        names = (pair.one.mart, pair.other.mart)
        message = f"marts/{names[0]}.sql and marts/{names[1]}.sql do not agree"
        for name in names:
            if name in after:
                held.add(name, RetailmartError(f"{message}: {'; '.join(problems)}", _FIX))
    return found


@dataclass(frozen=True)
class _Side:
    """One of two marts that must agree, and its rows."""

    mart: str
    rows: Relation

    def sums(self, key: Sequence[str], columns: Iterable[str]) -> str:
        """A query of the columns' sums by the key."""
        keys = ", ".join(map(quoted, key))
        sums = ", ".join(
            f"coalesce(sum({quoted(name)}), 0) AS _s{n}" for n, name in enumerate(columns)
        )
        return f"(SELECT {keys}, {sums} FROM {self.rows} GROUP BY {keys})"


@dataclass(frozen=True)
class _Pair:
    """Two marts whose `columns`, summed by a key, must be the same."""

    one: _Side
    other: _Side
    key: Sequence[str]
    columns: Mapping[str, str]
    agreement: Agreement

    @property
    def query(self) -> str:
        """The first groups that differ: their keys, and both sums of each pair of columns."""
        left = self.one.sums(self.key, self.columns.keys())
        right = self.other.sums(self.key, self.columns.values())
        match = " AND ".join(
            f"a.{quoted(name)} IS NOT DISTINCT FROM b.{quoted(name)}" for name in self.key
        )
        shown = ", ".join(f"coalesce(a.{quoted(name)}, b.{quoted(name)})" for name in self.key)
        sums = [
            (f"coalesce(a._s{n}, 0)", f"coalesce(b._s{n}, 0)") for n in range(len(self.columns))
        ]
        pairs = ", ".join(f"{a}, {b}" for a, b in sums)
        off = " OR ".join(f"{a} <> {b}" for a, b in sums)
        return (
            f"SELECT {shown}, {pairs} FROM {left} a FULL JOIN {right} b ON {match}"
            f" WHERE {off} ORDER BY ALL LIMIT {_TOLD}"
        )

    def told(self, rows: Answer) -> list[str]:
        """The result of the query as messages for users."""
        problems = []
        for row in rows:
            where = ", ".join(f"{name} {value}" for name, value in zip(self.key, row, strict=False))
            for number, (name, against) in enumerate(self.columns.items()):
                first, second = row[len(self.key) + 2 * number :][:2]
                if first != second:
                    problems.append(
                        f"{where}: {self.one.mart}.{name} adds up to {first},"
                        f" {self.other.mart}.{against} to {second}"
                    )
        return problems
