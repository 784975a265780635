"""Many small files cost what their rows cost, not what each file would cost alone."""

from __future__ import annotations

from typing import Any

import pytest

from retailmart.engines.duckdb import DuckDBEngine
from tests.support.shop import Shop, sale


def test_refused_rows_of_many_files_are_looked_for_together(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own file, line and text, and one file of the lake holds all of them."""
    for number in range(9):
        good = [sale()] * number
        shop.sales(f"sales_{number}.csv", [*good, sale(number + 1, day="x"), sale(), "1,2"])
    asked: list[str] = []
    batches = DuckDBEngine.batches

    def listening(engine: DuckDBEngine, query: str, size: int) -> Any:
        asked.extend([query] if "list_filter" in query else [])
        return batches(engine, query, size)

    monkeypatch.setattr(DuckDBEngine, "batches", listening)
    shop.run()
    found = [(file, line, rule) for file, line, _, rule, _, _ in shop.refused()]
    places = [(f"sales_{number}.csv", 2 + number, 4 + number) for number in range(9)]
    assert found == [
        one for file, day, cut in places for one in ((file, day, "type"), (file, cut, "columns"))
    ]
    assert all(f"{number + 1},1,tea,x" in shop.refused()[2 * number][5] for number in range(9))
    state = shop.open().lake.state("quarantine/sales")
    assert state is not None
    assert len(state.files) == 1
    assert len(asked) == 1


def test_an_uneven_line_in_one_file_reads_no_other_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file's lines are counted before files of its form are read together."""
    for number in range(9):
        cut = ["1,2"] if number == 4 else []
        shop.sales(f"sales_{number}.csv", [sale(number + 1), *cut, sale()])
    written: list[Any] = []
    write = DuckDBEngine.write

    def listening(engine: DuckDBEngine, query: str, *more: Any, **named: Any) -> Any:
        if any(str(each).endswith("raw/sales") for each in more):
            written.append(query)
        return write(engine, query, *more, **named)

    monkeypatch.setattr(DuckDBEngine, "write", listening)
    report = shop.run()
    assert (report.rows("loaded"), report.rows("quarantined")) == (18, 1)
    assert len(written) == 2  # the even ones, and the one that was rewritten
