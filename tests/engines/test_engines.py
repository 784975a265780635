"""What every engine does alike: sandboxed, strict about months, and tidy when it fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from retailmart.engines import CsvShape, Cut, Engine, VariableValue
from retailmart.engines.parsing import tables_in
from retailmart.engines.registry import open_engine
from retailmart.errors import CsvBroken, GateFailed, RetailmartError
from retailmart.lake.places import LocalPlace
from retailmart.project.by_date import ByDate
from retailmart.project.settings import Settings, SparkSettings
from retailmart.project.types import parse_type
from retailmart.tables import DataFile, Field, TableState, Written


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Where tables lie."""
    folder = tmp_path / "lake"
    folder.mkdir()
    return folder


Opened = Callable[[Path, Path], Engine]


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=pytest.mark.spark)])
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Opens an engine that may use a lake and its scratch folder; it is closed in the end."""
    if request.param == "spark":
        request.getfixturevalue("spark_session")
    settings = Settings(engine=request.param, spark=SparkSettings(driver_reads="0MB"))
    with ExitStack() as stack:

        def open_one(lake: Path, scratch: Path) -> Engine:
            return stack.enter_context(closing(open_engine(settings, [LocalPlace(lake)], scratch)))

        yield open_one


@pytest.fixture
def engine(opened: Opened, tmp_path: Path, lake: Path) -> Engine:
    """An engine that may use the lake."""
    return opened(lake, tmp_path / "private")


# One month, for a query that reads no table.
JANUARY: dict[str, dict[str, TableState]] = {"2024-01": {}}


def write(
    engine: Engine, query: str, root: Path, partition_by: tuple[str, ...], *, by_month: bool
) -> Written:
    """Write a query's rows, all of them or those of January."""
    if not by_month:
        return engine.write(query, root, "b1-", partition_by)
    files = engine.write_months(query, JANUARY, root, "b1-", partition_by)
    return Written(engine.fields(query), files)


def state(root: Path, written: Written, partition_by: tuple[str, ...] = ()) -> TableState:
    """What was written, as a table to read."""
    return TableState(str(root), written.fields, partition_by, written.files)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{outside}')",
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '{outside}'",
        "SELECT * FROM read_text('{lake}/../outside.csv')",
        "SELECT * FROM glob('/etc/*')",
        "ATTACH '{outside}.db'",
        "COPY (SELECT 1) TO '{outside}.out'",
        "EXPORT DATABASE '{outside}.dir'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
    ],
)
def test_it_is_fenced_in(engine: Engine, tmp_path: Path, lake: Path, sql: str) -> None:
    """No SQL of a user reads or writes outside the project, nor opens the fence."""
    outside = tmp_path / "outside.csv"
    outside.write_text("secret\n")
    with pytest.raises(RetailmartError):
        engine.rows(sql.format(outside=outside, lake=lake))
    assert not Path(f"{outside}.out").exists()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT 1 AS a", set()),
        ("SELECT * FROM sales s JOIN store ON true", {"sales", "store"}),
        ("WITH a AS (SELECT * FROM sales) SELECT * FROM a", {"sales"}),
        ("SELECT * FROM sales WHERE id IN (SELECT id FROM customer)", {"sales", "customer"}),
        ("SELECT (SELECT max(x) FROM t) AS m, unnest(range(3)) AS n", {"t"}),
        ("SELECT * FROM sales UNION ALL (FROM old_sales)", {"sales", "old_sales"}),
        ('SELECT * FROM "my ""table"""', {'my "table"'}),
        ("SELECT n FROM range(3) r(n), sales", {"sales"}),
        ("WITH sales AS (SELECT * FROM sales WHERE x) SELECT * FROM sales", {"sales"}),
        ("SELECT * FROM (WITH b AS (FROM a) FROM b) CROSS JOIN b", {"a", "b"}),
    ],
)
def test_it_is_known_what_a_query_reads(query: str, names: set[str]) -> None:
    """All tables, wherever they stand in the query, and none of its own names."""
    assert tables_in(query) == names


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('x.csv')",
        "SELECT * FROM read_parquet(['x'])",
        "SELECT (SELECT count(*) FROM glob('/etc/*'))",
        "SELECT * FROM query('SELECT 1')",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE sales",
        "DELETE FROM sales",
        "INSERT INTO sales VALUES (1)",
        "CREATE TABLE x AS SELECT 1",
        "ATTACH 'x.db'",
        "COPY sales TO 'x'",
        "SET threads = 1",
        "INSTALL httpfs",
        "SELECT FROM WHERE",
        "",
    ],
)
def test_a_mart_is_one_select_of_tables(query: str) -> None:
    """Table functions, several statements and all that is no SELECT are refused with words."""
    with pytest.raises(ValueError, match=r"\w"):
        tables_in(query)


def test_variables_are_exact(engine: Engine) -> None:
    """Rates stay decimals of every digit, texts are texts whatever they hold."""
    values: dict[str, VariableValue] = {
        "rate": Decimal("0.0123456789012345678901"),
        "tiny": Decimal("1E-7"),
        "large": Decimal("1E+3"),
        "count": 7,
        "flag": True,
        "text": "it's '); DROP",
        "none": None,
        "as_of": datetime(2024, 4, 1, 10, 30, tzinfo=UTC),
    }
    engine.set_variables(values)
    for name in list(values)[:-1]:
        assert engine.rows(f"SELECT getvariable('{name}')") == [(values[name],)]
    assert engine.rows(
        "SELECT typeof(getvariable('rate')), CAST(getvariable('as_of') AS VARCHAR)"
    ) == [("DECIMAL(23,22)", "2024-04-01 10:30:00+00")]


def test_a_variables_value_of_a_day_is_exact(engine: Engine) -> None:
    """The first value counts from the beginning of time, each other one from its day on."""
    rates = ((date(2024, 1, 1), Decimal("0.010")), (date(2024, 3, 1), Decimal("0.0155")))
    engine.set_variables({"rate": ByDate(rates), "plain": Decimal("0.01"), "text": "it's"})
    days = "(VALUES ('0001-01-01'), ('2024-02-29'), ('2024-03-01'), ('9999-12-31'), (NULL)) t(day)"
    found = engine.rows(f"SELECT day, variable_on('Rate', CAST(day AS DATE)) FROM {days}")
    assert {str(day): rate for day, rate in found} == {
        "0001-01-01": Decimal("0.01"),
        "2024-02-29": Decimal("0.01"),
        "2024-03-01": Decimal("0.0155"),
        "9999-12-31": Decimal("0.0155"),
        "None": None,
    }
    plain = "SELECT variable_on('plain', DATE '2024-01-01'), variable_on('text', DATE '0001-01-01')"
    assert engine.rows(plain) == [(Decimal("0.01"), "it's")]
    engine.set_variables({"rate": Decimal("0.02")})
    assert engine.rows("SELECT variable_on('rate', DATE '2024-01-01')") == [(Decimal("0.02"),)]


def test_written_rows_read_back(engine: Engine, lake: Path) -> None:
    """What is written comes back with its types, counts and bounds."""
    query = (
        "SELECT i AS id, CAST(i AS DECIMAL(12,2)) / 1 AS f, CAST(i / 4 AS DECIMAL(12,2)) AS money,"
        " DATE '2024-01-01' + CAST(i AS INTEGER) AS day, 'n' || i AS name FROM range(5) t(i)"
    )
    written = engine.write(query, lake / "t", "b1-", ())
    (file,) = written.files
    assert (written.rows, file.rows) == (5, 5)
    assert file.path.startswith("b1-")
    assert file.size == (lake / "t" / file.path).stat().st_size
    assert (file.minimum["id"], file.maximum["id"], file.nulls["id"]) == (0, 4, 0)
    assert file.maximum["day"] == "2024-01-05"
    assert "money" not in file.minimum
    table = engine.define(state(lake / "t", written))
    assert table.fields == written.fields
    assert engine.rows(f"SELECT count(*), sum(money), max(name) FROM {table}") == [
        (5, Decimal("2.50"), "n4")
    ]


def test_a_row_of_another_month_fails_the_gate(engine: Engine, lake: Path) -> None:
    """A mart that returns rows of another month, or of none, leaves no file behind."""
    for value in ("'2024-02'", "NULL"):
        query = f"SELECT 1 AS id, CAST({value} AS VARCHAR) AS m FROM range(10)"
        for partitions in (("m",), ("m", "id")):
            with pytest.raises(GateFailed, match="2024-01"):
                engine.write_months(query, JANUARY, lake / "t", "b1-", partitions)
    assert list(lake.rglob("*.parquet")) == []


def test_months_and_inner_partitions(engine: Engine, lake: Path) -> None:
    """Within a month each store has its files, which say so in their partition values."""
    query = "SELECT i AS v, '2024-01' AS m, CAST(i % 3 AS INTEGER) AS store FROM range(9) t(i)"
    files = engine.write_months(query, JANUARY, lake / "t", "b1-", ("m", "store"))
    written = Written(engine.fields(query), files)
    assert sorted(str(file.partition["store"]) for file in written.files) == ["0", "1", "2"]
    assert {file.partition["m"] for file in written.files} == {"2024-01"}
    assert written.rows == 9
    table = engine.define(state(lake / "t", written, ("m", "store")))
    assert engine.rows(f"SELECT m, store, sum(v) FROM {table} GROUP BY ALL ORDER BY 2") == [
        ("2024-01", 0, 9),
        ("2024-01", 1, 12),
        ("2024-01", 2, 15),
    ]


def test_each_month_is_written_with_its_own_rows(engine: Engine, lake: Path) -> None:
    """Months come mixed: a file holds one of them, each row comes once, and files are few."""
    month = "'2024-' || lpad(CAST(i % 12 + 1 AS VARCHAR), 2, '0')"
    days = f"SELECT i AS v, {month} AS m FROM range(60000) t(i)"
    raw = state(lake / "raw", engine.write(days, lake / "raw", "b1-", ("m",)), ("m",))
    months = {month: {"raw": raw.in_months([month])} for month in sorted(raw.months)}
    query = "SELECT v, m, count(*) OVER () AS of_month FROM raw ORDER BY v"
    files = engine.write_months(query, months, lake / "t", "b2-", ("m",))
    fields = engine.fields(query, {"raw": engine.define(raw)})
    table = engine.define(state(lake / "t", Written(fields, files), ("m",)))
    found = engine.rows(
        f"SELECT m, count(*), count(DISTINCT v), min(v % 12), max(of_month) FROM {table} GROUP BY m"
    )
    assert sorted(found) == [(f"2024-{n + 1:02d}", 5000, 5000, n, 5000) for n in range(12)]
    strange = f"SELECT count(*) FROM {table} WHERE v % 12 + 1 <> CAST(right(m, 2) AS INT)"
    assert engine.rows(strange) == [(0,)]
    assert {file.partition["m"] for file in files} == set(months)
    assert len(files) < 50


@pytest.mark.parametrize("by_month", [True, False])
def test_any_text_can_be_a_partition(engine: Engine, lake: Path, by_month: bool) -> None:
    """Slashes, blanks, glob characters, percent signs and NULL in partition values read back."""
    texts = ["a/b", "x y", "ü₦", "[x]*?", "50%", "a=b", "it's", "%41", "..", "", None]
    rows = engine.values(pa.table({"k": texts, "n": list(range(len(texts)))}))
    query = f"SELECT n, '2024-01' AS m, k FROM {rows}"
    written = write(engine, query, lake / "t", ("m", "k"), by_month=by_month)
    assert written.rows == len(texts)
    table = engine.define(state(lake / "t", written, ("m", "k")))
    found = engine.rows(f"SELECT k FROM {table} ORDER BY n")
    assert [value for (value,) in found] == texts


@pytest.mark.parametrize("by_month", [True, False])
def test_a_value_too_long_for_a_folder_is_told(engine: Engine, lake: Path, by_month: bool) -> None:
    """No file system takes it, so its user hears of it instead of seeing a traceback."""
    query = f"SELECT 1 AS n, '2024-01' AS m, '{'x' * 300}' AS k"
    with pytest.raises(RetailmartError, match="too long"):
        write(engine, query, lake / "t", ("m", "k"), by_month=by_month)


def test_rows_without_month_are_left_out(engine: Engine, lake: Path) -> None:
    """Rows that lie in no month are counted and are in no file."""
    query = (
        "SELECT i AS v, CASE WHEN i < 2 THEN NULL ELSE '2024-0' || (i % 2 + 1) END AS m"
        " FROM range(10) t(i)"
    )
    written = engine.write(query, lake / "t", "b1-", ("m",))
    assert (written.rows, written.left_out) == (8, 2)
    assert {file.partition["m"] for file in written.files} == {"2024-01", "2024-02"}
    on_disk = {path.relative_to(lake / "t").as_posix() for path in lake.rglob("*.parquet")}
    assert on_disk == {file.path for file in written.files}


@pytest.mark.spark
@pytest.mark.usefixtures("spark_session")
@pytest.mark.parametrize(
    "cut", [Cut(by_files="t"), Cut(by_columns=("k",), tables=frozenset({"t"}))]
)
def test_a_large_month_is_divided_between_tasks(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: Cut
) -> None:
    """Where a cut is allowed, a month that is larger than others is several tasks' work."""
    monkeypatch.setattr("retailmart.engines.spark.sharing.LEAST_OF_TABLES", 1000)
    settings = Settings(engine="spark", spark=SparkSettings(driver_reads="0MB"))
    with closing(open_engine(settings, [LocalPlace(lake)], tmp_path / "scratch")) as engine:
        parts: list[DataFile] = []
        for number in range(8):
            query = f"SELECT i AS v, i % 7 AS k FROM range({number}, 40000, 8) r(i)"
            parts += engine.write(query, lake / "t", f"b{number}-", ()).files
        fields = engine.fields("SELECT 1::BIGINT AS v, 1::BIGINT AS k")
        table = TableState(str(lake / "t"), fields, (), tuple(parts))
        small = table.only(table.files[:1])
        query = "SELECT v, k, '2024-0' || (CASE WHEN s.n = 8 THEN 1 ELSE 2 END) AS m FROM t, s"
        months = {
            month: {"t": rows, "s": _number(engine, lake, len(rows.files))}
            for month, rows in (("2024-01", table), ("2024-02", small))
        }
        files = engine.write_months(query, months, lake / "m", "b1-", ("m",), cut=cut)
        large = [file for file in files if file.partition["m"] == "2024-01"]
        assert len({re.search(r"t[0-9]{5}x", file.path)[0] for file in large}) > 1  # type: ignore[index]
        made = TableState(str(lake / "m"), engine.fields(QUERY_OF_M), ("m",), files)
        rows = f"SELECT m, count(*), count(DISTINCT v), sum(v) FROM {engine.define(made)}"
        assert engine.rows(f"{rows} GROUP BY 1 ORDER BY 1") == [
            ("2024-01", 40_000, 40_000, 799_980_000),
            ("2024-02", 5_000, 5_000, 99_980_000),
        ]


QUERY_OF_M = "SELECT 1::BIGINT AS v, 1::BIGINT AS k, '' AS m"


def _number(engine: Engine, lake: Path, number: int) -> TableState:
    """A table of one row with a number, and the column by which months are cut."""
    written = engine.write(f"SELECT {number} AS n", lake / f"n{number}", "b1-", ())
    return state(lake / f"n{number}", written)


def test_a_failing_write_leaves_no_file(engine: Engine, lake: Path) -> None:
    """An error in the middle of the rows takes what was begun with it, and nothing older."""
    kept = engine.write("SELECT 1 AS v, 'a' AS m", lake / "t", "b1-", ("m",))
    bad = "CASE WHEN i = 199999 THEN error('no') ELSE i END AS v, CAST(i % 3 AS VARCHAR) AS m"
    for partitions in ((), ("m",)):
        with pytest.raises(RetailmartError, match="no"):
            engine.write(f"SELECT {bad} FROM range(200000) t(i)", lake / "t", "b2-", partitions)
    left = [path.relative_to(lake / "t").as_posix() for path in lake.rglob("*.parquet")]
    assert left == [file.path for file in kept.files]


def test_no_rows_are_no_file(engine: Engine, lake: Path) -> None:
    """An empty result has fields and no file, and reads as an empty table."""
    query = "SELECT CAST(1 AS DECIMAL(12,2)) AS money, '2024-01' AS m WHERE false"
    for partitions, by_month in (((), False), (("m",), False), (("m",), True)):
        written = write(engine, query, lake / "t", partitions, by_month=by_month)
        assert (written.files, written.rows) == ((), 0)
        assert [str(field.type) for field in written.fields] == ["DECIMAL(12,2)", "STRING"]
        table = engine.define(state(lake / "t", written, partitions))
        assert engine.rows(f"SELECT count(*), sum(money) FROM {table}") == [(0, None)]
    assert list(lake.rglob("*.parquet")) == []


def test_a_relation_is_found_by_nobody_elses_name(engine: Engine, lake: Path) -> None:
    """Two relations never meet, nor does one meet a table of a user's query."""
    one, two = (engine.values(pa.table({"v": [number]})) for number in (1, 2))
    three = engine.query(f"SELECT v FROM {one} UNION ALL SELECT v FROM {two}")
    assert len({str(one), str(two), str(three)}) == 3
    assert engine.rows(f"SELECT v FROM {three} ORDER BY v") == [(1,), (2,)]
    assert three.fields == (Field("v", parse_type("BIGINT")),)


def test_a_users_query_reads_what_its_names_mean(engine: Engine, lake: Path) -> None:
    """The same name can mean another relation in the next query."""
    small, large = (engine.values(pa.table({"v": list(range(count))})) for count in (2, 5))
    query = "SELECT count(*) AS n FROM sales"
    for rows, count in ((small, 2), (large, 5), (small, 2)):
        assert engine.fields(query, {"sales": rows}) == (Field("n", parse_type("BIGINT")),)
        written = engine.write(query, lake / f"t{count}", "b1-", (), {"sales": rows})
        table = engine.define(state(lake / f"t{count}", written))
        assert engine.rows(f"FROM {table}") == [(count,)]


def test_months_have_tables_of_their_own_and_common_ones(engine: Engine, lake: Path) -> None:
    """A month's name goes before the common one; what only a month has is that month's."""
    days = "SELECT i AS v, '2024-0' || (i % 2 + 1) AS m FROM range(10) t(i)"
    raw = state(lake / "raw", engine.write(days, lake / "raw", "b1-", ("m",)), ("m",))
    months = {month: {"raw": raw.in_months([month])} for month in sorted(raw.months)}
    common = {"factor": engine.values(pa.table({"f": [10]}))}
    query = "SELECT sum(v * f) AS total, m FROM raw, factor GROUP BY m"
    files = engine.write_months(query, months, lake / "t", "b2-", ("m",), common)
    fields = engine.fields(query, {**common, "raw": engine.define(raw)})
    table = engine.define(state(lake / "t", Written(fields, files), ("m",)))
    assert engine.rows(f"SELECT m, total FROM {table} ORDER BY m") == [
        ("2024-01", 200),
        ("2024-02", 250),
    ]


@dataclass(frozen=True)
class Twice:
    """Writes a number and its double, as one row."""

    root: Path

    def __call__(self, engine: Engine, number: int) -> Written:
        row = engine.values(pa.table({"n": [number], "twice": [2 * number]}))
        return engine.write(f"SELECT * FROM {row}", self.root, f"{number:04d}-", ())


def test_work_is_spread_and_its_files_are_there(engine: Engine) -> None:
    """Results come in the order of the items, and all of what was written can be read."""
    root = engine.exchange()
    written = engine.spread(Twice(root), range(5), [1] * 5)
    assert [one.rows for one in written] == [1] * 5
    files = tuple(file for one in written for file in one.files)
    table = engine.define(TableState(str(root), written[0].fields, (), files))
    expected = [(number, 2 * number) for number in range(5)]
    assert engine.rows(f"SELECT n, twice FROM {table} ORDER BY n") == expected


def test_rows_in_memory_can_be_forgotten(engine: Engine) -> None:
    """What was read from memory once is not held there until the engine is closed."""
    values = engine.values(pa.table({"n": [1]}))
    query = f"SELECT n FROM {values}"
    assert engine.rows(query) == [(1,)]
    engine.forget(values)
    with pytest.raises(RetailmartError, match="does not exist"):
        engine.rows(query)


def test_types_that_tables_lack_are_named(engine: Engine) -> None:
    """A list or an interval in a mart is an error with the column and what to do."""
    with pytest.raises(RetailmartError, match="column 'l' is of type") as caught:
        engine.fields("SELECT [1, 2] AS l")
    assert "CAST" in str(caught.value)
    assert engine.fields("SELECT sum(i) AS s, NULL AS n FROM range(3) t(i)") == (
        Field("s", parse_type("BIGINT")),
        Field("n", parse_type("STRING")),
    )


@pytest.mark.parametrize(
    "name",
    [
        'it\'s "x"',
        "a{b,c}",
        "ü #1 %41",
        "my [shop]",
        "a*b?",
    ],
)
def test_any_folder_can_hold_the_lake(opened: Opened, tmp_path: Path, name: str) -> None:
    """Glob characters and quotes in the project's path name just that folder."""
    lake, private = tmp_path / name / "lake", tmp_path / name / "private"
    private.mkdir(parents=True)
    engine = opened(lake, private)
    (private / "f.csv").write_text("h\n1\n2\n")
    rows = engine.records({5: private / "f.csv"}, CsvShape(1, ",", quoted=False))
    assert sorted(engine.rows(f"FROM {rows}")) == [("1", 5), ("2", 5)]
    written = engine.write("SELECT 1 AS v, 'a' AS k", lake / "t", "b1-", ("k",))
    table = engine.define(state(lake / "t", written, ("k",)))
    assert engine.rows(f"FROM {table}") == [(1, "a")]


def test_a_csv_is_taken_as_it_stands(engine: Engine, tmp_path: Path) -> None:
    """Cells are texts with blanks and empties kept, each row knows its file and number."""
    private = tmp_path / "private"
    private.mkdir(exist_ok=True)
    (private / "a.csv").write_text('x,y\n 1 ,NULL\n"a,""b",\n')
    (private / "b.csv").write_text("x,y\n007,1e400\n")
    shape = CsvShape(2, ",", quoted=True)
    files = {3: private / "a.csv", 9: private / "b.csv"}
    assert sorted(engine.rows(f"SELECT _file_id, c0, c1 FROM {engine.records(files, shape)}")) == [
        (3, " 1 ", "NULL"),
        (3, 'a,"b', ""),
        (9, "007", "1e400"),
    ]
    numbered = engine.records({3: private / "a.csv"}, shape, numbered=True)
    assert engine.rows(f"SELECT _row, c0 FROM {numbered} ORDER BY 1") == [(1, " 1 "), (2, 'a,"b')]


def test_a_ragged_csv_is_told(engine: Engine, tmp_path: Path) -> None:
    """A row of another width is CsvBroken, never padded or dropped."""
    private = tmp_path / "private"
    private.mkdir(exist_ok=True)
    (private / "a.csv").write_text("x,y\n1,2\n3\n")
    rows = engine.records({1: private / "a.csv"}, CsvShape(2, ",", quoted=False))
    with pytest.raises(CsvBroken):
        engine.rows(f"SELECT count(c1) FROM {rows}")
