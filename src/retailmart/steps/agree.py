"""Prove that marts which tell the same in different cuts tell the same totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from retailmart.engines import Engine
from retailmart.errors import GateFailed
from retailmart.lake import Lake
from retailmart.project.mart import Mart
from retailmart.report import Agreement
from retailmart.steps.build import BuiltMart, mart_table
from retailmart.tables import TableState, quoted

_TOLD = 3


def agree(
    engine: Engine, lake: Lake, marts: Mapping[str, Mart], built: Iterable[BuiltMart]
) -> list[Agreement]:
    """Compare what marts say by `agrees` in their headers, where the batch built either.

    A mart's columns, summed by the other's key, must be the other's columns. GateFailed names the
    groups that are off.
    """
    after = {part.mart.name: part.after for part in built}

    def state(name: str) -> TableState | None:
        return after[name] if name in after else lake.state(mart_table(name))

    found: list[Agreement] = []
    problems: list[str] = []
    for mart in marts.values():
        for other, columns in mart.agrees.items():
            if mart.name not in after and other not in after:
                continue
            own, against = state(mart.name), state(other)
            if own is None or against is None:
                continue  # one of them is not available, which is told elsewhere
            engine.define("_one", own)
            engine.define("_other", against)
            key = marts[other].key
            problems += _differences(engine, mart.name, other, key, columns)
            groups = sum(file.rows for file in against.files)
            found.append(Agreement(mart.name, other, tuple(columns), groups))
    if problems:
        raise GateFailed("marts do not agree; nothing was published:\n  " + "\n  ".join(problems))
    return found


def _differences(
    engine: Engine, mart: str, other: str, key: Sequence[str], columns: Mapping[str, str]
) -> list[str]:
    keys = ", ".join(map(quoted, key))
    both = {
        table: ", ".join(f"coalesce(sum({quoted(name)}), 0) AS _s{n}" for n, name in enumerate(of))
        for table, of in (("_one", columns.keys()), ("_other", columns.values()))
    }
    sides = (
        f"(SELECT {keys}, {sums} FROM {table} GROUP BY {keys})" for table, sums in both.items()
    )
    match = " AND ".join(f"a.{quoted(name)} IS NOT DISTINCT FROM b.{quoted(name)}" for name in key)
    shown = ", ".join(f"coalesce(a.{quoted(name)}, b.{quoted(name)})" for name in key)
    pairs = ", ".join(f"coalesce(a._s{n}, 0), coalesce(b._s{n}, 0)" for n in range(len(columns)))
    off = " OR ".join(f"coalesce(a._s{n}, 0) <> coalesce(b._s{n}, 0)" for n in range(len(columns)))
    rows = engine.rows(
        f"SELECT {shown}, {pairs} FROM {next(sides)} a FULL JOIN {next(sides)} b ON {match}"
        f" WHERE {off} ORDER BY ALL LIMIT {_TOLD}"
    )
    problems = []
    for row in rows:
        where = ", ".join(f"{name} {value}" for name, value in zip(key, row, strict=False))
        for number, (name, against) in enumerate(columns.items()):
            one, two = row[len(key) + 2 * number : len(key) + 2 * number + 2]
            if one != two:
                problems.append(
                    f"{where}: {mart}.{name} adds up to {one}, {other}.{against} to {two}"
                )
    return problems
