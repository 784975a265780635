"""functions.py: read without running it, called by marts, and told where it goes wrong."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from retailmart.engines import Engine
from retailmart.engines.duckdb.sql import sql_type
from retailmart.engines.registry import open_engine
from retailmart.errors import RetailmartError, SettingsError
from retailmart.operations.check import check_definitions
from retailmart.project import load_project
from retailmart.project.functions import Functions, read_functions
from retailmart.project.settings import Settings
from retailmart.project.types import parse_type
from tests.support.pages import blocks
from tests.support.shop import AS_OF, Shop, all_marts, sale

GOOD = """\
import pyarrow.compute as pc
from decimal import Decimal

_STEP = 3

def points(total: "DECIMAL(18,2)", visits: "INT") -> "INT":
    return pc.add(_whole(total), pc.multiply(visits, _STEP))

def _whole(total):
    return pc.cast(pc.floor(total), "int32")

def shout(word: "STRING") -> "STRING":
    return pc.utf8_upper(word)
"""
MART = """\
-- refresh: full
-- key: [customer_id]
-- publish: true
SELECT customer_id, Points(CAST(sum(total_cost) AS DECIMAL(18, 2)), 1) AS points
FROM sales
GROUP BY customer_id
"""


def read(
    tmp_path: Path, text: str | bytes, taken: Mapping[str, str] | None = None
) -> tuple[Functions, list[str]]:
    """A functions.py read, and its mistakes."""
    content = text.encode() if isinstance(text, str) else text
    (tmp_path / "functions.py").write_bytes(content)
    problems: list[str] = []
    return read_functions(tmp_path, taken or {}, problems), problems


def digests(tmp_path: Path, text: str) -> dict[str, str]:
    """The source digest of each function."""
    functions, problems = read(tmp_path, text)
    assert problems == []
    return {name: function.source_digest for name, function in functions.defined.items()}


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=pytest.mark.spark)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine, without a table."""
    if request.param == "spark":
        request.getfixturevalue("spark_session")
    settings = Settings(engine=request.param, threads=2)
    with closing(open_engine(settings, [], tmp_path / "private")) as opened:
        yield opened


def add(engine: Engine, tmp_path: Path, text: str) -> None:
    """Give the engine the functions of a text."""
    functions, problems = read(
        tmp_path, f"import pyarrow as pa\nimport pyarrow.compute as pc\n{text}"
    )
    assert problems == []
    engine.add_functions(functions)


def test_functions_are_read_without_running_the_file(tmp_path: Path) -> None:
    """Names, types and lines come from the text; a file that would stop the program is read."""
    functions, problems = read(tmp_path, GOOD + "\nraise SystemExit('was run')\n")
    assert problems == []
    assert list(functions.defined) == ["points", "shout"]
    points = functions.defined["points"]
    assert points.parameters == (parse_type("DECIMAL(18,2)"), parse_type("INT"))
    assert (points.returns, points.line) == (parse_type("INT"), 6)


def test_a_project_without_the_file_has_no_functions(tmp_path: Path) -> None:
    """Nothing is read, imported or asked for."""
    problems: list[str] = []
    functions = read_functions(tmp_path, {}, problems)
    assert (functions.defined, functions.load(), problems) == ({}, {}, [])
    assert functions.used_in("SELECT points(1)") == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('def f(a, b: "INT") -> "INT": ...', ["1: f: the parameter 'a' has no type"]),
        ('def f(a: "INT"): ...', ["1: f: what it returns has no type", "or call it _f"]),
        ('\n\ndef f(a: INT) -> "INT": ...', ["3: f: the parameter 'a' has the type INT; write it"]),
        ('def f(a: "INTT") -> "INT": ...', ["1: f: the parameter 'a' has no known", "'INT'?"]),
        ('def f(a: "INT") -> "MONEY": ...', ["1: f: what it returns has no known type: 'MONEY'"]),
        ('def f(\n    a: "INT",\n    b: "?",\n) -> "INT": ...', ["3: f: the parameter 'b' has no"]),
        ('def f(*a: "INT") -> "INT": ...', ["1: f: takes its parameters by place", "no parameter"]),
        ('def f(a: "INT" = 1) -> "INT": ...', ["1: f: takes its parameters by place"]),
        ('def f(a: "INT", *, b: "INT") -> "INT": ...', ["1: f: takes its parameters by place"]),
        ('def f() -> "INT": ...', ["1: f: has no parameter"]),
        ('async def f(a: "INT") -> "INT": ...', ["1: f: is async"]),
        ('def sales(a: "INT") -> "INT": ...', ["1: sales: feeds/sales.yml has this name too"]),
        ('def Sales(a: "INT") -> "INT": ...', ["1: Sales: feeds/sales.yml has this name too"]),
        ('def größe(a: "INT") -> "INT": ...', ["1: größe: a function is named with letters"]),
        (
            'def f(a: "INT") -> "INT": ...\ndef F(a: "INT") -> "INT": ...',
            ["2: F: is defined in line 1 already"],
        ),
        ("def f(a:\n", ["1: '(' was never closed"]),
        ("x = 1\n  y = 2\n", ["2: unexpected indent"]),
        ("\nreturn 5\n", ["2: 'return' outside function"]),
        (b"x = '\xff'\n", ["1: "]),
        (b"x = '\x00'\n", ["functions.py:"]),
        ("(" * 5000 + ")" * 5000, ["functions.py:"]),
    ],
)
def test_each_mistake_has_its_line(tmp_path: Path, text: str | bytes, told: list[str]) -> None:
    """What keeps a function from SQL is told with file, line and fix, before anything runs."""
    functions, problems = read(tmp_path, text, {"sales": "feeds/sales.yml"})
    shown = "\n".join(problems)
    assert all(problem.startswith("functions.py:") for problem in problems)
    assert [words for words in told if words not in shown] == []
    assert list(functions.defined) in ([], ["f"])


@all_marts
def test_mistakes_of_functions_are_told_with_all_others(shop: Shop) -> None:
    """A wrong type, a mart's name and a mistake in the settings come in one list."""
    (shop.folder / "functions.py").write_text(
        'def sales_mart(a: "INT") -> "INT": ...\ndef f(a) -> "INT": ...\n'
    )
    with (shop.folder / "retailmart.yml").open("a") as settings:
        settings.write("variables: {unknown_rate: 1}\n")
    with pytest.raises(SettingsError) as caught:
        load_project(shop.folder)
    told = "\n".join(caught.value.problems)
    assert "functions.py:1: sales_mart: marts/sales_mart.sql has this name too" in told
    assert "functions.py:2: f: the parameter 'a' has no type" in told
    assert "unknown_rate" in told


def test_a_digest_is_of_what_a_function_uses(tmp_path: Path) -> None:
    """Its text, its helpers, constants and imports count; comments and other functions don't."""
    before = digests(tmp_path, GOOD)
    for old, new, changed in [
        ("_STEP = 3", "_STEP = 4", {"points"}),
        ("_STEP = 3", "_STEP = 3  # why\n\n", set()),
        ("pc.floor(total)", "pc.ceil(total)", {"points"}),
        ("pc.utf8_upper", "pc.utf8_lower", {"shout"}),
        ('"STRING":', '"INT":', {"shout"}),
        ("import pyarrow.compute as pc", "import numpy as pc", {"points", "shout"}),
        ("from decimal import Decimal", "from fractions import Decimal", set()),
        ("_STEP = 3", "_STEP = 3; _OTHER = 1", set()),
        ("_STEP = 3", "_STEP = 3; _STEP = 4", {"points"}),
        ("_STEP = 3", "_STEP = 3\nif True:\n    pc = None", {"points", "shout"}),
    ]:
        assert old in GOOD
        after = digests(tmp_path, GOOD.replace(old, new))
        assert {name for name in before if before[name] != after[name]} == changed, new


@pytest.mark.parametrize(
    ("query", "used"),
    [
        ("SELECT points(a, 1) FROM t", ["points"]),
        ("SELECT POINTS (a), shout('x')", ["points", "shout"]),
        ('SELECT "points" /* why */ (a)', ["points"]),
        ("SELECT a.shout()", ["shout"]),
        ("SELECT pointsof(a), my_points(b) FROM t", []),
    ],
)
def test_a_query_tells_what_it_may_call(tmp_path: Path, query: str, used: list[str]) -> None:
    """Whatever letter case, quotes or comments a call is written with."""
    functions, _ = read(tmp_path, GOOD)
    assert list(functions.used_in(query)) == used


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("INT", "-7"),
        ("BIGINT", "5000000000"),
        ("STRING", "'ü₦'"),
        ("DATE", "DATE '2024-02-29'"),
        ("TIMESTAMP", "TIMESTAMPTZ '2024-02-29 12:30:00.000001+00'"),
        ("BOOLEAN", "true"),
        ("DOUBLE", "0.1"),
        ("DECIMAL(38,10)", "1234567890123456789012345678.0000000001"),
    ],
)
def test_every_type_goes_through_a_function_unchanged(
    engine: Engine, tmp_path: Path, kind: str, value: str
) -> None:
    """Values and NULLs come back as they went in."""
    add(engine, tmp_path, f"def same(a: '{kind}') -> '{kind}':\n    return a\n")
    values = f"(VALUES (CAST({value} AS {sql_type(parse_type(kind))})), (NULL)) t(v)"
    query = f"SELECT v, same(v) FROM {values} ORDER BY v"
    rows = engine.rows(query)
    assert len(rows) == 2
    assert all(went == came for went, came in rows)
    assert rows[1] == (None, None)


def test_nulls_are_seen(engine: Engine, tmp_path: Path) -> None:
    """A function can give NULL a meaning."""
    add(engine, tmp_path, "def known(a: 'INT') -> 'BOOLEAN':\n    return pc.is_valid(a)\n")
    assert engine.rows("SELECT known(NULL), known(1)") == [(False, True)]


def test_what_fits_is_cast_to_the_declared_type(engine: Engine, tmp_path: Path) -> None:
    """Other widths, dictionaries and whole numbers for money are taken, exactly."""
    add(
        engine,
        tmp_path,
        "def money(a: 'BIGINT') -> 'DECIMAL(18,2)':\n    return a\n"
        "def narrow(a: 'BIGINT') -> 'INT':\n    return a\n"
        "def word(a: 'STRING') -> 'STRING':\n    return a.cast(pa.large_string())\n"
        "def nothing(a: 'INT') -> 'DATE':\n    return pa.nulls(len(a))\n"
        "def wide(a: 'DECIMAL(18,2)') -> 'DECIMAL(38,4)':\n    return pc.multiply(a, 2)\n",
    )
    query = "SELECT money(5) AS m, narrow(7), word('x'), nothing(1), wide(1.25)"
    assert engine.rows(query) == [(Decimal("5.00"), 7, "x", None, Decimal("2.5000"))]
    assert str(engine.fields("SELECT money(5) AS m")[0].type) == "DECIMAL(18,2)"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return a.slice(0, 1)", "functions.py:3: f gave 1 values for 3 rows"),
        ("return pa.concat_arrays([*a.chunks, *a.chunks])", "gave 6 values for 3 rows"),
        ("return pc.sum(a)", "functions.py:3: f gave Int64Scalar, no pyarrow Array"),
        ("return a.to_pylist()", "gave list, no pyarrow Array"),
        ("return None", "gave NoneType, no pyarrow Array"),
        ("return pc.cast(a, 'string').cast('double')", "money never passes through a float"),
        ("return pc.utf8_upper(pc.cast(a, 'string')) if 0 else pa.array(['x'] * 3)", "gave string"),
        ("return pc.multiply(pc.cast(a, 'int64'), 10**17)", "gave int64, not the DECIMAL(18,2)"),
        ("return pc.divide(a, 0)", "functions.py:4: f: ArrowInvalid: divide by zero"),
        ("return _helper(a)", "functions.py:6: f: ValueError: in the helper"),
        ("raise SystemExit(7)", "functions.py:4: f: SystemExit: 7"),
        ("raise KeyError", "functions.py:4: f: KeyError"),
        ("raise ValueError('one\\ntwo')", "functions.py:4: f: ValueError: one"),
    ],
)
def test_what_goes_wrong_names_the_function_and_its_line(
    engine: Engine, tmp_path: Path, body: str, told: str
) -> None:
    """A wrong length, type or an error is one sentence, by every way a query is run."""
    add(
        engine,
        tmp_path,
        f"def f(a: 'INT') -> 'DECIMAL(18,2)':\n    {body}\n"
        "def _helper(a):\n    raise ValueError('in the helper')\n",
    )
    query = "SELECT f(CAST(i + 1 AS INTEGER)) AS f FROM range(3) t(i)"
    with pytest.raises(RetailmartError) as caught:
        engine.rows(query)
    assert told in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(RetailmartError) as again, closing(engine.batches(query, 10)) as batches:
        list(batches)
    assert again.value.message == caught.value.message
    with pytest.raises(RetailmartError):
        engine.write(query, tmp_path / "t", "b1-", ())
    assert engine.rows("SELECT 1") == [(1,)]


def test_what_goes_wrong_late_is_told_alike(engine: Engine, tmp_path: Path) -> None:
    """A value in the middle of a stream that has begun is the function's error, too."""
    body = "    if pc.max(a).as_py() > 900000:\n        raise ValueError('too far')\n    return a\n"
    add(engine, tmp_path, f"def f(a: 'BIGINT') -> 'BIGINT':\n{body}")
    told = pytest.raises(RetailmartError, match=r"^functions.py:5: f: ValueError: too far")
    query = "SELECT f(i) FROM range(1000000) t(i)"
    with told, closing(engine.batches(query, 1000)) as batches:
        list(batches)


@pytest.mark.parametrize(
    "name",
    [
        "lower",
        "sum",
        "LEFT",
        "trim",
        "coalesce",
        "nullif",
        "ifnull",
        "row_number",
        "select",
        "order",
        "cast",
        "date",
        "unnest",
        "read_csv",
        "getvariable",
        "current_date",
    ],
)
def test_a_word_of_sql_is_no_name(engine: Engine, tmp_path: Path, name: str) -> None:
    """Built-in functions, aggregates, macros and syntax keep their meaning."""
    with pytest.raises(SettingsError, match=rf"functions.py:3: {name} is a word of SQL's own"):
        add(engine, tmp_path, f"def {name}(a: 'INT') -> 'INT':\n    return a\n")


def test_functions_are_called_from_several_threads(engine: Engine, tmp_path: Path) -> None:
    """Queries that run at the same time call the same function, and none sees another's rows."""
    add(engine, tmp_path, "def twice(a: 'BIGINT') -> 'BIGINT':\n    return pc.multiply(a, 2)\n")
    found: dict[int, int] = {}

    def look(number: int) -> None:
        query = f"SELECT twice(i + {number}) FROM range(200000) t(i)"
        with closing(engine.batches(query, 10_000)) as batches:
            found[number] = sum(sum(batch.column(0).to_pylist()) for batch in batches)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(range(200_000))
    assert found == {number: 2 * (total + 200_000 * number) for number in range(4)}


@pytest.mark.parametrize(
    ("text", "told", "fix"),
    [
        (
            "x = 1\nimport nowhere_to_be_found\n",
            "2: ModuleNotFoundError: No module",
            "Install nowh",
        ),
        ("def _f():\n    return 1 / 0\n_f()\n", "2: ZeroDivisionError: division", "Correct"),
        ("raise SystemExit\n", "1: SystemExit", "Correct"),
        ("f = 5\n", ": f is no function any more", "Correct"),
    ],
)
def test_an_import_that_fails_is_told_with_its_line(
    shop: Shop, text: str, told: str, fix: str
) -> None:
    """The project opens; check and a run tell what the import says, and nothing is lost."""
    defined = 'def f(a: "INT") -> "INT":\n    return a\n'
    path = shop.folder / "functions.py"
    path.write_text(defined + text if text.startswith("f =") else text + defined)
    project = load_project(shop.folder)
    with pytest.raises(SettingsError) as caught:
        check_definitions(project)
    (problem,) = caught.value.problems
    assert problem.startswith("functions.py:")
    assert told in problem
    assert str(caught.value.hint).startswith(fix)
    shop.sales("sales_a.csv", [sale()])
    with pytest.raises(SettingsError) as in_run:
        shop.run()
    assert in_run.value.problems == caught.value.problems
    path.write_text(defined)
    check_definitions(load_project(shop.folder))
    assert shop.run().rows("loaded") == 1


def test_a_name_of_sql_is_told_by_check(shop: Shop) -> None:
    """It takes an engine to know all names of SQL: check asks it."""
    (shop.folder / "functions.py").write_text('\ndef lower(a: "INT") -> "INT":\n    return a\n')
    with pytest.raises(SettingsError, match=r"functions.py:2: lower is a word of SQL's own"):
        check_definitions(load_project(shop.folder))


def test_looking_at_a_project_does_not_run_its_functions(shop: Shop) -> None:
    """Opening it and a run with nothing to do leave the file alone; building imports it."""
    shop.run()
    ran = shop.folder / "ran"
    touch = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"
    (shop.folder / "functions.py").write_text(touch + GOOD)
    opened = shop.open()
    with opened.ledger() as ledger:
        ledger.runs.last(1)
    shop.run()
    assert not ran.exists()
    shop.sales("sales_a.csv", [sale()])
    shop.run()
    assert ran.exists()
    assert list(shop.folder.rglob("__pycache__")) == []


def built(shop: Shop) -> set[str]:
    """Run, and tell which marts were built."""
    return {line.name for batch in shop.run().batches for line in batch.marts}


@pytest.mark.every_engine
def test_a_mart_is_built_anew_when_its_function_changes(shop: Shop) -> None:
    """What the function uses counts; the marts that don't call it are left alone."""
    path = shop.folder / "functions.py"
    path.write_text(GOOD)
    (shop.folder / "marts" / "loyalty.sql").write_text(MART)
    shop.sales("sales_a.csv", [sale(price="10.50"), sale(2, price="0.99")])
    assert "loyalty" in built(shop)
    assert shop.published("loyalty", "customer_id, points") == [(1, 13), (2, 3)]
    path.write_text(GOOD.replace("import Decimal", "import Decimal  # unused\n"))
    assert built(shop) == set()
    path.write_text(GOOD.replace("utf8_upper", "utf8_lower"))
    assert built(shop) == set()
    path.write_text(GOOD.replace("_STEP = 3", "_STEP = 5"))
    assert built(shop) == {"loyalty"}
    assert shop.published("loyalty", "customer_id, points") == [(1, 15), (2, 5)]
    assert built(shop) == set()


@pytest.mark.every_engine
def test_an_error_in_a_mart_s_function_names_both(shop: Shop) -> None:
    """The mart's place, the function's line, its words; the mart is held back until it is good."""
    path = shop.folder / "functions.py"
    path.write_text(GOOD.replace("return pc.add(", "raise ValueError('no points')\n    pc.add("))
    (shop.folder / "marts" / "loyalty.sql").write_text(MART)
    shop.sales("sales_a.csv", [sale()])
    held = {one.mart: one for one in shop.run().held}
    told = "marts/loyalty.sql:4: functions.py:7: points: ValueError: no points"
    assert held["loyalty"].message == told
    assert held["loyalty"].hint == "Correct functions.py and run again"
    path.write_text(GOOD)
    shop.run()
    assert shop.published("loyalty", "customer_id, points") == [(1, 13)]


def test_an_edit_while_a_run_is_on_is_taken_by_the_next(shop: Shop) -> None:
    """What was read is what is run: a mart is known by the text that made it."""
    path = shop.folder / "functions.py"
    path.write_text(GOOD)
    (shop.folder / "marts" / "loyalty.sql").write_text(MART)
    shop.sales("sales_a.csv", [sale()])
    opened = shop.open()
    path.write_text(GOOD.replace("_STEP = 3", "_STEP = 5"))
    opened.run(AS_OF)
    assert shop.published("loyalty", "points") == [(13,)]
    assert built(shop) == {"loyalty"}
    assert shop.published("loyalty", "points") == [(15,)]


def test_classes_of_the_file_find_their_module(engine: Engine, tmp_path: Path) -> None:
    """A dataclass with postponed types works as in any module."""
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass _Rate:\n    value: int\n"
        "def f(a: 'INT') -> 'INT':\n    import pyarrow.compute as pc\n"
        "    return pc.multiply(a, _Rate(3).value)\n"
    )
    functions, problems = read(tmp_path, text)
    assert problems == []
    engine.add_functions(functions)
    assert engine.rows("SELECT f(2)") == [(6,)]
    assert "retailmart_functions" in sys.modules


@pytest.mark.every_engine
def test_the_functions_of_the_docs_work(shop: Shop) -> None:
    """The Python and SQL of docs/functions.md make the mart that the page describes."""
    (code,) = blocks("docs/functions.md", "python")
    (mart,) = blocks("docs/functions.md", "sql")
    (shop.folder / "functions.py").write_text(code, encoding="utf-8")
    (shop.folder / "marts" / "loyalty.sql").write_text(mart, encoding="utf-8")
    shop.sales("sales_a.csv", [*[sale(price="10.50")] * 3, sale(2, price="7.99")])
    check_definitions(load_project(shop.folder))
    shop.run()
    found: list[tuple[Any, ...]] = shop.published("loyalty", "customer_id, points")
    assert found == [(1, 62), (2, 7)]
