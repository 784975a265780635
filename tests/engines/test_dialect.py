"""DuckDB's SQL told in Spark's gives DuckDB's values, expression by expression, on both engines."""

# ruff: noqa: E501 a query of the lists below is a line
from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retailmart.engines import PLAIN, VariableValue
from retailmart.engines.duckdb import literal, sql_type
from retailmart.engines.spark.dialect import to_spark
from retailmart.errors import RetailmartError
from retailmart.project.types import parse_type
from retailmart.steps.casts import attempt, typed
from retailmart.tables import Field, quoted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark

VARIABLES: dict[str, VariableValue] = {
    "as_of": datetime(2024, 4, 1, 12, 30, tzinfo=UTC),
    "rate": Decimal("0.015"),
    "few": 4,
    "large": 12345678901,
    "scope": "sto're",
    "flag": True,
    "nothing": None,
}
COLUMNS = {
    "id": "INT",
    "g": "INT",
    "i": "INT",
    "j": "INT",
    "l": "BIGINT",
    "d2": "DECIMAL(18,2)",
    "d4": "DECIMAL(18,4)",
    "wide": "DECIMAL(38,10)",
    "f": "DOUBLE",
    "s": "STRING",
    "u": "STRING",
    "n": "STRING",
    "day": "DATE",
    "ts": "TIMESTAMP",
    "b": "BOOLEAN",
    "a b": "INT",
    "ä`x": "STRING",
}


def moment(*parts: int) -> datetime:
    """A time in UTC."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


D = Decimal
INF, NAN = float("inf"), float("nan")
ROWS: list[tuple[Any, ...]] = [
    (1, 1, 7, 2, 7, D("1.50"), D("1.0050"), D("1.0000000001"), 1.5, "abc", "äöü", "7",
     date(2024, 2, 29), moment(2024, 2, 29, 23, 59, 59, 999999), True, 1, "x"),
    (2, 1, -7, 2, -7, D("-1.50"), D("-1.0050"), D("-2.5"), -2.5, "", "ẞß", " 7",
     date(1969, 12, 31), moment(1969, 12, 31, 22, 30), False, 2, "y"),
    (3, 1, None, None, None, None, None, None, None, None, None, None, None, None, None, None, None),
    (4, 2, 2147483647, -3, 9223372036854775807, D("9999999999999999.99"), D("99999999999999.9999"),
     D("9999999999999999999999999999.9999999999"), 1e300, "a,b,,c", "日本語テキスト", "1.5",
     date(9999, 12, 31), moment(9999, 12, 31, 23, 59, 59), True, 4, "z"),
    (5, 2, -2147483648, 3, -9223372036854775808, D("-9999999999999999.99"), D("0.0001"),
     D("-0.0000000001"), -1e-300, "  pad\t", "\xa0x\u3000", "-1.5", date(1, 1, 1),
     moment(1, 1, 1), False, 5, "%_"),
    (6, 2, 0, 1, 0, D("0.00"), D("2.6750"), D("0"), 0.0, "O'Brien\\x\n", "İıſK", "abc",
     date(1970, 1, 1), moment(1970, 1, 1, 0, 0, 0, 1), None, 6, "a_c"),
    (7, 3, 1, 5, 4294967296, D("2.67"), D("0.5000"), D("3.5"), 2.675, "aXbXc", "ΑΣΣ", "NaN",
     date(2023, 12, 31), moment(2024, 1, 1, 0, 0, 0, 500000), True, 7, "a%c"),
    (8, 3, 100, -1, 100, D("0.05"), D("-0.5000"), D("0.5"), 0.5, "a\x01\x1f\"/\\b", "😀é", "1e3",
     date(2024, 12, 30), moment(2024, 12, 31, 13, 5, 9, 120000), None, 8, "abc"),
    (9, 3, -1, 10, -100, D("-0.01"), D("3.1415"), D("-3.5"), -0.3, "TRUE", "a", "٣",
     date(2000, 1, 1), moment(2000, 2, 29, 12), True, 9, "ABC"),
    (10, 1, 5, 4, 5, D("100.00"), D("1.0049"), D("12345678901234567.8901234567"), NAN, "Abc abc",
     "x", "+1", date(2024, 3, 31), moment(2024, 3, 31, 1, 2, 3), False, 10, "q"),
    (11, 2, 15, 7, 9007199254740993, D("12345678901234.56"), D("7.7777"), D("1e10"), INF, "z", "Z",
     "9" * 40, date(2016, 2, 29), moment(2016, 12, 31, 23, 59, 59), None, 11, "q"),
    (12, 3, -15, 11, -9007199254740993, D("0.10"), D("0.3333"), D("7"), -INF, "007", "\u2003",
     "0.0", date(1900, 1, 1), moment(1900, 1, 1, 0, 0, 1), False, 12, "r"),
]  # fmt: skip

SCALARS = """
i + 0
CAST(i AS BIGINT) + l / 2
l % 7
i % j
i // j
-(i % 100) // 2
(i // 100) * 3
CAST(l AS HUGEINT) * 10 // 7
CAST(l AS HUGEINT) * l // 1000000000000000007
i / j
i / 0
d2 / j
d2 / 0.1
d2 / d4
f / 0
0 / f
f // 2
d2 // 3
d2 % 7
d2 % 0.3
f % 2
f % 0
d2 + d4
d2 - wide
d2 % 1000 * 3
(d4 % 100) * (d4 % 100)
j * (d2 % 100)
j * 0.1
-d2
-f
+i
abs(d2)
abs(f)
sign(d2)
sign(i)
CASE WHEN NOT isnan(f) THEN sign(f) END
round(d2, 1)
round(d4, 2)
round(d4)
round(d2 % 100000 * getvariable('rate'), 2)
round(f, 2)
round(f)
round(f, -1)
round(i % 1000, -1)
round(d2, -1)
ceil(d4)
floor(d4)
ceil(f)
floor(f)
ceil(i / 2)
floor(j / 2)
ceil(j)
ceil(d2 / 2)
sqrt(abs(i % 1000))
CAST(d2 AS BIGINT)
CAST(d4 % 100 AS INTEGER)
CAST(j * 0.5 AS INTEGER)
CAST(CASE WHEN abs(f) < 1000 THEN f END AS INTEGER)
CAST(j / 2 AS BIGINT)
CAST(j / 2 AS HUGEINT)
CAST(CASE WHEN abs(f) < 1000 THEN f END AS DECIMAL(18,2))
CAST(i / 7 AS DECIMAL(18,4))
CAST(j / 3 AS DECIMAL(38,10))
CAST(j / 3 AS DECIMAL(5,0))
CAST(l / 1000 AS DECIMAL(18,2))
TRY_CAST(f AS DECIMAL(4,1))
TRY_CAST(f AS INTEGER)
TRY_CAST(l AS INTEGER)
TRY_CAST(d2 AS INTEGER)
TRY_CAST(d2 AS DECIMAL(4,1))
TRY_CAST(wide AS DECIMAL(18,2))
CAST(wide AS DECIMAL(38,2))
CAST(d2 AS DOUBLE)
CAST(d4 AS DOUBLE)
CAST(wide AS DOUBLE)
CAST(l AS DOUBLE)
CAST(i AS DECIMAL(18,2))
CAST(d2 AS VARCHAR)
CAST(wide AS VARCHAR)
CAST(i AS VARCHAR)
CAST(CAST(l AS HUGEINT) * 10 AS VARCHAR)
CAST(b AS VARCHAR)
CAST(day AS VARCHAR)
CAST(day - 800000 AS VARCHAR)
CAST(day + 1000 AS VARCHAR)
CAST(ts AS VARCHAR)
CAST(CAST(ts AS TIMESTAMP) AS VARCHAR)
CAST(ts AS DATE)
CAST(day AS TIMESTAMPTZ)
CAST(b AS INTEGER)
CAST(j AS BOOLEAN)
CAST(0.5 AS DECIMAL(2,1))
greatest(i, j, NULL)
least(d2, i, 0.5)
greatest(d2, f)
least(s, u)
greatest(day, DATE '2000-01-01')
coalesce(i, 0.5)
coalesce(d2, f)
coalesce(NULL, day)
coalesce(s, 'none')
nullif(i, 7)
nullif(d2, 0)
nullif(s, '')
ifnull(i, -1)
if(b, 1, 2.5)
CASE WHEN b THEN 1 WHEN NOT b THEN 2.50 END
CASE j WHEN 2 THEN 'two' WHEN 3 THEN 'three' ELSE s END
CASE WHEN i > 3 THEN d2 ELSE d4 END
i = 7
i <> j
d2 = 1.5
d2 < f
l > f
i IN (7, 0, NULL)
i NOT IN (7, 0)
s IN ('abc', 'z')
i BETWEEN 0 AND 10
d2 NOT BETWEEN 0 AND 10.5
i IS NULL
i IS NOT DISTINCT FROM j
i IS DISTINCT FROM NULL
b AND i > 0
b OR i > 0
NOT b
b IS NULL
i = '7'
day >= '2000-01-01'
day = TIMESTAMP '1970-01-01 00:00:00'
ts < '2000-01-01 00:00:00'
ts < TIMESTAMPTZ '2000-01-01 00:00:00+01'
day < ts
getvariable('as_of')
getvariable('rate') * 2
getvariable('few') / 3
getvariable('fe' || 'w')
getvariable('large') + i
getvariable('scope') || s
getvariable('flag') AND b
getvariable('nothing') IS NULL
getvariable('unknown')
s || u
s || i
s || NULL
i || d2
concat(s, i, NULL, b)
concat_ws('-', s, NULL, u, i)
length(s)
length(u)
strlen(u)
upper(s)
lower(s)
upper(u)
lower(u)
trim(s)
trim(u)
ltrim(u)
rtrim(s)
trim(s, 'ac')
ltrim(s, 'a ')
rtrim(s, 'c\t')
trim(s, '')
left(s, 2)
left(u, 1)
left(s, -1)
left(s, j)
right(s, 2)
right(u, 1)
right(s, -1)
right(s, j)
left(s, 0)
right(s, 0)
substr(s, 2, 2)
substr(u, 2)
substr(s, 0, 2)
substr(s, -2)
substr(s, -2, 1)
substr(s, -9, 8)
substr(s, 3, -2)
substr(s, j, 2)
substr(s, 2, j)
substr(s, j)
split_part(s, ',', 2)
split_part(s, ',', -1)
split_part(s, ',', 9)
split_part(s, 'X', 1)
split_part(s, ',', j)
split_part('', ',', 1)
replace(s, 'b', '')
replace(s, '', 'x')
contains(s, 'b')
contains(s, '')
starts_with(s, 'a')
ends_with(s, 'c')
prefix(s, 'a')
suffix(s, 'c')
s LIKE 'a%'
s LIKE '%\\%'
s LIKE '_b_'
u LIKE '_'
"ä`x" LIKE '%!%%' ESCAPE '!'
"ä`x" LIKE 'a\\_c' ESCAPE '\\'
s NOT LIKE '%b%'
s ILIKE 'ABC%'
u ILIKE 'ä%'
s LIKE "ä`x"
s LIKE ''
lpad(s, 5, 'xy')
rpad(s, 5, 'xy')
lpad(u, 2, '*')
repeat(s, 2)
instr(s, 'b')
position('c' IN s)
strpos(u, 'x')
ascii(s)
translate(s, 'abc', 'xy')
repeat('a', j)
'a\\b'
E'a\\nb'
'tab\tand ''quotes'' $1 {x}'
'${' || s
"a b" + 1
"ä`x"
regexp_full_match(s, '[a-c]+')
regexp_full_match(s, '\\s*[A-Za-z]+\\s*')
regexp_matches(s, 'b$')
regexp_matches(s, '^a.b')
regexp_matches(s, 'x.$')
regexp_matches(u, '(?i)k')
md5(u)
sha1(s)
sha256(concat(u, '|', CAST(i AS VARCHAR)))
regexp_extract('ab' || chr(10) || 'c.d', '(?s)a.*d')
regexp_extract('ab' || chr(10) || 'c.d', 'a(?s:.*)c.')
regexp_extract('ab' || chr(10) || 'cd' || chr(10), '((?s).*c).*')
regexp_extract('AB' || chr(10) || 'cd', '(?is)a.(b.)?')
regexp_matches(s, '[^,]b')
regexp_matches(s, '\\bb')
regexp_matches(s, '[[:alpha:]]\\d?')
regexp_extract(s, '([a-z])([,X])?', 1)
regexp_extract(s, '([a-z])([,X])', 2)
regexp_extract(s, 'q(.)', 1)
regexp_extract(s, 'b.*')
regexp_replace(s, '[ab]', 'x')
regexp_replace(s, '[ab]', 'x', 'g')
regexp_replace(s, '(a)(.)', '\\2\\1', 'g')
regexp_replace(s, 'a', '$1', 'g')
day - DATE '2000-01-01'
day + 1
day - 1
1 + day
day + j
day + INTERVAL 1 DAY
CASE WHEN year(day) < 9999 THEN day + INTERVAL 1 MONTH END
CASE WHEN year(day) > 1 THEN day - INTERVAL 1 YEAR END
day - INTERVAL '1 day'
CASE WHEN year(day) < 9999 THEN ts + INTERVAL '1 month 2 days' END
CASE WHEN year(ts) < 9999 THEN ts + INTERVAL 90 MINUTE END
CASE WHEN year(ts) > 1 THEN ts - INTERVAL '1 hour 30 minutes' END
CASE WHEN year(ts) < 9999 THEN day + to_days(j) END
CASE WHEN year(ts) < 9999 THEN day + to_months(j + 20) END
date_trunc('month', day)
date_trunc('week', day)
date_trunc('quarter', day)
date_trunc('year', ts)
date_trunc('month', ts)
date_trunc('week', ts)
date_trunc('day', ts)
date_trunc('hour', ts)
date_trunc('minute', ts)
date_trunc('second', ts)
date_trunc('millisecond', ts)
CAST(date_trunc('week', ts) AS DATE)
date_diff('day', day, DATE '2024-01-01')
date_diff('day', ts, getvariable('as_of'))
date_diff('month', day, DATE '2024-03-01')
date_diff('year', ts, getvariable('as_of'))
date_diff('quarter', day, DATE '2024-03-01')
date_diff('week', day, DATE '2024-03-01')
date_diff('week', DATE '2024-03-01', day)
date_diff('hour', ts, getvariable('as_of'))
date_diff('minute', ts, getvariable('as_of'))
date_diff('second', ts, getvariable('as_of'))
date_diff('millisecond', ts, getvariable('as_of'))
date_diff('microsecond', ts, getvariable('as_of'))
date_diff('hour', TIMESTAMP '1969-12-31 22:30:00', CAST(ts AS TIMESTAMP))
date_diff('day', day, ts)
datediff('months', day, DATE '2024-03-01')
year(day)
month(ts)
day(day)
hour(ts)
minute(ts)
second(ts)
quarter(day)
week(day)
weekofyear(ts)
isoyear(day)
dayofweek(day)
isodow(day)
weekday(ts)
dayofyear(day)
dayofmonth(day)
extract(year FROM day)
extract(dow FROM ts)
extract(isodow FROM day)
extract(epoch FROM ts)
extract(hour FROM ts)
extract(second FROM ts)
extract(microseconds FROM ts)
extract(milliseconds FROM ts)
extract(week FROM day)
extract(doy FROM day)
date_part('month', day)
epoch(ts)
epoch_ms(ts)
epoch_us(ts)
epoch(day)
last_day(day)
monthname(day)
dayname(day)
make_date(2024, abs(j), 28)
make_timestamp(2024, 2, 3, 4, 5, 6.5)
to_timestamp(i)
strftime(day, '%Y-%m-%d')
strftime(ts, '%Y-%m')
strftime(ts, '%d/%m/%y %H:%M:%S.%f')
strftime(day, 'KW%V %G %u %w %j %b %B %a %A')
strftime(ts, '%-d.%-m. %I %p it''s %% %H')
strftime('%Y', day)
strptime('2024-02-03 04:05', '%Y-%m-%d %H:%M')
list_filter([i, j, NULL], lambda x: x > 1)
list_filter([i, j], lambda x: x IS NOT NULL)
list_transform([1, 2], lambda x: x + i % 10)
len([i, j, NULL])
len(list_filter([s, u], lambda x: trim(x) <> ''))
[i, j][1]
[i, j][-1]
[i, j][3]
[1, 2.5, i]
range(j)
range(1, j)
range(j, 1)
generate_series(1, j)
range(0, 10, 3)
list_contains([i, j], 7)
list_contains([i, NULL], 2)
list_contains([1, 2], i)
array_to_string([s, u, 'x'], ',')
list_sort([j, 2, NULL, 1])
list_max([j, 2, NULL])
string_split(s, ',')
json_object('k', s, 'ä"', u)
CAST(json_object('c', s) AS VARCHAR)
json_object()
i::VARCHAR
(d2 % 100)::INT
'2024-02-03'::DATE
'12.345'::DECIMAL(18,2)
DATE '2024-02-03'
TIMESTAMP '2024-02-03 04:05:06.789'
1e3
1.50
12345678901234567890
isnan(f)
isinf(f)
isfinite(f)
TRY_CAST(n AS INTEGER)
TRY_CAST(n AS BIGINT)
TRY_CAST(n AS DECIMAL(18,2))
TRY_CAST(n AS DOUBLE)
TRY_CAST(n AS BOOLEAN)
TRY_CAST(n AS DATE)
EXISTS (SELECT 1 FROM t o WHERE o.g = t.g AND o.i > t.i)
(SELECT max(o.i) FROM t o)
(SELECT max(o.i) FROM t o WHERE o.g = t.g)
"""

AGGREGATES = """
count(*)
count(i)
count(DISTINCT j)
count(DISTINCT b)
count(*) FILTER (WHERE i > 0)
count(i) FILTER (b)
sum(i)
sum(l)
sum(d2)
sum(wide % 1000)
sum(j) FILTER (WHERE b)
sum(DISTINCT j % 3)
sum(i) FILTER (WHERE i > 2147483647)
sum(CASE WHEN b THEN d2 ELSE 0 END)
sum(b::INT)
avg(i)
avg(l % 1000)
sum(d2) / count(d2)
sum(i) / count(*)
avg(j) FILTER (WHERE b)
avg(i) FILTER (WHERE false)
min(i)
max(d2)
min(s)
max(u)
min(day)
max(ts)
min(f)
max(f)
min(b)
bool_or(b)
bool_and(b)
bool_or(i IS NULL)
count_if(b)
arg_max(s, i)
arg_min(s, d2)
arg_max(i, day)
max_by(s, ts)
arg_max(i, i) FILTER (WHERE i < 10)
median(i)
median(l % 100)
string_agg(s, ',' ORDER BY id)
string_agg(s, '' ORDER BY id DESC)
string_agg(g, '-' ORDER BY g)
string_agg(s, ',' ORDER BY b NULLS FIRST, id DESC)
string_agg(DISTINCT "ä`x", ',' ORDER BY "ä`x")
string_agg(s ORDER BY id) FILTER (WHERE i > 0)
string_agg(s, ',' ORDER BY id) FILTER (WHERE i > 2147483647)
len(list(i ORDER BY id))
array_to_string(list(i ORDER BY i DESC, id), ',')
first(i ORDER BY id)
first(i ORDER BY i NULLS FIRST)
last(i ORDER BY id)
any_value(i ORDER BY id DESC)
any_value(i ORDER BY i NULLS FIRST)
round(sum(d2) * getvariable('rate'), 2)
CAST(sum(d2) / count(*) AS DECIMAL(18,2))
sum(i) // nullif(count(i), 0)
sum(i) % 7
max(j) - min(j)
max(day) - min(day)
CASE WHEN count(b) > 0 THEN sum(d4) ELSE 0 END
coalesce(sum(i), 0)
greatest(max(i), count(*))
"""

WINDOWS = """
row_number() OVER (ORDER BY id)
row_number() OVER (PARTITION BY g ORDER BY i, id)
row_number() OVER (PARTITION BY g ORDER BY i DESC, id)
row_number() OVER (ORDER BY b DESC NULLS FIRST, id)
rank() OVER (ORDER BY g)
rank() OVER (ORDER BY b)
dense_rank() OVER (ORDER BY b DESC)
percent_rank() OVER (ORDER BY i)
cume_dist() OVER (ORDER BY i)
ntile(5) OVER (ORDER BY i, id)
ntile(3) OVER (PARTITION BY g ORDER BY id)
lag(i) OVER (ORDER BY id)
lag(i, 2) OVER (ORDER BY id)
lag(i, 1, 0) OVER (PARTITION BY g ORDER BY id)
lead(d2, 1, 0) OVER (ORDER BY id)
lead(s) OVER (ORDER BY id DESC)
lag(i IGNORE NULLS) OVER (ORDER BY id)
first_value(i) OVER (PARTITION BY g ORDER BY id)
last_value(i) OVER (PARTITION BY g ORDER BY id)
last_value(i IGNORE NULLS) OVER (ORDER BY id)
first_value(i) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)
nth_value(i, 2) OVER (PARTITION BY g ORDER BY id)
sum(i) OVER ()
sum(i) OVER (PARTITION BY g)
sum(d2) OVER (PARTITION BY g ORDER BY id)
sum(j) OVER (ORDER BY b)
sum(j) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)
sum(j) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING)
sum(j) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)
sum(j) OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
sum(j) OVER (ORDER BY g RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
sum(j) FILTER (WHERE b) OVER (PARTITION BY g)
count(*) OVER (PARTITION BY b)
count(*) FILTER (WHERE b) OVER (PARTITION BY g)
avg(i) OVER (PARTITION BY g)
min(i) OVER (PARTITION BY g ORDER BY id)
max(s) OVER (PARTITION BY g)
bool_or(b) OVER (PARTITION BY g)
max(i) OVER (PARTITION BY g) = i
i = max(i) OVER w AND j > 0
100 * j / sum(j) OVER (PARTITION BY g)
"""

QUERIES = """
SELECT g, count(*) AS n FROM t GROUP BY ALL ORDER BY ALL
SELECT g, b, sum(i) FROM t GROUP BY ALL ORDER BY ALL
SELECT g % 2 AS p, count(*) FROM t GROUP BY g % 2 ORDER BY 1
SELECT g % 2 AS p, count(*) FROM t GROUP BY p ORDER BY p DESC
SELECT g, '' AS nothing, 0, count(*) FROM t GROUP BY ALL ORDER BY g
SELECT '' AS nothing, count(*) FROM t GROUP BY ALL
SELECT '' AS nothing, count(*) FROM t WHERE id < 0 GROUP BY ALL
SELECT count(*), sum(i) FROM t WHERE id < 0
SELECT id % 2 + 1 AS id, count(*) FROM t GROUP BY id % 2 ORDER BY id
SELECT g + 1 AS g, count(*) FROM t GROUP BY g ORDER BY g
SELECT g, sum(i) AS s FROM t GROUP BY g HAVING sum(i) > 0 AND s > 1 ORDER BY g
SELECT coalesce(trim("ä`x"), 'none') AS x, count(*) FROM t GROUP BY coalesce(trim("ä`x"), 'none') ORDER BY x
SELECT upper(s) AS x, count(*) FROM t GROUP BY upper(s) ORDER BY x
SELECT upper(s) || '!' AS x, count(*) FROM t GROUP BY upper(s) ORDER BY x
SELECT CAST(f AS DECIMAL(18,2)) AS x, count(*) FROM t WHERE abs(f) < 1000 GROUP BY ALL ORDER BY ALL
SELECT CAST(CAST(day AS VARCHAR) AS DATE) AS x, count(*) FROM t GROUP BY ALL ORDER BY ALL
SELECT hour(ts) + 1 AS h, count(*) FROM t GROUP BY hour(ts) ORDER BY h
SELECT DISTINCT g, b FROM t ORDER BY g, b
SELECT DISTINCT ON (g) g, i FROM t ORDER BY g, i DESC, id
SELECT id FROM t ORDER BY i
SELECT id FROM t ORDER BY i DESC, id LIMIT 3
SELECT id FROM t ORDER BY i NULLS FIRST, id DESC LIMIT 3 OFFSET 2
SELECT -id AS id FROM t ORDER BY id LIMIT 2
SELECT -id AS x FROM t ORDER BY x + 0 LIMIT 2
SELECT -id AS id FROM t ORDER BY id + 0 LIMIT 2
SELECT i AS k, k + 1 AS more FROM t WHERE i < 10 ORDER BY id
SELECT id AS k FROM t WHERE k < 3 ORDER BY k
SELECT s AS "S", u AS "u ``" FROM t ORDER BY "S"
SELECT * EXCLUDE (s, u, n, day, ts, f) FROM t ORDER BY id
SELECT * EXCLUDE (s, u, n, day, ts, f) REPLACE (i + 0.5 AS i) FROM t ORDER BY id
SELECT x.* EXCLUDE (s, u, n, day, ts, f, wide), x.i AS again FROM t x ORDER BY x.id
SELECT T.ID, "T"."I" FROM t ORDER BY 1
SELECT a.id, b.id FROM t a JOIN t b ON a.id = b.i ORDER BY ALL
SELECT a.id, b.id FROM t a LEFT JOIN t b ON a.i = b.j AND a.g <= b.g ORDER BY ALL
SELECT a.id, b.id FROM t a RIGHT JOIN t b ON a.i = b.j ORDER BY ALL
SELECT a.id, b.id FROM t a FULL JOIN t b ON a.i = b.j ORDER BY ALL
SELECT id, i, b.x FROM t JOIN (SELECT id, i AS x FROM t WHERE g = 1) b USING (id) ORDER BY id
SELECT id, x FROM (SELECT id FROM t WHERE g = 1) FULL JOIN (SELECT id, i AS x FROM t WHERE id < 5) USING (id) ORDER BY ALL
SELECT * FROM (SELECT id, g FROM t) a RIGHT JOIN (SELECT id + 5 AS id, j FROM t) b USING (id) ORDER BY ALL
SELECT * FROM (SELECT id, g FROM t) a NATURAL JOIN (SELECT id, j FROM t WHERE j > 2) b ORDER BY ALL
SELECT a.id FROM t a SEMI JOIN t b ON a.i = b.j ORDER BY 1
SELECT a.id FROM t a ANTI JOIN t b ON a.i = b.j ORDER BY 1
SELECT a.id, b.n FROM t a CROSS JOIN (SELECT count(*) AS n FROM t) b ORDER BY 1
SELECT a.id, b.n FROM t a, (SELECT count(*) AS n FROM t) b WHERE a.id < 3 ORDER BY 1
SELECT a.id, l.m FROM t a CROSS JOIN LATERAL (SELECT a.i + 1.5 AS m) l ORDER BY 1
SELECT a.id, l.m FROM t a, LATERAL (SELECT max(b.i) AS m FROM t b WHERE b.g = a.g) l ORDER BY 1
SELECT s.* FROM (SELECT CAST(NULL AS BIGINT) AS capacity) AS otherwise CROSS JOIN LATERAL (SELECT id, capacity FROM t) AS s ORDER BY ALL
SELECT s.* FROM (SELECT CAST(NULL AS BIGINT) AS i) AS otherwise CROSS JOIN LATERAL (SELECT id, i FROM t) AS s ORDER BY ALL
SELECT id, unnest(range(0, abs(j) % 4)) AS x FROM t ORDER BY ALL
SELECT id, unnest([i, j]) AS x FROM t ORDER BY ALL
SELECT a.id, r.x FROM t a, unnest([a.i, a.j]) AS r(x) ORDER BY ALL
SELECT * FROM range(3) ORDER BY 1
SELECT * FROM range(2, 5) AS r(x) ORDER BY x
SELECT x FROM generate_series(1, 3) AS r(x) ORDER BY x
SELECT * FROM (VALUES (1, 'a'), (2.5, NULL)) v(p, q) ORDER BY p
SELECT * FROM (VALUES (1), (NULL)) ORDER BY ALL
WITH x AS (SELECT g, sum(i) AS s FROM t GROUP BY g), y(h, r) AS (SELECT g, s FROM x) SELECT x.g, y.r FROM x JOIN y ON x.g = y.h ORDER BY ALL
WITH t AS (SELECT id, i FROM t WHERE g = 1) SELECT * FROM t ORDER BY id
WITH a AS (SELECT 1 AS x), b AS (WITH a AS (SELECT x + 1 AS x FROM a) SELECT x FROM a) SELECT * FROM a, b ORDER BY 1
SELECT id FROM t WHERE g = 1 UNION SELECT i FROM t WHERE g = 1 ORDER BY id
SELECT id FROM t UNION ALL SELECT d2 FROM t ORDER BY 1
SELECT id, i FROM t EXCEPT SELECT id, i FROM t WHERE g = 1 ORDER BY id
SELECT g FROM t EXCEPT ALL SELECT g FROM t WHERE id < 5 ORDER BY 1
SELECT g FROM t INTERSECT ALL SELECT j FROM t ORDER BY 1
SELECT g FROM t INTERSECT SELECT j FROM t ORDER BY g DESC
SELECT id FROM t WHERE g = 1 UNION ALL BY NAME SELECT i, id FROM t WHERE g = 2 ORDER BY ALL
SELECT id FROM t UNION ALL SELECT NULL ORDER BY 1
(SELECT id FROM t ORDER BY id LIMIT 1) UNION ALL (SELECT id FROM t ORDER BY id DESC LIMIT 1) ORDER BY 1
SELECT NULL AS x, id FROM t ORDER BY id
SELECT id FROM t WHERE i IN (SELECT j FROM t) ORDER BY id
SELECT id FROM t WHERE i NOT IN (SELECT j FROM t WHERE j IS NOT NULL) ORDER BY id
SELECT id FROM t WHERE i NOT IN (SELECT j FROM t) ORDER BY id
SELECT id FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE b.g = a.g AND b.i > a.i) ORDER BY id
SELECT id FROM t a WHERE NOT EXISTS (SELECT 1 FROM t b WHERE b.i = a.j) ORDER BY id
SELECT id, (SELECT count(*) FROM t b WHERE b.g = a.g) AS n FROM t a ORDER BY id
SELECT id FROM t WHERE i = (SELECT max(i) FROM t) ORDER BY id
SELECT g, id FROM t QUALIFY row_number() OVER (PARTITION BY g ORDER BY i DESC, id) = 1 ORDER BY g
SELECT g, id, max(i) OVER (PARTITION BY g) AS m FROM t QUALIFY m = i ORDER BY id
SELECT g, sum(i) AS s, rank() OVER (ORDER BY sum(i) DESC) AS r FROM t GROUP BY g QUALIFY r <= 2 ORDER BY r
SELECT g, sum(sum(i)) OVER (ORDER BY g) AS s FROM t GROUP BY g ORDER BY g
SELECT id, sum(i) OVER w AS s FROM t WINDOW w AS (PARTITION BY g ORDER BY id) ORDER BY id
SELECT count(*) FROM (SELECT DISTINCT b FROM t)
SELECT a.id, a.id AS id, a.i FROM t a ORDER BY 1
SELECT x.id_1 FROM (SELECT a.id, b.id FROM t a JOIN t b ON a.id = b.id) x ORDER BY 1
SELECT 1
SELECT getvariable('few') AS few, 'x' AS x
FROM t SELECT id WHERE id < 3 ORDER BY id
SELECT max(id) AS m FROM t ORDER BY m
SELECT g FROM t GROUP BY g ORDER BY sum(i) DESC NULLS LAST
SELECT g, count(*) FROM t GROUP BY g ORDER BY count(*) DESC, g
SELECT list_filter([CASE WHEN i > 0 THEN 1 END, CASE WHEN b THEN 2 END], lambda x: x IS NOT NULL) AS broken FROM t ORDER BY id
SELECT DISTINCT _m FROM (SELECT left(CAST(day AS VARCHAR), 7) AS _m FROM t) ORDER BY 1
SELECT count(*) FILTER (NOT (i > 0)), count(*) FILTER (NOT (b)) FROM t
"""

# What must stop on both engines, rather than give anything.
FAILING = """
i + 2147483647
-i
abs(i)
l + l
d2 * 3
d4 * d4
i // (i - i)
i % (i - i)
CAST(l AS INTEGER)
CAST(d2 AS INTEGER)
CAST(d2 AS DECIMAL(4,1))
CAST(f AS DECIMAL(18,2))
CAST(f AS BIGINT)
CAST(n AS INTEGER)
CAST(n AS DATE)
CAST(n AS DECIMAL(18,2))
make_date(2024, j, 31)
error('no')
"""

# What has no equal: told with what to write instead.
REFUSED = {
    "s[1]": "s[1]",
    "reverse(s)": "functions.py",
    "hash(i)": "functions.py",
    "chr(i)": "functions.py",
    "pow(i, 2)": "functions.py",
    "ln(i)": "functions.py",
    "now()": "getvariable('as_of')",
    "current_date": "getvariable('as_of')",
    "random()": "functions.py",
    "sum(f)": "DECIMAL",
    "avg(f)": "sum(x) / count(x)",
    "avg(d2)": "sum(x) / count(x)",
    "stddev(i)": "exact sums",
    "median(d2)": "row_number()",
    "mode(i)": "QUALIFY",
    "quantile_cont(i, 0.3)": "row_number()",
    "approx_count_distinct(i)": "count(DISTINCT x)",
    "first(i)": "ORDER BY",
    "any_value(i)": "min() or max()",
    "list(i)": "ORDER BY",
    "string_agg(s, ',')": "ORDER BY",
    "row_number() OVER ()": "ORDER BY",
    "lag(i) OVER (PARTITION BY g)": "ORDER BY",
    "count(DISTINCT i) OVER ()": "DISTINCT in a window",
    "sum(i) OVER (ORDER BY id GROUPS 1 PRECEDING)": "GROUPS",
    "sum(i) OVER (ORDER BY id RANGE 1 PRECEDING)": "RANGE",
    "CAST(f AS VARCHAR)": "DECIMAL",
    "s || f": "DECIMAL",
    "CAST(i AS UTINYINT)": "UTINYINT",
    "CAST(s AS TIME)": "TIME",
    "CAST(s AS UUID)": "UUID",
    "{'a': i}": "functions.py",
    "ts - TIMESTAMPTZ '2024-01-01 00:00:00+00'": "date_diff()",
    "date_trunc('decade', day)": "decade",
    "date_diff(s, day, day)": "part",
    "strftime(day, s)": "form",
    "strftime(day, '%c')": "%c",
    "strptime(s, '%Y')": "functions.py",
    "regexp_matches(s, u)": "pattern",
    "regexp_matches(s, '\\pL')": "plainer",
    "regexp_replace(s, 'a*', 'x', 'g')": "empty",
    "split_part(s, u, 1)": "text to split by",
    "list_sum([i])": "functions.py",
    "i IN (SELECT o.j FROM t o)": "EXISTS",
    "i > ALL (SELECT o.j FROM t o)": "EXISTS",
    "round(i, j)": "places",
    "round(i, CAST(NULL AS INT))": "places",
    "getvariable(s)": "name",
    "timezone(ts)": "UTC",
    "TRY(i // 0)": "TRY",
    "s COLLATE NOCASE = 'a'": "NOCASE",
    "ts AT TIME ZONE 'Europe/Berlin'": "hours",
}
REFUSED_QUERIES = {
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r":
        "recursive",
    "SELECT * FROM t a ASOF JOIN t b ON a.id >= b.id": "row_number()",
    "SELECT * FROM t a POSITIONAL JOIN t b": "row_number()",
    "SELECT COLUMNS('i|j') FROM t": "Name the columns",
    "SELECT g, sum(i) FROM t GROUP BY ROLLUP (g)": "UNION ALL",
    "SELECT g, sum(i) FROM t GROUP BY CUBE (g)": "UNION ALL",
    "SELECT DISTINCT ON (g) g, id FROM t": "ORDER BY",
    "SELECT id FROM t LIMIT 10 PERCENT": "ntile",
    "SELECT id FROM t USING SAMPLE 3": "sample",
    "PIVOT t ON g USING sum(i)": "CASE",
    "SELECT * FROM read_csv('x.csv')": "feeds",
    "SELECT 1; SELECT 2": "one SELECT",
    "SELECT 1 AS \"a${b}\"": "${",
}  # fmt: skip


@dataclass(frozen=True)
class Both:
    """The same tables in both engines."""

    duck: duckdb.DuckDBPyConnection
    spark: SparkSession
    folder: Path
    fields: dict[str, list[Field]]

    def define(self, name: str, rows: pa.Table, columns: Mapping[str, str]) -> None:
        """Give rows a name in both."""
        casts = ", ".join(
            f"CAST({quoted(c)} AS {sql_type(parse_type(kind))}) AS {quoted(c)}"
            for c, kind in columns.items()
        )
        path = self.folder / f"{name}.parquet"
        self.duck.register("_rows", rows)
        self.duck.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT {casts} FROM _rows")
        self.duck.execute(f"COPY {name} TO '{path}' (FORMAT parquet)")
        self.spark.catalog.dropTempView(name)
        self.spark.read.parquet(str(path)).createOrReplaceTempView(name)
        self.fields[name] = [Field(c, parse_type(kind)) for c, kind in columns.items()]

    def translated(self, query: str) -> str:
        """A query in Spark's SQL."""
        return to_spark(query, lambda name: self.fields.get(name.lower()), VARIABLES)

    def in_duckdb(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The columns and rows that DuckDB gives, times as numbers."""
        relation = self.duck.sql(query)
        columns = []
        for number, kind in enumerate(map(str, relation.types)):
            value = f"x.c{number}"
            if kind.startswith("TIMESTAMP"):
                value = f"'ts' || epoch_us({value})"
            elif kind == "DATE":
                value = f"'day' || ({value} - DATE '1970-01-01')"
            columns.append(value)
        names = ", ".join(f"c{number}" for number, _ in enumerate(columns))
        listed = ", ".join(columns)
        rows = self.duck.sql(f"SELECT {listed} FROM ({query}) AS x({names})").fetchall()
        return relation.columns, [tuple(map(plain, row)) for row in rows]

    def in_spark(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The same of Spark."""
        frame = self.spark.sql(self.translated(query))
        return frame.columns, [tuple(map(plain, row)) for row in with_numbers(frame).collect()]

    def differing(
        self, expressions: Sequence[str], query: Callable[[str], str], at_once: int = 30
    ) -> list[str]:
        """The expressions that give other values in Spark; a few queries ask for all of them.

        `query` puts expressions where they belong; its first column tells rows apart.
        """
        found = []
        for start in range(0, len(expressions), at_once):
            part = expressions[start : start + at_once]
            listed = ", ".join(f"{one} AS e{n}" for n, one in enumerate(part))
            try:
                _, ours = self.in_spark(query(listed))
            except Exception as error:
                if len(part) == 1:
                    found.append(f"{part[0]}: {str(error).splitlines()[0][:300]}")
                else:
                    found += self.differing(part, query, 1)
                continue
            _, theirs = self.in_duckdb(query(listed))
            ours, theirs = (sorted(rows, key=lambda row: str(row[0])) for rows in (ours, theirs))
            for n, one in enumerate(part, 1):
                for our, their in zip(ours, theirs, strict=True):
                    if our[n] != their[n]:
                        found.append(f"{one}: {their[n]!r} in DuckDB, {our[n]!r} here ({our[0]})")
                        break
        return found


def with_numbers(frame: DataFrame) -> DataFrame:
    """A result with its times as numbers: Python's would hang on the machine's zone."""
    columns = []
    for number, column in enumerate(frame.dtypes):
        name = f"c{number}"
        if column[1] == "timestamp":
            name = f"concat('ts', CAST(unix_micros({name}) AS STRING)) AS {name}"
        elif column[1] == "date":
            name = f"concat('day', CAST(unix_date({name}) AS STRING)) AS {name}"
        columns.append(name)
    return frame.toDF(*(f"c{number}" for number, _ in enumerate(columns))).selectExpr(*columns)


def plain(value: Any) -> Any:
    """A value as both engines' equal ones compare: floats to the bit, exact numbers by value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return f"float {value.hex()}"
    if isinstance(value, int | Decimal):
        return Decimal(value)
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def lines(text: str) -> list[str]:
    """The expressions of a list."""
    return text.strip().splitlines()


@pytest.fixture(scope="module")
def both(spark_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Both engines with the table `t`."""
    # As the engine sets it: days before 1582 are what they are.
    spark_session.conf.set("spark.sql.parquet.datetimeRebaseModeInRead", "CORRECTED")
    spark_session.sparkContext.setLogLevel("OFF")  # some queries shall fail
    duck = duckdb.connect()
    duck.execute("SET GLOBAL TimeZone = 'UTC'")
    duck.execute(f"CREATE MACRO {PLAIN}(text) AS text")
    for name, value in VARIABLES.items():
        duck.execute(f"SET VARIABLE {name} = {literal(value)}")
    found = Both(duck, spark_session, tmp_path_factory.mktemp("dialect"), {})
    columns = zip(*ROWS, strict=True)
    rows = {name: list(values) for name, values in zip(COLUMNS, columns, strict=True)}
    found.define("t", pa.table(rows), COLUMNS)
    yield found
    spark_session.sparkContext.setLogLevel("WARN")
    duck.close()


def test_expressions_give_the_same(both: Both) -> None:
    """Each expression, over NULLs and extremes, gives the same value in each row."""
    assert both.differing(lines(SCALARS), lambda listed: f"SELECT id, {listed} FROM t") == []


@pytest.mark.parametrize("grouped", ["SELECT g, {} FROM t GROUP BY g", "SELECT 1, {} FROM t"])
def test_aggregates_give_the_same(both: Both, grouped: str) -> None:
    """Each aggregate gives the same, by group and over all rows."""
    assert both.differing(lines(AGGREGATES), grouped.format) == []


def test_windows_give_the_same(both: Both) -> None:
    """Each window function gives the same in each row."""
    window = "WINDOW w AS (PARTITION BY g)"
    assert both.differing(lines(WINDOWS), lambda e: f"SELECT id, {e} FROM t {window}") == []


def test_queries_give_the_same_columns_and_rows(both: Both) -> None:
    """Queries of every form give the same rows, in the same order, under the same names."""
    wrong = []
    for query in lines(QUERIES):
        theirs = both.in_duckdb(f"SELECT * FROM ({query})")[0], both.in_duckdb(query)[1]
        try:
            ours = both.in_spark(query)
        except Exception as error:
            wrong.append(f"{query}: {str(error).splitlines()[0][:300]}")
            continue
        if ours != theirs:
            wrong.append(f"{query}: {theirs} in DuckDB, {ours} here")
    assert wrong == []


def test_what_fails_fails_on_both(both: Both) -> None:
    """Where DuckDB stops with an error, Spark gives no value either."""
    for expression in lines(FAILING):
        query = f"SELECT {expression} AS x FROM t"
        with pytest.raises(duckdb.Error):
            both.duck.sql(query).fetchall()
        with pytest.raises(Exception, match=r"(?s)."):
            pytest.fail(f"{expression} gives {both.in_spark(query)[1]}")


def test_numbers_at_random_give_the_same(both: Both) -> None:
    """Sums, quotients, casts and rounding of numbers of any size are the same to the bit."""
    chance = random.Random(7)

    def number(digits: int, scale: int) -> Decimal:
        whole = chance.randint(-(10 ** chance.randint(1, digits)), 10 ** chance.randint(1, digits))
        return Decimal(whole).scaleb(-scale)

    rows = pa.table(
        {
            "id": range(2000),
            "i": [chance.randint(-100000, 100000) for _ in range(2000)],
            "j": [chance.choice([-7, -3, -1, 1, 2, 3, 9, 10, 11, 100]) for _ in range(2000)],
            "l": [int(number(18, 0)) for _ in range(2000)],
            "d": pa.array([number(16, 2) for _ in range(2000)], pa.decimal128(18, 2)),
            "e": pa.array([number(14, 4) for _ in range(2000)], pa.decimal128(18, 4)),
            "w": pa.array([number(30, 6) for _ in range(2000)], pa.decimal128(38, 6)),
            "f": [float(number(12, chance.randint(0, 9))) for _ in range(2000)],
        }
    )
    kinds = ["INT", "INT", "INT", "BIGINT", "DECIMAL(18,2)", "DECIMAL(18,4)", "DECIMAL(38,6)"]
    both.define("numbers", rows, dict(zip(rows.column_names, [*kinds, "DOUBLE"], strict=True)))
    wrong = both.differing(lines(NUMBERS), lambda listed: f"SELECT id, {listed} FROM numbers")
    sums = "SELECT id % 50 AS g, {} FROM numbers GROUP BY id % 50"
    assert wrong + both.differing(lines(SUMS), sums.format) == []


NUMBERS = """
CAST(d AS DOUBLE)
CAST(e AS DOUBLE)
CAST(w AS DOUBLE)
CAST(l AS DOUBLE)
d / e
i / j
d / j
l / j
f / j
d // j
l // j
-l // j
l % j
d % nullif(e, 0)
CAST(f AS DECIMAL(38,2))
CAST(f AS DECIMAL(38,4))
CAST(f * 1e15 AS DECIMAL(38,2))
TRY_CAST(f * 1e24 AS DECIMAL(38,2))
CAST(f * 1e15 AS HUGEINT)
CAST(i / 7 AS DECIMAL(18,4))
CAST(i / j AS DECIMAL(18,2))
CAST(i * 0.005::DOUBLE AS DECIMAL(18,2))
CAST(f AS BIGINT)
CAST(i / j AS INTEGER)
CAST(d AS BIGINT)
CAST(d AS DECIMAL(18,1))
CAST(w AS DECIMAL(38,2))
CAST(d AS VARCHAR)
CAST(w AS VARCHAR)
round(d, 1)
round(d, -2)
round(e, 2)
round(f, 2)
round(f, 0)
round(i / 8, 2)
round(i / 7, 3)
ceil(f)
floor(f)
ceil(d)
floor(e)
d + e
d - w
d % 100000000 * j
round(e / 1000, 2) * i
e % 1000 * i
w + l
d % 100000000 * 0.015
abs(e % 100000) * 100
d > f
d = e
greatest(d, f)
sqrt(abs(i))
"""
SUMS = """
sum(d)
sum(l)
sum(w)
avg(i)
sum(d) / count(*)
sum(i) // count(*)
median(i)
max(f)
"""

# Hostile texts: what engines' own casts take in ways of their own.
KINDS = ["INT", "BIGINT", "DECIMAL(18,2)", "DECIMAL(4,4)", "DECIMAL(38,10)", "DECIMAL(5,0)",
         "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "STRING"]  # fmt: skip
PIECES = ["0", "1", "5", "9", "00", "12", "2024", "-", "+", ".", ",", ":", "T", " ", "Z", "e", "E",
          "_", "/", "\t", "\n", "\v", "\f", "\r", "\xa0", "\u2003", "٣", "24", "59", "60", "31",
          "30", "02", "0000", "9999", "true", "TRUE", "yes", "no", "n", "inf", "NaN", "+01:00",
          "00:00", "12:34", "12:34:56", ".123456", ".1234567", " UTC", "x", "ſ", "İ", "K", "9" * 12,
          "2024-01-05", "2024-02-29", "2023-02-29"]  # fmt: skip
TEXTS = [
    "", " ", "0", "-0", "7", " 7", "7 ", "\t7\n", "\v7", "\xa07", "007", "+7", "--7", "1_000", "1.",
    ".5", ".", "-.5", "1.5", "2.5", "-1.5", "1.005", "1.0050", "1e3", "1e", "0x1F", "0b11", "NaN",
    "-nan", "inf", "-Infinity", "1e400", "9" * 40, "0" * 50 + "1", "2147483647",
    "2147483648", "-2147483648", "9223372036854775807", "9223372036854775808",
    "9999999999999999.99", "9999999999999999.995", "12345678901234567.8", "0.0000", "0.12345", "٣", "１", "1,000", "1 000",
    "true", "TRUE ", "\ttrue", "t", "f", "T", "yes", "YES\n", "y", "N", "on", "falſe", "yeſ", "2",
    "2024-01-05", "2024-1-5", " 2024-01-05 ", "2024-01-05\n", "2024/01/05", "20240105", "24-01-05",
    "2024-02-30", "2023-02-29", "2024-02-29", "0000-01-01", "0001-01-01", "9999-12-31",
    "12024-01-05", "10000-01-01", "-0001-01-01", "0044-03-15 (BC)", "infinity", "epoch", "now",
    "2024-01-05T12:34", "2024-01-05 12:34:56", "2024-01-05T12:34:56Z", "2024-01-05T12:34:56.789",
    "2024-01-05T12:34:56.1234567", "2024-01-05T12:34:56+01:00", "2024-01-05T12:34:56+0100",
    "2024-01-05T12:34:56+01", "2024-01-05T12:34+14:59", "2024-01-05T12:34-14:00",
    "2024-01-05T12:34:56+15:00", "2024-01-05T24:00:00", "2024-01-05T24:00:01",
    "2024-01-05T12:34:60", "2024-01-05T23:60", "2024-01-05 1:2:3", "2024-01-05  12:34", "2024-01-05T12:34 ",
    "2024-01-05T12:34\n", "2024-01-05T12:34Z\n", "9999-12-31T23:59:59.999999-14:00",
    "0001-01-01T00:00+14:00", "2024-01-05t12:34", "2024-01-05T12:34z", "2024-01-05T12:34 UTC",
]  # fmt: skip
# DuckDB takes these too; to Spark they say nothing, as docs/sql.md tells.
ONLY_DUCKDBS = ["infinity", "inf", "-Infinity", "epoch", "-0001-01-01", "0044-03-15 (BC)"]


def differing_texts(both: Both, texts: Sequence[str], *, raw: bool) -> list[str]:
    """The texts that the engines read differently, as cells or by their own casts."""
    texts = [text for text in dict.fromkeys(texts) if "\x00" not in text]
    rows = pa.table({"id": pa.array(range(len(texts)), pa.int64()), "x": pa.array(texts)})
    both.define("texts", rows, {"id": "BIGINT", "x": "STRING"})
    kinds = [parse_type(kind) for kind in KINDS]
    tried = ", ".join(f"{attempt('x', kind)} AS a{n}" for n, kind in enumerate(kinds))
    if raw:
        tried = tried.replace(f"{PLAIN}(x)", "x")
    told = ", ".join(
        f"a{n} AS v{n}" if raw else f"{typed('x', f'a{n}', kind)} AS v{n}"
        for n, kind in enumerate(kinds)
    )
    query = f"SELECT id, {told} FROM (SELECT id, x, {tried} FROM texts)"
    theirs, ours = (sorted(rows) for rows in (both.in_duckdb(query)[1], both.in_spark(query)[1]))
    return [
        f"{texts[int(our[0])]!r} as {KINDS[n]}: {their[n + 1]!r} in DuckDB, {our[n + 1]!r} here"
        for their, our in zip(theirs, ours, strict=True)
        for n, _ in enumerate(KINDS)
        if their[n + 1] != our[n + 1]
    ]


def test_cells_are_read_alike(both: Both) -> None:
    """Both engines take and refuse the same cells of a file, and make the same values of them."""
    assert differing_texts(both, TEXTS, raw=False) == []


def test_casts_of_texts_are_alike(both: Both) -> None:
    """TRY_CAST reads a text alike on both, but for a few that only DuckDB knows."""
    found = differing_texts(both, [t for t in TEXTS if t not in ONLY_DUCKDBS], raw=True)
    assert found == []
    assert differing_texts(both, ONLY_DUCKDBS, raw=True) != []


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(
        st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=8),
        min_size=100,
        max_size=300,
    )
)
def test_any_cell_is_read_alike(both: Both, texts: list[str]) -> None:
    """Whatever stands in cells, both engines take and refuse the same."""
    assert differing_texts(both, texts, raw=False) == []


def test_every_letter_changes_case_as_in_duckdb(both: Both) -> None:
    """upper() and lower() give DuckDB's letter for each letter there is."""
    letters = [chr(n) for n in range(1, 0x110000) if not 0xD800 <= n < 0xE000]
    rows = pa.table({"id": range(len(letters)), "x": letters})
    both.define("letters", rows, {"id": "BIGINT", "x": "STRING"})
    theirs = both.duck.sql(
        "SELECT id, upper(x) AS up, lower(x) AS low FROM letters"
    ).to_arrow_table()
    both.define("cased", theirs, {"id": "BIGINT", "up": "STRING", "low": "STRING"})
    query = (
        "SELECT l.id FROM letters l JOIN cased c ON c.id = l.id"
        " WHERE upper(l.x) <> c.up OR lower(l.x) <> c.low"
    )
    assert both.in_spark(query)[1] == []


def test_what_has_no_equal_is_refused_with_a_way_out(both: Both) -> None:
    """What Spark can't do in the same way is an error before it runs, with a way out."""
    queries = {f"SELECT {one} AS x FROM t": words for one, words in REFUSED.items()}
    for query, words in (queries | REFUSED_QUERIES).items():
        with pytest.raises(RetailmartError) as told:
            pytest.fail(f"{query} became {both.translated(query)}")
        assert words in str(told.value), query
        assert told.value.hint is not None, query


def test_the_users_own_functions_are_left_alone() -> None:
    """A call of a user's function is handed on, and what it returns is of its type."""
    points = {"points": parse_type("DECIMAL(18,2)")}
    told = to_spark("SELECT Points(1, 'a') // 2 AS x", lambda _: None, {}, points)
    assert "`points`(1, 'a')" in told
    assert "DOUBLE" in told  # a decimal's quotient is one


def test_the_page_tells_what_is_refused_and_what_is_not() -> None:
    """Of docs/sql.md's table, what stands on the left is refused, what stands on the right is not."""
    columns = {"name": "STRING", "city": "STRING", "amount": "DECIMAL(18,2)", "weight": "DOUBLE"}
    columns |= {"day": "TIMESTAMP", "since": "TIMESTAMP", "ordered_at": "TIMESTAMP"}
    fields = [Field(name, parse_type(kind)) for name, kind in columns.items()]
    page = (Path(__file__).parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", page, flags=re.MULTILINE)
    assert len(rows) > 15
    for left, right in rows:
        (refused, *_), told = (re.findall(r"`([^`]+)`", cell) for cell in (left, right))
        refused = refused.replace("SELECT …", "SELECT name FROM customers")
        with pytest.raises(RetailmartError):
            pytest.fail(to_spark(f"SELECT {refused} FROM sales s", lambda _: fields, VARIABLES))
        for expression in told:
            assert to_spark(f"SELECT {expression} FROM sales s", lambda _: fields, VARIABLES)
