"""DuckDB's parsed query tree (json_serialize_sql): how to walk it, and what its functions do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Node = dict[str, Any]


def statement(tree: Mapping[str, Any]) -> Node | None:
    """The query of a tree that holds one SELECT statement, else None."""
    statements = tree.get("statements") or []
    if tree.get("error") or len(statements) != 1:
        return None
    node: Node = statements[0]["node"]
    return node


def nodes(found: Any, into_queries: bool = False) -> Iterator[Node]:
    """The nodes of an expression, outermost first; those of the queries in it only on request."""
    left = [found]  # a list, as nested generators take as long again for each level
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            below = [
                value
                for name, value in part.items()
                if isinstance(value, dict | list) and (into_queries or name != "subquery")
            ]
            left += reversed(below)
        elif isinstance(part, list):
            left += reversed(part)


def columns(found: Any, bound: frozenset[str] | None = None) -> Iterator[tuple[list[str], bool]]:
    """The column names in an expression, each with whether it is in one of its subqueries.

    Left out are those that a subquery qualifies with a name of its own FROM; `bound` are these.
    Left out are also those under COLLATE, by which values that differ may be equal.
    """
    if isinstance(found, list):
        for part in found:
            yield from columns(part, bound)
    elif isinstance(found, dict) and found.get("class") != "COLLATE":
        if found.get("class") == "COLUMN_REF":
            path = found["column_names"]
            if len(path) == 1 or path[0].lower() not in (bound or ()):
                yield path, bound is not None
        if "from_table" in found:
            bound = (bound or frozenset()) | frozenset(_source_names(found["from_table"]))
        for part in found.values():
            yield from columns(part, bound)


def conjuncts(condition: Node | None) -> Iterator[Node]:
    """The conditions that must all be true for a condition to be true."""
    if condition and condition.get("type") == "CONJUNCTION_AND":
        for child in condition["children"]:
            yield from conjuncts(child)
    elif condition:
        yield condition


def _source_names(source: Node) -> Iterator[str]:
    if source["type"] == "JOIN":
        yield from _source_names(source["left"])
        yield from _source_names(source["right"])
    else:
        yield str(source.get("alias") or source.get("table_name") or "").lower()


def common_tables(node: Node) -> Iterator[tuple[str, Node, Sequence[str]]]:
    """Each WITH name of a query, in lower case, with its query and the names of its columns."""
    for entry in node["cte_map"]["map"]:
        value = entry["value"]
        inner = value.get("query_node") or value["query"]["node"]
        yield entry["key"].lower(), inner, value.get("aliases") or ()


def parts(node: Node) -> list[Node]:
    """The queries of a UNION, EXCEPT or INTERSECT."""
    return node.get("children") or [node["left"], node["right"]]


def function_name(node: Node) -> str:
    """The lower-case name of a function's or a window's node."""
    return str(node["function_name"]).lower()


def words(text: str) -> frozenset[str]:
    """The words of a text, for long sets of names."""
    return frozenset(text.split())


# Tests compare these lists with the DuckDB that is installed.
AGGREGATES = words(
    """
    any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null
    arg_max_nulls_last arg_min arg_min_null arg_min_nulls_last argmax argmin array_agg avg bit_and
    bit_or bit_xor bitstring_agg bool_and bool_or combine_aggr corr count count_if count_star
    countif covar_pop covar_samp decimal_average entropy favg first fsum geomean geometric_mean
    group_concat histogram histogram_exact json_group_array json_group_object
    json_group_structure kahan_sum kurtosis kurtosis_pop last list listagg lttb mad max max_by mean
    median min min_by mode product quantile quantile_cont quantile_disc regr_avgx regr_avgy
    regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy reservoir_quantile sem
    skewness stddev stddev_pop stddev_samp string_agg sum sum_no_overflow sumkahan var_pop var_samp
    variance variant_group_array variant_group_object wavg weighted_avg
    """
)
# What the clock gives, as a function or as a word that looks like a column.
CLOCKS = words(
    """
    current_date current_localtime current_localtimestamp current_time current_timestamp
    get_current_time get_current_timestamp localtime localtimestamp now today transaction_timestamp
    """
)
# Others that give another value for the same rows each time.
VOLATILE = words(
    """
    current_connection_id current_query current_query_id current_transaction_id currval
    gen_random_uuid nextval random setseed setval sleep_ms stats txid_current uuid uuidv4 uuidv7
    vector_type write_log
    """
)
# Each gives its value from its arguments alone. `unnest` gives more rows, from each row alone;
# a variable has one value for the whole query.
ROW_FUNCTIONS = words(
    """
    != !~~ !~~* % & && * ** + - ->> / // < << <= <@ = > >= >> @> ^ ^@ | || ~ ~~ ~~* ~~~
    abs acos add age array_append array_concat array_contains array_distinct array_extract
    array_filter array_has array_has_all array_has_any array_indexof array_length array_position
    array_prepend array_reverse array_reverse_sort array_slice array_sort array_to_string
    array_transform array_unique array_value ascii asin atan atan2 base64 bin bit_count bit_length
    cardinality cbrt ceil ceiling century char_length character_length chr concat concat_ws
    contains cos cot damerau_levenshtein date_add date_diff date_part date_sub date_trunc datediff
    datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear days_in_month decade
    decode degrees divide editdist3 element_at encode ends_with epoch epoch_ms epoch_ns epoch_us
    era even exp factorial fdiv flatten floor fmod format from_base64 from_hex from_json gamma gcd
    generate_series getvariable greatest greatest_common_divisor hamming hash hex hour if
    ilike_escape instr isfinite isinf isnan isodow isoyear jaccard jaro_similarity
    jaro_winkler_similarity json_array json_array_length json_contains json_exists json_extract
    json_extract_path json_extract_path_text json_extract_string json_keys json_merge_patch
    json_object json_quote json_structure json_transform json_type json_valid json_value julian
    last_day lcase lcm least least_common_multiple left len length levenshtein lgamma like_escape
    list_append list_apply list_avg list_concat list_contains list_count list_distinct list_element
    list_extract list_filter list_first list_has list_has_all list_has_any list_indexof
    list_intersect list_last list_max list_median list_min list_pack list_position list_prepend
    list_product list_reduce list_resize list_reverse list_reverse_sort list_select list_slice
    list_sort list_sum list_transform list_unique list_value list_where list_zip ln log log10 log2
    lower lpad ltrim make_date make_time make_timestamp make_timestamptz map map_concat
    map_contains map_entries map_extract map_extract_value map_from_entries map_keys map_values md5
    microsecond millennium millisecond minute mod month monthname multiply nanosecond
    not_ilike_escape not_like_escape nullif octet_length ord overlay pi position pow power prefix
    printf quarter radians range regexp_escape regexp_extract regexp_extract_all regexp_full_match
    regexp_matches regexp_replace regexp_split_to_array repeat replace reverse right round
    round_even row row_to_json rpad rtrim second sha1 sha256 sign signbit sin split split_part sqrt
    starts_with str_split str_split_regex strftime string_split string_split_regex string_to_array
    strip_accents strlen strpos strptime struct_concat struct_extract struct_insert struct_pack
    substr substring subtract suffix tan time_bucket timezone to_base to_base64 to_binary to_days
    to_hex to_hours to_json to_microseconds to_milliseconds to_minutes to_months to_quarters
    to_seconds to_timestamp to_weeks to_years translate trim trunc try_strptime typeof ucase unbin
    unhex unicode unnest upper url_decode url_encode variable_on week weekday weekofyear xor year
    yearweek
    """
)
