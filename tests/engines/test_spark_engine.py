"""What only Spark's engine does: it starts few jobs, and tells why a task ended."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from retailmart.engines import Engine
from retailmart.engines.registry import open_engine
from retailmart.errors import NotComputed, RetailmartError
from retailmart.lake.places import LocalPlace
from retailmart.project.settings import Settings, SparkSettings
from retailmart.tables import TableState
from retailmart.template import write_project
from tests.support.backends import SparkBackend, shop_tables
from tests.support.shop import Shop, keep_only, sale

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark_session")]

# Files are copied and loaded, marts are written; whether they fit is asked, then whether all is
# proven. The database shows rows that this machine reads anyway.
RUN = {"StageFiles": 1, "LoadPart": 1, "write_part": 1, "answers": 2}
TILL_MARTS = ("customer_mart", "customer_monthly_purchase", "sales_mart", "sales_team_incentive")


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The jobs that are started from now on, by the work that they do."""
    from retailmart.engines.spark.jobs import Jobs

    counted: Counter[str] = Counter()
    run = Jobs.run

    def counting(self: Jobs, work: Any, items: Sequence[Any]) -> list[Any]:
        counted[getattr(work, "__name__", type(work).__name__)] += 1
        return run(self, work, items)

    monkeypatch.setattr(Jobs, "run", counting)
    return counted


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine that leaves all work to tasks, which get little memory."""
    settings = Settings(engine="spark", spark=SparkSettings(driver_reads="0MB", task_memory="30MB"))
    place = LocalPlace(tmp_path / "lake")
    with closing(open_engine(settings, [place], tmp_path / "private")) as engine:
        yield engine


def written(engine: Engine, root: Path, rows: int) -> TableState:
    """A table of numbers that tasks have written."""
    files = engine.spread(_WriteNumbers(root), [rows], [1])[0]
    return TableState(str(root), engine.fields("SELECT 0::BIGINT AS n"), (), files)


class _WriteNumbers:
    """Writes the numbers below another."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, engine: Engine, rows: int) -> Any:
        return engine.write(f"SELECT range AS n FROM range({rows})", self.root, "b1-", ()).files


def test_a_run_takes_few_jobs(tmp_path: Path, jobs: Counter[str]) -> None:
    """What a first run, a day and an undo ask of tasks does not grow with the marts."""
    write_project(tmp_path / "shop", sample=False)
    keep_only(tmp_path / "shop", marts=TILL_MARTS)
    shop = Shop(tmp_path / "shop", SparkBackend(tmp_path / "shop"))
    shop.backend.settle(shop.folder)
    shop.backend.execute_in_shop(*shop_tables())
    shop.sales("sales_1.csv", [sale(customer=n, day=f"2024-0{n}-01") for n in range(1, 4)])
    shop.run()
    assert jobs == RUN
    jobs.clear()
    shop.sales("sales_2.csv", [sale(customer=4, day="2024-03-02")])
    shop.run()
    assert jobs == RUN
    jobs.clear()
    shop.open().undo(2)
    assert jobs == {"write_part": 2, "SumFiles": 1, "answers": 2}


def test_several_questions_are_one_job(engine: Engine, tmp_path: Path, jobs: Counter[str]) -> None:
    """Answers come in the order of the questions, on whichever machine they are found."""
    table = engine.define(written(engine, tmp_path / "lake" / "numbers", 10))
    here = engine.values(pa.table({"n": [7]}))
    jobs.clear()
    queries = [
        f"SELECT sum(n) FROM {table}",
        f"SELECT n FROM {here}",
        f"SELECT max(n) FROM {table}",
    ]
    assert engine.rows_of(queries) == [[(45,)], [(7,)], [(9,)]]
    assert jobs == {"answers": 1}


def test_many_rows_come_by_a_file_in_their_order(
    engine: Engine, tmp_path: Path, jobs: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large result is sorted in a task; a small one is read where its rows are needed."""
    table = engine.define(written(engine, tmp_path / "lake" / "numbers", 5_000))
    query = f"SELECT n FROM {table} ORDER BY n DESC"
    for limit, expected in ((0, {"WriteOrdered": 1}), (2 << 20, {})):
        monkeypatch.setattr("retailmart.engines.spark.sharing.LEAST_OF_TABLES", limit)
        jobs.clear()
        rows = [n for batch in engine.batches(query, 1_000) for n in batch.column(0).to_pylist()]
        assert rows == list(range(4_999, -1, -1))
        assert jobs == expected


def _hungry(engine: Engine, item: int) -> int:
    return len(engine.rows(f"SELECT list(i) FROM range({item}) t(i)"))


def _killed(engine: Engine, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_out_of_memory_names_the_setting(engine: Engine) -> None:
    """DuckDB's limit is told with what raises it."""
    with pytest.raises(RetailmartError, match="the memory is not enough") as told:
        engine.spread(_hungry, [20_000_000], [1])
    assert "`spark: task_memory`" in str(told.value.hint)


def test_a_killed_task_names_the_setting(engine: Engine) -> None:
    """As the kernel kills what takes too much; the session is of use after it."""
    with pytest.raises(RetailmartError, match="ended, as by too little memory") as told:
        engine.spread(_killed, [1], [1])
    assert "`spark: task_memory`" in str(told.value.hint)
    assert engine.spread(_hungry, [1], [1]) == [1]


def test_what_cannot_be_computed_stops_nothing_else(engine: Engine, tmp_path: Path) -> None:
    """Of several writes in one job each has its own end."""
    from retailmart.engines import Write

    lake = tmp_path / "lake"
    rows = engine.define(written(engine, lake / "numbers", 10))
    queries = ("SELECT n FROM t", "SELECT CAST(n || 'x' AS BIGINT) AS n FROM t")
    writes = [
        Write(query, lake / f"m{number}", "b1-", (), {"t": rows})
        for number, query in enumerate(queries)
    ]
    good, bad = engine.write_each(writes)
    assert not isinstance(good, RetailmartError)
    assert [file.rows for file in good] == [10]
    assert isinstance(bad, NotComputed)
    assert list((lake / "m1").rglob("*.parquet")) == []
