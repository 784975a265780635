"""The table of all functions, with those that are at home with no one kind of value."""

from __future__ import annotations

from retailmart.engines.spark.dialect import dates, lists, numbers, patterns, texts
from retailmart.engines.spark.dialect.calls import Call, Functions
from retailmart.engines.spark.dialect.translator import Translator
from retailmart.engines.spark.dialect.values import NULL, RAISE, Value

FUNCTIONS = Functions(
    {
        **numbers.FUNCTIONS,
        **texts.FUNCTIONS,
        **patterns.FUNCTIONS,
        **lists.FUNCTIONS,
        **dates.FUNCTIONS,
    }
)
# What has no exact equal, and what to write instead where a function of the user's is not needed.
INSTEAD: dict[str, str] = {
    **dict.fromkeys(
        ("now", "current_date", "today", "current_timestamp", "get_current_timestamp"),
        "use getvariable('as_of'), the run's moment",
    ),
    **dict.fromkeys(
        (
            "stddev", "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop", "corr",
            "covar_pop", "covar_samp", "regr_slope", "product", "fsum", "sumkahan", "favg",
            "kahan_sum", "entropy", "skewness", "kurtosis", "geomean", "geometric_mean",
        ),
        "its last digits hang on the order of the rows; use exact sums and counts",
    ),
    **dict.fromkeys(
        ("approx_count_distinct", "approx_quantile", "approx_top_k", "reservoir_quantile"),
        "count exactly: count(DISTINCT x)",
    ),
    **dict.fromkeys(
        ("quantile", "quantile_cont", "quantile_disc", "percentile_cont"),
        "number the rows with row_number() or ntile(), and take those you want",
    ),
    "mode": (
        "count the values in a query, and keep one with"
        " QUALIFY row_number() OVER (ORDER BY n DESC, value) = 1"
    ),
}  # fmt: skip


@FUNCTIONS.tells("nullif")
def _nullif(t: Translator, call: Call) -> Value:
    one, other = t.alike(call.args)
    value = call.args[0]
    return Value(f"CASE WHEN {one.sql} = {other.sql} THEN NULL ELSE {value.sql} END", value.type)


@FUNCTIONS.tells("if")
def _if(t: Translator, call: Call) -> Value:
    test, one, other = call.args
    return Value(
        f"CASE WHEN {t.cast(test, 'BOOLEAN').sql} THEN {t.cast(one, call.type).sql}"
        f" ELSE {t.cast(other, call.type).sql} END",
        call.type,
    )


@FUNCTIONS.tells("greatest", "least")
def _extreme(t: Translator, call: Call) -> Value:
    args = [t.cast(arg, call.type).sql for arg in call.args]
    return Value(f"{call.name}({', '.join(args)})" if len(args) > 1 else args[0], call.type)


@FUNCTIONS.tells("error")
def _error(t: Translator, call: Call) -> Value:
    return Value(f"{RAISE}{call.text(0)})", NULL)
