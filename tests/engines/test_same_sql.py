"""Whatever DuckDB takes means the same in Spark's tasks, as DuckDB computes there, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from retailmart.engines import Engine, Relation
from retailmart.engines.duckdb import DuckDBEngine
from retailmart.engines.registry import open_engine
from retailmart.lake.places import LocalPlace
from retailmart.project.settings import Settings, SparkSettings
from retailmart.tables import TableState

pytestmark = pytest.mark.spark

ROWS = """
SELECT i AS id, i % 7 AS store, CAST(i * 1.37 AS DECIMAL(12,2)) AS amount, sqrt(i) AS weight,
       'name ' || (i % 13) AS name, DATE '2024-01-01' + CAST(i % 40 AS INTEGER) AS day,
       TIMESTAMPTZ '2024-01-01 00:00:00+00' + i * INTERVAL 97 MINUTE AS moment,
       CASE WHEN i % 5 > 0 THEN 'city ' || (i % 3) END AS city
FROM range(500) r(i)
"""
# Each stood in the list of what another translation had to refuse.
QUERIES = """
SELECT store, avg(amount) AS v FROM t GROUP BY store
SELECT store, sum(weight) AS v FROM t GROUP BY store
SELECT stddev(amount) AS a, corr(amount, weight) AS b, variance(weight) AS c FROM t
SELECT store, any_value(name) AS a, first(id) AS b, last(id) AS c FROM t GROUP BY store
SELECT store, string_agg(name, ', ') AS a FROM t GROUP BY store
SELECT store, CAST(list(id) AS VARCHAR) AS a FROM t GROUP BY store
SELECT id, row_number() OVER (PARTITION BY name) AS n, lag(id) OVER (ORDER BY id) AS b FROM t
SELECT id, count(DISTINCT name) OVER () AS n FROM t
SELECT id, sum(amount) OVER (ORDER BY day RANGE INTERVAL 7 DAYS PRECEDING) AS v FROM t
SELECT median(amount) AS a, quantile_cont(amount, 0.25) AS b, mode(store) AS c FROM t
SELECT id, name IN (SELECT name FROM t WHERE store = 1) AS a FROM t
SELECT CAST(weight AS VARCHAR) AS a FROM t
SELECT ln(weight + 1) AS a, exp(weight / 100) AS b, pow(weight, 1.5) AS c, sin(weight) AS d FROM t
SELECT regexp_matches(name, city) AS a FROM t
SELECT CAST(moment - TIMESTAMPTZ '2024-01-01 00:00:00+00' AS VARCHAR) AS a FROM t
SELECT CAST(age(day, DATE '2023-03-04') AS VARCHAR) AS a FROM t
SELECT CAST(moment AT TIME ZONE 'Europe/Berlin' AS VARCHAR) AS a FROM t
SELECT CAST({'c': city, 'id': id} AS VARCHAR) AS a, CAST(map([id], [name]) AS VARCHAR) AS b FROM t
SELECT CAST(moment::TIMESTAMP::TIME AS VARCHAR) AS a, CAST(encode(city) AS VARCHAR) AS b FROM t
SELECT a.id, b.amount FROM t a ASOF JOIN t b ON a.store = b.store AND a.day > b.day AND b.id < 7
WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT n FROM r, t
FROM (SELECT store, city, amount FROM t) PIVOT (sum(amount) FOR city IN ('city 0', 'city 1'))
SELECT store, city, sum(amount) AS v FROM t GROUP BY ROLLUP (store, city)
SELECT store, city, count(*) AS v FROM t GROUP BY CUBE (store, city)
SELECT min(COLUMNS('id|store')) FROM t
SELECT count(*) AS n FROM (SELECT * FROM t USING SAMPLE 100%)
SELECT printf('%05d', id) AS a, format('{:.3f}', weight) AS b FROM t
SELECT levenshtein(name, 'name 1') AS a, md5(name) AS b, strftime(day, '%A %d') AS c FROM t
SELECT CAST(id AS HUGEINT) * 100000000000000000000 // 7 % 1000 AS a FROM t
SELECT TRY_CAST('infinity' AS DOUBLE) AS a, TRY_CAST('1e3' AS DECIMAL(9,2)) AS b FROM t
"""


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    """Where the rows lie."""
    return LocalPlace(tmp_path / "lake")


@pytest.fixture
def spark(place: LocalPlace, tmp_path: Path, spark_session: object) -> Iterator[Engine]:
    """An engine that leaves all work to tasks."""
    settings = Settings(engine="spark", spark=SparkSettings(driver_reads="0MB"))
    with closing(open_engine(settings, [place], tmp_path / "spark")) as engine:
        yield engine


def test_all_sql_gives_the_same(spark: Engine, place: LocalPlace, tmp_path: Path) -> None:
    """Nothing is refused, and each value is what the engine in this process gives, to the digit."""
    wrong = []
    with closing(DuckDBEngine([place], tmp_path / "duckdb", None, 1)) as duckdb:
        written = duckdb.write(ROWS, place.root / "t", "b1-", ())
        table = TableState(str(place.root / "t"), written.fields, (), written.files)
        here, away = duckdb.define(table), spark.define(table)
        for query in filter(None, QUERIES.splitlines()):
            expected = _written(duckdb, query, {"t": here}, place.root / "one")
            found = _written(spark, query, {"t": away}, place.root / "other")
            if expected != found:
                wrong.append((query, expected[:3], found[:3]))
    assert not wrong


def _written(engine: Engine, query: str, names: dict[str, Relation], root: Path) -> list[str]:
    """The rows that an engine writes for a query, as texts in order."""
    written = engine.write(query, root, f"q{abs(hash(query))}-", (), names)
    relation = engine.define(TableState(str(root), written.fields, (), written.files))
    return sorted(map(repr, engine.rows(f"SELECT * FROM {relation}")))
