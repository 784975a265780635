"""The words of a query, and the variables it reads, through any spelling."""

from __future__ import annotations

import pytest

from retailmart.project.lexer import takes_all_columns, variables_of, words_of


@pytest.mark.parametrize(
    "query",
    [
        "SELECT getvariable('rate')",
        "SELECT GetVariable ( 'RATE' )",
        "SELECT \"getvariable\"(/* which? */ 'rate' -- this one\n)",
        "SELECT getvariable(E'rate'), main.getvariable($$rate$$), getvariable($q$rate$q$)",
        "SELECT '--' || getvariable('rate') || 'it''s /* none'",
        "SELECT 1 /* a /* nested */ one */ + getvariable('rate')",
    ],
)
def test_a_variable_is_found_however_it_is_written(query: str) -> None:
    """Letter case, quotes, blanks and comments make no difference to the engine."""
    assert variables_of(query) == {"rate"}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 -- getvariable('rate')",
        "SELECT 1 /* getvariable('rate') */",
        "SELECT 'getvariable(''rate'')'",
        "SELECT $$ getvariable('rate') $$",
        "SELECT \"getvariable('rate')\"",
        "SELECT my_getvariable('rate'), getvariable(rate)",
    ],
)
def test_a_variable_in_a_comment_or_text_is_not_read(query: str) -> None:
    """It would bind a mart to what it does not show."""
    assert variables_of(query) == frozenset()


def test_the_words_of_a_query() -> None:
    """Names in quotes count, comments and texts do not."""
    query = "SELECT \"First Name\", 'store' /* product */ FROM Customer -- sales"
    assert words_of(query) == {"select", "first name", "from", "customer"}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM a",
        "SELECT DISTINCT * FROM a",
        "SELECT a.x, * EXCLUDE (y) FROM a",
        "SELECT DISTINCT ON (x) * FROM a",
        "SELECT b.* FROM a JOIN b USING (x)",
        "SELECT COLUMNS('x.*') FROM a",
        "SELECT x FROM a NATURAL JOIN b",
        "FROM a",
        "/* all */ FROM a WHERE x > 1",
        "SELECT x FROM (FROM a)",
        "SELECT x FROM b UNION ALL FROM a",
        "WITH b AS (SELECT x FROM a) FROM b",
        "SELECT x FROM (PIVOT a ON y USING sum(z))",
    ],
)
def test_what_takes_all_columns(query: str) -> None:
    """A star, a join by all common columns, and FROM where no SELECT chooses among them."""
    assert takes_all_columns(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT x FROM a -- SELECT *",
        "SELECT '* FROM a', x /* , * */ FROM a",
        "SELECT count(*), x * y, sum(x) * 2, 2 * (x + 1) FROM a GROUP BY x, y",
        "SELECT x FROM a WHERE (x IS DISTINCT FROM 1) AND y * x > 2",
        "SELECT extract(year FROM x), trim(BOTH ' ' FROM y), substring(z FROM 2) FROM a",
        "WITH b AS (SELECT x FROM a) SELECT (SELECT max(x) FROM b) AS x FROM a",
        "SELECT x FROM a UNION ALL (SELECT y FROM b) EXCEPT SELECT z FROM c",
    ],
)
def test_what_names_its_columns(query: str) -> None:
    """A product, a count, and what stands in a comment or a text take no column more."""
    assert not takes_all_columns(query)
