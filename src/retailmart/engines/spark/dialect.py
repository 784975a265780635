"""DuckDB's SQL told in Spark's, so that both engines give the same values.

DuckDB itself takes a query apart and says of which type each part is; here every part is written
in Spark's words for just that meaning. Nothing is handed through because it looks alike: what has
no entry here, or has no exact equal, is refused with what to write instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from retailmart.engines import VariableValue
from retailmart.engines.duckdb import literal as duck_literal
from retailmart.engines.duckdb import sql_type
from retailmart.errors import RetailmartError
from retailmart.project.functions import FILE
from retailmart.project.types import ColumnType
from retailmart.tables import Field, quoted, text_literal

if TYPE_CHECKING:
    import duckdb

Node = dict[str, Any]
Fields = Callable[[str], Sequence[Field] | None]

_TZ = "TIMESTAMP WITH TIME ZONE"
_NULL = '"NULL"'
_RAISE = "raise_error("
_SPARK_TYPES = {
    "BOOLEAN": "BOOLEAN",
    "TINYINT": "TINYINT",
    "SMALLINT": "SMALLINT",
    "INTEGER": "INT",
    "BIGINT": "BIGINT",
    "HUGEINT": "DECIMAL(38,0)",
    "FLOAT": "FLOAT",
    "DOUBLE": "DOUBLE",
    "VARCHAR": "STRING",
    "JSON": "STRING",
    "DATE": "DATE",
    "TIMESTAMP": "TIMESTAMP",
    _TZ: "TIMESTAMP",
    _NULL: "INT",
}
_INTEGERS = {"TINYINT": 3, "SMALLINT": 5, "INTEGER": 10, "BIGINT": 19, "HUGEINT": 38}
_FLOATS = ("FLOAT", "DOUBLE")
_TEXTS = ("VARCHAR", "JSON")
_MOMENTS = ("TIMESTAMP", _TZ)
_DAYS = ("DATE", *_MOMENTS)
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
# A text this long is computed once and named instead of being written twice.
_SHORT = 120
_AT_HAND = f"write a function in {FILE}: its Python gives the same on both engines"


def to_spark(
    query: str,
    fields: Fields,
    variables: Mapping[str, VariableValue],
    functions: Mapping[str, ColumnType] | None = None,
) -> str:
    """A SELECT of DuckDB's as one of Spark's, 3.5 and later, with ANSI mode on and in UTC.

    `fields` gives a relation's columns by its name in any letter case, None where there is none.
    `functions` are the user's own, with what they return. The columns come in DuckDB's order and
    each by a name of its own: of two of one name, the second is called `name_1`.
    RetailmartError says what cannot be told exactly, and what to write instead.
    """
    own = {name.lower(): _duck_type(kind) for name, kind in (functions or {}).items()}
    with closing(_duckdb().cursor()) as connection:
        return _Translator(connection, fields, variables, own).translate(query)


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    """The DuckDB that is asked; it holds nothing. To open one takes longer than most queries."""
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


# values and scopes


@dataclass(frozen=True)
class _Value:
    """An expression in Spark's SQL and its type in DuckDB; of Spark it has the type that fits it.

    `literal` is how DuckDB was given a constant, where it was.
    """

    sql: str
    type: str
    literal: str | None = None


@dataclass(frozen=True)
class _Relation:
    """A SELECT in Spark's SQL and the columns it gives: name and DuckDB's type."""

    sql: str
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Column:
    """A column that names may stand for. One merged by USING is behind `relation` only."""

    relation: str
    name: str
    value: _Value
    merged: bool = False


@dataclass
class _Scope:
    """What names mean at one place of a query. `reached` tells that an inner place used one.

    `relations` are the WITH names that are known there, `within` is what an aggregate's arguments
    mean where that is not the same.
    """

    columns: list[_Column] = field(default_factory=list)
    parent: _Scope | None = None
    aliases: dict[str, Node] = field(default_factory=dict)
    relations: Mapping[str, _Relation] = field(default_factory=dict)
    lambdas: dict[str, _Value] = field(default_factory=dict)
    within: _Scope | None = None
    reached: bool = False

    def lookup(self, relation: str | None, name: str) -> _Value | None:
        """The column of a name, here only."""
        name = name.lower()
        if relation is None and name in self.lambdas:
            return self.lambdas[name]
        for column in self.columns:
            if column.name.lower() == name and (
                not column.merged if relation is None else column.relation.lower() == relation
            ):
                return column.value
        return None


@dataclass(frozen=True)
class _Call:
    """A function with its arguments, as one handler sees it."""

    name: str
    node: Node
    args: tuple[_Value, ...]
    type: str
    template: str

    def text(self, number: int) -> str:
        """An argument's SQL."""
        return self.args[number].sql


def _refuse(what: str, instead: str) -> RetailmartError:
    return RetailmartError(
        f"{what} cannot be told to Spark exactly", instead[:1].upper() + instead[1:]
    )


def _duck_type(kind: ColumnType) -> str:
    """A column's type, as DuckDB itself calls it."""
    told = sql_type(kind)
    return _TZ if told == "TIMESTAMPTZ" else told


def spark_type(kind: str) -> str:
    """Spark's type for one of DuckDB's."""
    if kind.endswith("[]"):
        return f"ARRAY<{spark_type(kind[:-2])}>"
    if _DECIMAL.fullmatch(kind):
        return kind
    if kind not in _SPARK_TYPES:
        raise _refuse(
            f"the type {kind}",
            "cast to a type that tables hold, as in CAST(x AS BIGINT)",
        )
    return _SPARK_TYPES[kind]


def _name(name: str) -> str:
    if "${" in name:
        raise _refuse(f"the name {name!r}", "give it a name with AS that has no ${")
    return "`" + name.replace("`", "``") + "`"


def _string(text: str) -> str:
    """A text as a literal; `${` would be taken for a setting's name."""
    plain = text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\u0024{")
    return "'" + "".join(c if ord(c) >= 32 else f"\\u{ord(c):04x}" for c in plain) + "'"


def _digits(kind: str) -> tuple[int, int] | None:
    """Precision and scale of an exact number's type."""
    if match := _DECIMAL.fullmatch(kind):
        return int(match[1]), int(match[2])
    return (_INTEGERS[kind], 0) if kind in _INTEGERS else None


def _exact(kind: str) -> bool:
    return _digits(kind) is not None


def _literal(value: Any, kind: str) -> str:
    """A Python value as a literal of Spark's for a type of DuckDB's."""
    if value is None:
        return f"CAST(NULL AS {spark_type(kind)})"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if kind not in _TEXTS:
            raise _refuse(f"the {kind} {value}", "stay between the years 1 and 9999")
        return _string(value)
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value
        return f"TIMESTAMP'{moment.replace(tzinfo=None).isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE'{value.isoformat()}'"
    if kind == "INTEGER":
        return f"{value}" if value >= 0 else f"({value})"
    text = f"{value:f}" if isinstance(value, Decimal) else repr(value)
    return f"CAST('{text}' AS {spark_type(kind)})"


# the translation


class _Translator:
    """One query on its way to Spark."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        fields: Fields,
        variables: Mapping[str, VariableValue],
        functions: Mapping[str, str],
    ) -> None:
        self._connection = connection
        self._fields = fields
        self._variables = {name.lower(): value for name, value in variables.items()}
        self.functions = functions
        self._types: dict[str, str] = {}
        self._computed: dict[str, Any] = {}
        self._used: set[str] = set()
        self._tables: dict[str, list[tuple[str, str]] | None] = {}
        self._numbers = 0

    def translate(self, query: str) -> str:
        """The whole query."""
        found = self._connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
        tree = json.loads(found[0][0])
        if tree.get("error"):
            told = str(tree.get("error_message", "it is no SELECT"))
            raise RetailmartError(told, "Write one SELECT; CASE and GROUP BY do what PIVOT does")
        if len(tree["statements"]) != 1:
            raise RetailmartError("more than one statement", "A query is one SELECT")
        return self.relation(tree["statements"][0]["node"], None, {}).sql

    # what DuckDB says

    def type_of(self, template: str) -> str:
        """The type that DuckDB gives an expression of typed NULLs and constants."""
        import duckdb

        if template not in self._types:
            try:
                kind = str(self._connection.sql(f"SELECT {template}").types[0])
            except duckdb.Error as error:
                raise RetailmartError(str(error).strip().splitlines()[0]) from error
            self._types[template] = kind
        return self._types[template]

    def evaluated(self, template: str) -> Any:
        """What DuckDB computes from constants."""
        import duckdb

        if template not in self._computed:
            try:
                found = self._connection.execute(f"SELECT {template}").fetchall()
            except duckdb.Error as error:
                raise RetailmartError(str(error).strip().splitlines()[0]) from error
            self._computed[template] = found[0][0]
        return self._computed[template]

    def _is_constant(self, call: _Call) -> bool:
        """Whether a call of constants gives a constant that can be written down."""
        known = call.type in _SPARK_TYPES or _DECIMAL.fullmatch(call.type)
        if not known and call.type != "INTERVAL":
            return False
        found = self._connection.execute(
            "SELECT bool_and(stability = 'CONSISTENT' AND function_type = 'scalar')"
            " FROM duckdb_functions() WHERE function_name = ?",
            [call.name],
        ).fetchall()
        return bool(found[0][0])

    def constant(self, template: str, kind: str) -> _Value:
        """What DuckDB computes, as a constant."""
        if kind == "INTERVAL":
            return _Value("", kind, template)
        found = self.evaluated(f"CAST({template} AS {kind})")
        return _Value(_literal(found, kind), kind, f"CAST({template} AS {kind})")

    def whole(self, value: _Value) -> int | None:
        """The number that a value is, if it is a constant whole one."""
        if value.literal is None or value.type not in _INTEGERS:
            return None
        return int(self.evaluated(value.literal))

    def named(self, node: Node) -> str:
        """How DuckDB calls a column that is given no name."""
        bare = {**node, "alias": ""}
        if bare["class"] == "COLUMN_REF":
            return str(bare["column_names"][-1])
        if bare["class"] == "FUNCTION" and bare["function_name"].lower() == "unnest":
            return f"unnest({self._printed(bare['arguments'][0]['expression'])})"
        return self._printed(bare)

    def _printed(self, node: Node) -> str:
        select: Node = {
            "type": "SELECT_NODE",
            "modifiers": [],
            "cte_map": {"map": []},
            "select_list": [node],
            "from_table": {"type": "EMPTY", "alias": "", "sample": None},
            "where_clause": None,
            "group_expressions": [],
            "group_sets": [],
            "aggregate_handling": "STANDARD_HANDLING",
            "having": None,
            "sample": None,
            "qualify": None,
        }
        tree = {"error": False, "statements": [{"node": select, "named_param_map": []}]}
        found = self._connection.execute(
            "SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]
        ).fetchall()
        return str(found[0][0]).removeprefix("SELECT ")

    def unique(self, name: str) -> str:
        """A name that stands for one thing in the whole query."""
        number, made = 1, name
        while made.lower() in self._used or (number > 1 and self.table(made) is not None):
            number += 1
            made = f"{name}_{number}"
        self._used.add(made.lower())
        return made

    def table(self, name: str) -> list[tuple[str, str]] | None:
        """The columns of a defined relation."""
        if name not in self._tables:
            found = self._fields(name)
            self._tables[name] = (
                None if found is None else [(f.name, _duck_type(f.type)) for f in found]
            )
        return self._tables[name]

    # queries

    def relation(
        self, node: Node, parent: _Scope | None, relations: Mapping[str, _Relation]
    ) -> _Relation:
        """A query of any kind, below `parent` where it is part of another."""
        known = dict(relations)
        definitions = [self._definition(e, parent, known) for e in node["cte_map"]["map"]]
        if node["type"] == "SELECT_NODE":
            found = self._select(node, _Scope(parent=parent, relations=known))
        elif node["type"] == "SET_OPERATION_NODE":
            found = self._set_operation(node, _Scope(parent=parent, relations=known))
        else:
            raise _refuse(
                "a recursive query" if "RECURSIVE" in node["type"] else node["type"],
                "write the steps as joins, or number them with unnest(range(…))",
            )
        if definitions:
            return replace(found, sql=f"WITH {', '.join(definitions)} {found.sql}")
        return found

    def _definition(self, entry: Node, parent: _Scope | None, known: dict[str, _Relation]) -> str:
        """A WITH name. What follows knows it, its own body does not."""
        found = self.relation(entry["value"]["query_node"], parent, known)
        columns = _renamed(found.columns, entry["value"]["aliases"])
        name = str(entry["key"])
        made = self.unique(name if self.table(name) is None else f"{name}_with")
        known[name.lower()] = _Relation(made, columns)
        given = ", ".join(_name(column) for column, _ in columns)
        return f"{_name(made)}({given}) AS ({found.sql})"

    def _set_operation(self, node: Node, scope: _Scope) -> _Relation:
        children = node["children"] or [node["left"], node["right"]]
        parts = [self.relation(child, scope.parent, scope.relations) for child in children]
        kind = node["setop_type"]
        if kind == "UNION_BY_NAME":
            parts, kind = _by_name(parts), "UNION"
        columns = []
        for number, (name, _) in enumerate(parts[0].columns):
            kinds = [part.columns[number][1] for part in parts]
            columns.append((name, self.common([_Value("", k) for k in kinds])))
        word = f"{kind} ALL" if node["setop_all"] else kind
        sql = f" {word} ".join(self._aligned(part, columns) for part in parts)
        return self._modified(_Relation(sql, tuple(columns)), node, scope)

    def _aligned(self, part: _Relation, columns: Sequence[tuple[str, str]]) -> str:
        items = []
        for (given, had), (name, kind) in zip(part.columns, columns, strict=True):
            value = self.cast(_Value(_name(given), had), kind)
            items.append(f"{value.sql} AS {_name(name)}")
        return f"(SELECT {', '.join(items)} FROM ({part.sql}))"

    def _select(self, node: Node, scope: _Scope) -> _Relation:
        if node.get("sample"):
            raise _refuse("a sample", "select rows by a condition")
        source = self._from(node["from_table"], scope)
        items = self._items(node["select_list"], scope)
        scope.aliases = {
            item["alias"].lower(): item for item in node["select_list"] if item.get("alias")
        }
        where = self._condition(" WHERE ", node["where_clause"], scope)
        values = [(name, self.value(one, scope)) for name, one in items]
        groups = self._groups(node, items, values, scope)
        having = self._condition(" HAVING ", node["having"], self._having(node, scope))
        outputs = []
        taken: set[str] = set()
        for name, value in values:
            made, number = name, 0
            while made.lower() in taken:
                number += 1
                made = f"{name}_{number}"
            taken.add(made.lower())
            outputs.append((made, value))
        hidden: list[tuple[str, str]] = []
        distinct = _modifier(node, "DISTINCT_MODIFIER")
        qualify = None
        if node["qualify"] is not None:
            qualify = "_qualified"
            hidden.append((qualify, self.condition(node["qualify"], scope)))
        first = None
        if distinct and distinct["distinct_on_targets"]:
            first = self._first_of(distinct, node, items, outputs, scope)
            hidden.append(("_first", first))
        known = {name.lower(): _Value(_name(name), v.type) for name, v in outputs}
        order = self._order(
            node, items, outputs, known, hidden, scope, within=first is not None or not distinct
        )
        listed = [f"{value.sql} AS {_name(name)}" for name, value in outputs]
        listed += [f"{sql} AS {_name(name)}" for name, sql in hidden]
        plain = bool(distinct) and not first and not hidden
        core = f"SELECT {'DISTINCT ' if plain else ''}{', '.join(listed)}{source}{where}{groups}"
        core += having
        columns = tuple((name, value.type) for name, value in outputs)
        if hidden or (order and (groups or plain)):
            names = ", ".join(_name(name) for name, _ in outputs)
            tests = ["_qualified"] * bool(qualify) + ["_first = 1"] * bool(first)
            again = "DISTINCT " if distinct and not first and not plain else ""
            core = f"SELECT {again}{names} FROM ({core})"
            if tests:
                core += f" WHERE {' AND '.join(tests)}"
        return _Relation(core + order + self._limit(node), columns)

    def _items(self, nodes: Iterable[Node], scope: _Scope) -> list[tuple[str, Node]]:
        """The columns that a SELECT lists, stars taken apart: name and expression."""
        items: list[tuple[str, Node]] = []
        for node in nodes:
            if node["class"] == "STAR":
                if node["columns"]:
                    raise _refuse("COLUMNS(…)", "name the columns")
                items += self._star(node, scope)
            else:
                items.append((node.get("alias") or self._called(node, scope), node))
        return items

    def _called(self, node: Node, scope: _Scope) -> str:
        """The name of a column that is given none: as its table writes it, in that letter case."""
        if node["class"] == "COLUMN_REF":
            *relation, name = (str(one).lower() for one in node["column_names"])
            for column in scope.columns:
                if column.name.lower() == name and relation in ([], [column.relation.lower()]):
                    return column.name
        return self.named(node)

    def _star(self, node: Node, scope: _Scope) -> Iterator[tuple[str, Node]]:
        relation = node["relation_name"].lower() or None
        left_out = {name.lower() for name in node["exclude_list"]}
        qualified = {
            tuple(p.lower() for p in _path(one)[-2:]) for one in node["qualified_exclude_list"]
        }
        replaced = {one["key"].lower(): one["value"] for one in node["replace_list"]}
        renamed = {_path(one["key"])[-1].lower(): one["value"] for one in node["rename_list"]}
        for column in scope.columns:
            name = column.name.lower()
            if column.merged if relation is None else column.relation.lower() != relation:
                continue
            if name in left_out or (column.relation.lower(), name) in qualified:
                continue
            if name in replaced:
                yield column.name, replaced[name]
            else:
                yield (
                    renamed.get(name, column.name),
                    {"class": "_VALUE", "value": column.value},
                )

    def _condition(self, word: str, node: Node | None, scope: _Scope) -> str:
        return "" if node is None else f"{word}{self._filter(node, scope)}"

    def _filter(self, node: Node, scope: _Scope) -> str:
        """A condition of which nothing but being true matters."""
        if node["class"] == "CONJUNCTION" and node["type"] == "CONJUNCTION_AND":
            parts = [self._filter(child, scope) for child in node["children"]]
            return f"({' AND '.join(parts)})"
        negated = node["type"] == "OPERATOR_NOT"
        inner = node["children"][0] if negated else node
        if inner["class"] == "SUBQUERY" and inner["subquery_type"] == "ANY":
            told = self._member(inner, scope)
            return f"(NOT {told})" if negated else told
        return self.condition(node, scope)

    def _member(self, node: Node, scope: _Scope) -> str:
        """Whether a value is one of a query's, where a NULL may count as false."""
        if node["comparison_type"] != "COMPARE_EQUAL":
            raise _refuse(
                "ANY and ALL of a subquery",
                "compare with its min() or max(), or use EXISTS",
            )
        found = self.relation(node["subquery"]["node"], scope, scope.relations)
        value = self.value(node["child"], scope)
        common = self.alike([value, _Value("", found.columns[0][1])])[1].type
        listed = self._aligned(found, [(found.columns[0][0], common)])
        return f"({self.cast(value, common).sql} IN {listed})"

    def _groups(
        self,
        node: Node,
        items: Sequence[tuple[str, Node]],
        values: Sequence[tuple[str, _Value]],
        scope: _Scope,
    ) -> str:
        if node["aggregate_handling"] == "FORCE_AGGREGATES":
            grouped = [
                value
                for (_, one), (_, value) in zip(items, values, strict=True)
                if not _holds_aggregate(one)
            ]
        elif not node["group_expressions"]:
            return ""
        else:
            if len(node["group_sets"]) > 1:
                raise _refuse("ROLLUP, CUBE and GROUPING SETS", "write one SELECT each, UNION ALL")
            grouped = []
            for expression in node["group_expressions"]:
                number = _whole(expression)
                if number is not None:
                    grouped.append(values[number - 1][1])
                else:
                    grouped.append(self.value(expression, scope))
        keys = [value.sql for value in grouped if value.literal is None]
        if node["aggregate_handling"] == "FORCE_AGGREGATES" and not keys:
            return ""
        if not keys:  # a number would be a column's place
            keys = ["concat('', '')"]
        return f" GROUP BY {', '.join(dict.fromkeys(keys))}" if keys else ""

    @staticmethod
    def _having(node: Node, scope: _Scope) -> _Scope:
        """What HAVING sees: no column but those of the groups goes before the SELECT's names."""
        grouped = {
            str(one["column_names"][-1]).lower()
            for one in node["group_expressions"]
            if one["class"] == "COLUMN_REF"
        }
        hidden = scope.aliases.keys() - grouped
        columns = [column for column in scope.columns if column.name.lower() not in hidden]
        return replace(scope, columns=columns, within=scope)

    def _first_of(
        self,
        distinct: Node,
        node: Node,
        items: Sequence[tuple[str, Node]],
        outputs: Sequence[tuple[str, _Value]],
        scope: _Scope,
    ) -> str:
        order = _modifier(node, "ORDER_MODIFIER")
        if order is None:
            raise _refuse("DISTINCT ON without ORDER BY", "say by ORDER BY which row is the first")
        on = ", ".join(self.value(one, scope).sql for one in distinct["distinct_on_targets"])
        keys = []
        for one in order["orders"]:
            number = _whole(one["expression"])
            target = items[number - 1][1] if number is not None else one["expression"]
            keys.append(f"{self.value(target, scope).sql} {_direction(one)}")
        return f"row_number() OVER (PARTITION BY {on} ORDER BY {', '.join(keys)})"

    def _order(
        self,
        node: Node,
        items: Sequence[tuple[str, Node]],
        outputs: Sequence[tuple[str, _Value]],
        known: Mapping[str, _Value],
        hidden: list[tuple[str, str]],
        scope: _Scope,
        *,
        within: bool,
    ) -> str:
        """ORDER BY in names of the output; what it lacks is put beside it, in `hidden`."""
        modifier = _modifier(node, "ORDER_MODIFIER")
        if modifier is None:
            return ""
        keys = []
        for one in modifier["orders"]:
            expression = one["expression"]
            if expression["class"] == "STAR":
                keys += [f"{value.sql} {_direction(one)}" for value in known.values()]
                continue
            found = self._in_output(expression, items, outputs, known)
            if found is None:
                if not within:
                    raise RetailmartError("ORDER BY names what DISTINCT does not select")
                found = _name(f"_order_{len(hidden)}")
                hidden.append((f"_order_{len(hidden)}", self.value(expression, scope).sql))
            keys.append(f"{found} {_direction(one)}")
        return f" ORDER BY {', '.join(keys)}" if keys else ""

    @staticmethod
    def _in_output(
        expression: Node,
        items: Sequence[tuple[str, Node]],
        outputs: Sequence[tuple[str, _Value]],
        known: Mapping[str, _Value],
    ) -> str | None:
        number = _whole(expression)
        if number is not None:
            return _name(outputs[number - 1][0])
        if expression["class"] == "COLUMN_REF" and len(expression["column_names"]) == 1:
            value = known.get(expression["column_names"][0].lower())
            if value is not None:
                return value.sql
        same = _bare(expression)
        for (_, one), (name, _) in zip(items, outputs, strict=False):
            if _bare(one) == same:
                return _name(name)
        return None

    def _modified(
        self,
        found: _Relation,
        node: Node,
        scope: _Scope,
    ) -> _Relation:
        """ORDER BY and LIMIT of a set operation."""
        outputs = [(name, _Value(_name(name), kind)) for name, kind in found.columns]
        known = {name.lower(): value for name, value in outputs}
        inner = replace(scope, columns=[_Column("", n, v) for n, v in outputs])
        hidden: list[tuple[str, str]] = []
        order = self._order(node, [], outputs, known, hidden, inner, within=True)
        limit = self._limit(node)
        if not order and not limit:
            return found
        sql = f"SELECT * FROM ({found.sql})"
        if hidden:
            beside = ", ".join(f"{sql} AS {_name(name)}" for name, sql in hidden)
            names = ", ".join(_name(name) for name, _ in found.columns)
            sql = f"SELECT {names} FROM (SELECT *, {beside} FROM ({found.sql}))"
        return replace(found, sql=sql + order + limit)

    @staticmethod
    def _limit(node: Node) -> str:
        modifier = _modifier(node, "LIMIT_MODIFIER")
        if modifier is None:
            return ""
        if modifier["limit_type"] != "ROW_COUNT":
            raise _refuse("LIMIT in percent", "use ntile(100) OVER (ORDER BY …) and a condition")
        sql = ""
        for word, key in (("LIMIT", "limit"), ("OFFSET", "offset")):
            if modifier[key] is not None:
                number = _whole(modifier[key])
                if number is None:
                    raise _refuse(f"a computed {word}", "write a number")
                sql += f" {word} {number}"
        return sql

    # FROM

    def _from(self, node: Node, scope: _Scope) -> str:
        if node["type"] == "EMPTY":
            return ""
        return f" FROM {self._source(node, scope)}"

    def _source(self, node: Node, scope: _Scope) -> str:
        """One entry of FROM; its columns join those of the scope."""
        if node.get("sample"):
            raise _refuse("a sample", "select rows by a condition")
        handlers = {
            "BASE_TABLE": self._base_table,
            "SUBQUERY": self._subquery,
            "JOIN": self._join,
            "EXPRESSION_LIST": self._values,
            "TABLE_FUNCTION": self._table_function,
        }
        if node["type"] not in handlers:
            raise _refuse(node["type"].replace("_", " "), "write it with CASE and GROUP BY")
        return handlers[node["type"]](node, scope)

    def _enter(
        self, node: Node, alias: str, columns: Sequence[tuple[str, str]], scope: _Scope
    ) -> str:
        """Give a source its alias and its columns to the scope."""
        made = self.unique(alias)
        names = _renamed(columns, node.get("column_name_alias") or [])
        for (name, kind), (given, _) in zip(names, columns, strict=True):
            value = _Value(f"{_name(made)}.{_name(given)}", kind)
            scope.columns.append(_Column(alias, name, value))
        return _name(made)

    def _base_table(self, node: Node, scope: _Scope) -> str:
        name = str(node["table_name"])
        alias = node["alias"] or name
        found = scope.relations.get(name.lower())
        if found is not None:
            made = self._enter(node, alias, found.columns, scope)
            return f"{_name(found.sql)} AS {made}"
        columns = self.table(name)
        if columns is None:
            raise RetailmartError(f"there is no relation {name!r}")
        return f"{_name(name)} AS {self._enter(node, alias, columns, scope)}"

    def _subquery(self, node: Node, scope: _Scope) -> str:
        scope.reached = False
        found = self.relation(node["subquery"]["node"], scope, scope.relations)
        lateral = "LATERAL " if scope.reached else ""
        alias = self._enter(node, node["alias"] or "_subquery", found.columns, scope)
        return f"{lateral}({found.sql}) AS {alias}"

    def _values(self, node: Node, scope: _Scope) -> str:
        rows = [[self.value(one, scope) for one in row] for row in node["values"]]
        kinds = [self.common(list(column)) for column in zip(*rows, strict=True)]
        told = ", ".join(
            "(" + ", ".join(self.cast(v, k).sql for v, k in zip(row, kinds, strict=True)) + ")"
            for row in rows
        )
        columns = [(f"col{number}", kind) for number, kind in enumerate(kinds)]
        alias = self._enter(node, node["alias"] or "_values", columns, scope)
        return f"(VALUES {told}) AS {alias}({', '.join(name for name, _ in columns)})"

    def _table_function(self, node: Node, scope: _Scope) -> str:
        name = node["function"]["function_name"].lower()
        if name not in ("unnest", "range", "generate_series"):
            raise _refuse(f"{name}() in FROM", "read feeds, tables and marts")
        outer = _Scope(parent=scope, relations=scope.relations)
        scope.reached = False
        if name == "unnest":
            rows = self.value(node["function"]["arguments"][0]["expression"], outer)
        else:
            rows = self.value(node["function"], outer)
        lateral = "LATERAL " if scope.reached else ""
        columns = [(name, rows.type.removesuffix("[]"))]
        alias = self._enter(node, node["alias"] or name, columns, scope)
        return f"{lateral}(SELECT explode({rows.sql}) AS {_name(name)}) AS {alias}"

    def _join(self, node: Node, scope: _Scope) -> str:
        kind, reference = node["join_type"], node["ref_type"]
        if reference not in ("REGULAR", "CROSS", "NATURAL"):
            raise _refuse(
                f"{reference} JOIN",
                "join by the conditions and keep one row each with"
                " QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) = 1",
            )
        before = len(scope.columns)
        left = self._source(node["left"], scope)
        middle = len(scope.columns)
        right = self._source(node["right"], scope)
        if node["right"]["type"] == "JOIN":
            right = f"({right})"
        lefts, rights = scope.columns[before:middle], scope.columns[middle:]
        word = {
            "INNER": "JOIN",
            "LEFT": "LEFT JOIN",
            "RIGHT": "RIGHT JOIN",
            "OUTER": "FULL JOIN",
            "FULL": "FULL JOIN",
            "SEMI": "LEFT SEMI JOIN",
            "ANTI": "LEFT ANTI JOIN",
        }[kind]
        if reference == "CROSS":
            return f"{left} CROSS JOIN {right}"
        shared = list(node["using_columns"])
        if reference == "NATURAL":
            names = {column.name.lower() for column in rights if not column.merged}
            shared = [c.name for c in lefts if c.name.lower() in names and not c.merged]
        if shared:
            condition = self._using(shared, kind, lefts, rights, scope, before)
        else:
            condition = self.condition(node["condition"], scope)
        if kind in ("SEMI", "ANTI"):
            scope.columns[before:] = lefts
        return f"{left} {word} {right} ON {condition}"

    def _using(
        self,
        shared: Sequence[str],
        kind: str,
        lefts: Sequence[_Column],
        rights: Sequence[_Column],
        scope: _Scope,
        before: int,
    ) -> str:
        """Match columns of one name; without their relation's name they are one column."""
        conditions = []
        columns = [*lefts, *rights]
        for name in shared:
            pair = []
            for side in (lefts, rights):
                pair.append(
                    next(c for c in side if c.name.lower() == name.lower() and not c.merged)
                )
            values = [column.value for column in pair]
            common = self.common(values)
            one, other = (self.cast(value, common).sql for value in values)
            conditions.append(f"{one} = {other}")
            merged = values[1] if kind == "RIGHT" else values[0]
            if kind in ("OUTER", "FULL"):
                merged = _Value(f"coalesce({one}, {other})", common)
            at = columns.index(pair[0])
            for column in pair:
                columns[columns.index(column)] = replace(column, merged=True)
            columns.insert(at, _Column("", pair[0].name, merged))
        scope.columns[before:] = columns
        return " AND ".join(conditions)

    # expressions

    def value(self, node: Node, scope: _Scope) -> _Value:
        """An expression of any kind."""
        kind = node["class"]
        handlers: dict[str, Callable[[Node, _Scope], _Value]] = {
            "_VALUE": lambda one, _: one["value"],
            "CONSTANT": lambda one, _: self._constant(one),
            "COLUMN_REF": self._column,
            "FUNCTION": self._function,
            "COMPARISON": self._comparison,
            "CONJUNCTION": self._conjunction,
            "OPERATOR": self._operator,
            "CASE": self._case,
            "CAST": self._cast_node,
            "BETWEEN": self._between,
            "SUBQUERY": self._subquery_value,
            "WINDOW": self._window,
        }
        if kind not in handlers:
            raise _refuse(f"{self.named(node)}", _AT_HAND)
        return handlers[kind](node, scope)

    def condition(self, node: Node, scope: _Scope) -> str:
        """A condition's SQL."""
        return self.cast(self.value(node, scope), "BOOLEAN").sql

    def template(self, value: _Value) -> str:
        """What stands for a value where DuckDB is asked for types."""
        if value.literal is not None:
            return value.literal
        return "NULL" if value.type == _NULL else f"CAST(NULL AS {value.type})"

    def common(self, values: Sequence[_Value]) -> str:
        """The type that all values take beside each other."""
        kinds = {value.type for value in values}
        if len(kinds) == 1:
            return kinds.pop()
        return self.type_of(f"coalesce({', '.join(map(self.template, values))})")

    def let(self, sql: str, told: Callable[[str], str]) -> str:
        """An expression that uses another more than once."""
        if len(sql) <= _SHORT:
            return told(sql)
        self._numbers += 1
        name = f"v{self._numbers}_"
        return f"transform(array({sql}), {name} -> {told(name)})[0]"

    def _constant(self, node: Node) -> _Value:
        kind, text = node["literal"]["kind"], str(node["literal"]["text"])
        if kind == "NULL_LITERAL":
            return _Value("NULL", _NULL, "NULL")
        if kind == "STRING":
            return _Value(_string(text), "VARCHAR", text_literal(text))
        if kind == "BOOLEAN":
            return _Value(text.lower(), "BOOLEAN", text)
        if kind not in ("INTEGER", "NUMERIC"):
            raise _refuse(f"the constant {text!r}", "write a number or a text")
        found = self.type_of(text)
        return _Value(_literal(self.evaluated(text), found), found, text)

    def variable(self, name: str) -> _Value:
        """The value of getvariable('name')."""
        value = self._variables.get(name.lower())
        if value is None:
            return _Value("NULL", _NULL, "NULL")
        kind = self.type_of(duck_literal(value))
        # A cast, as a variable's number is of its type already, which a bare number's is not.
        told = f"CAST({duck_literal(value)} AS {kind})"
        return _Value(_literal(value, kind), kind, told)

    def _column(self, node: Node, scope: _Scope) -> _Value:
        names = [str(name) for name in node["column_names"]]
        relation = names[-2].lower() if len(names) > 1 else None
        place: _Scope | None = scope
        while place is not None:
            found = place.lookup(relation, names[-1])
            if found is not None:
                place.reached = place.reached or place is not scope
                return found
            if relation is None and names[0].lower() in place.aliases:
                target = place.aliases[names[0].lower()]
                inner = replace(
                    place,
                    aliases={key: one for key, one in place.aliases.items() if one is not target},
                )
                return self.value(target, inner)
            place = place.parent
        if len(names) > 1:
            raise _refuse(f"{'.'.join(names)}, a field of a struct,", "use plain columns")
        if names[0].lower() in _INSTEAD:
            raise _refuse(names[0], _INSTEAD[names[0].lower()])
        raise RetailmartError(f"there is no column {'.'.join(names)}")

    def _comparison(self, node: Node, scope: _Scope) -> _Value:
        return self.compared(
            node["type"],
            self.value(node["left"], scope),
            self.value(node["right"], scope),
        )

    def compared(self, kind: str, one: _Value, other: _Value) -> _Value:
        """A comparison of two values, as of one type."""
        left, right = self.alike([one, other])
        if kind == "COMPARE_DISTINCT_FROM":
            return _Value(f"(NOT ({left.sql} <=> {right.sql}))", "BOOLEAN")
        operator = _COMPARISONS.get(kind)
        if operator is None:
            raise _refuse(kind, "compare by =, <, > or IN")
        return _Value(f"({left.sql} {operator} {right.sql})", "BOOLEAN")

    def alike(self, values: Sequence[_Value]) -> list[_Value]:
        """Values as of the one type in which DuckDB compares them."""
        typed = {
            value.type for value in values if value.literal is None or value.type not in _TEXTS
        } - {_NULL}
        if typed & {*_TEXTS} and typed - {*_TEXTS}:
            raise _refuse(
                f"a comparison of {' with '.join(sorted(typed))}",
                "cast one to the other's type",
            )
        kind = self.common(values)
        return [self.cast(value, kind) for value in values]

    def _conjunction(self, node: Node, scope: _Scope) -> _Value:
        word = " AND " if node["type"] == "CONJUNCTION_AND" else " OR "
        parts = [self.condition(child, scope) for child in node["children"]]
        return _Value(f"({word.join(parts)})", "BOOLEAN")

    def _between(self, node: Node, scope: _Scope) -> _Value:
        values = [self.value(node[key], scope) for key in ("input", "lower", "upper")]
        value, lower, upper = (one.sql for one in self.alike(values))
        word = "NOT BETWEEN" if "NOT" in node["type"] else "BETWEEN"
        return _Value(f"({value} {word} {lower} AND {upper})", "BOOLEAN")

    def _operator(self, node: Node, scope: _Scope) -> _Value:
        kind = node["type"]
        values = [self.value(child, scope) for child in node["children"]]
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            word = "IS NULL" if kind == "OPERATOR_IS_NULL" else "IS NOT NULL"
            return _Value(f"({values[0].sql} {word})", "BOOLEAN")
        if kind == "OPERATOR_NOT":
            return _Value(f"(NOT {self.cast(values[0], 'BOOLEAN').sql})", "BOOLEAN")
        if kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
            first, *others = (value.sql for value in self.alike(values))
            word = "IN" if kind == "COMPARE_IN" else "NOT IN"
            return _Value(f"({first} {word} ({', '.join(others)}))", "BOOLEAN")
        if kind == "OPERATOR_COALESCE":
            common = self.common(values)
            parts = ", ".join(self.cast(value, common).sql for value in values)
            return _Value(f"coalesce({parts})", common)
        if kind == "OPERATOR_NULLIF":
            one, other = self.alike(values)
            return _Value(_nullif(self, values[0].sql, one.sql, other.sql), values[0].type)
        if kind == "ARRAY_EXTRACT" and values[0].type.endswith("[]"):
            return _element(self, values)
        raise _refuse(self.named(node), _AT_HAND)

    def _case(self, node: Node, scope: _Scope) -> _Value:
        checks = [
            (
                self.condition(one["when_expr"], scope),
                self.value(one["then_expr"], scope),
            )
            for one in node["case_checks"]
        ]
        otherwise = self.value(node["else_expr"], scope)
        kind = self.common([*(value for _, value in checks), otherwise])
        whens = " ".join(f"WHEN {test} THEN {self.cast(v, kind).sql}" for test, v in checks)
        return _Value(f"CASE {whens} ELSE {self.cast(otherwise, kind).sql} END", kind)

    def _cast_node(self, node: Node, scope: _Scope) -> _Value:
        value = self.value(node["child"], scope)
        return self.cast(value, self._cast_type(node["type_expr"]), tried=node["try_cast"])

    def _cast_type(self, node: Node) -> str:
        name = str(node["type_name"])
        children = node["children"]
        if name.lower() == "list":
            return f"{self._cast_type(children[0])}[]"
        told = name
        if children:
            if any(child["class"] != "CONSTANT" for child in children):
                raise _refuse(f"the type {name}", "cast to a type that tables hold")
            told += f"({','.join(child['literal']['text'] for child in children)})"
        return self.type_of(f"CAST(NULL AS {told})")

    def cast(self, value: _Value, kind: str, *, tried: bool = False) -> _Value:
        """A value as of another type, rounded as DuckDB rounds."""
        if value.type == kind:
            return value
        if value.type == _NULL:
            # A column of NULLs has some type to Spark, which may be none that casts to this one.
            one = value.sql if value.sql.startswith(_RAISE) else "NULL"
            return _Value(f"CAST({one} AS {spark_type(kind)})", kind)
        if kind == _NULL:
            return value
        if value.literal is not None:
            template = f"{'TRY_CAST' if tried else 'CAST'}({value.literal} AS {kind})"
            if kind == "INTERVAL":
                return _Value("", kind, template)
            if kind in _SPARK_TYPES or _DECIMAL.fullmatch(kind):
                return _Value(_literal(self.evaluated(template), kind), kind, template)
        return _Value(_Cast(self, tried=tried).sql(value, kind), kind)

    def _subquery_value(self, node: Node, scope: _Scope) -> _Value:
        found = self.relation(node["subquery"]["node"], scope, scope.relations)
        kind = node["subquery_type"]
        if kind == "EXISTS":
            return _Value(f"EXISTS ({found.sql})", "BOOLEAN")
        (_, column), *_ = found.columns
        if kind == "SCALAR":
            return _Value(f"({found.sql})", column)
        raise _refuse(
            "IN (SELECT …) anywhere but as a condition of its own in WHERE",
            "use EXISTS, which is never NULL, or join",
        )

    # functions

    def _function(self, node: Node, scope: _Scope) -> _Value:
        name = str(node["function_name"]).lower()
        if name == "getvariable":
            argument = node["arguments"][0]["expression"]
            return self.variable(str(argument["literal"]["text"]))
        if name in self.functions:
            told = ", ".join(arg.sql for arg in self._args(node, scope))
            return _Value(f"{_name(name)}({told})", self.functions[name])
        if any(one["expression"]["class"] == "LAMBDA" for one in node["arguments"]):
            return self._with_lambda(name, node, scope)
        if name in _AGGREGATES:
            scope = scope.within or scope
            return self._aggregate(self._call(name, node, self._args(node, scope)), scope, None)
        args = self._args(node, scope)
        constant = bool(args) and all(arg.literal for arg in args)
        if name not in _FUNCTIONS and not constant:
            raise _refuse(f"{name}()", _INSTEAD.get(name, _AT_HAND))
        call = self._call(name, node, args)
        if constant and self._is_constant(call):
            return self.constant(call.template, call.type)
        if name not in _FUNCTIONS:
            raise _refuse(f"{name}()", _INSTEAD.get(name, _AT_HAND))
        return _FUNCTIONS[name](self, call)

    def _args(self, node: Node, scope: _Scope) -> tuple[_Value, ...]:
        return tuple(self.value(one["expression"], scope) for one in node["arguments"])

    def _call(self, name: str, node: Node, args: tuple[_Value, ...]) -> _Call:
        told = [self.template(arg) for arg in args]
        symbol = node.get("is_operator") and not name.isidentifier()
        if symbol and len(told) == 2:
            template = f"{told[0]} {name} {told[1]}"
        elif symbol:
            template = f"{name} {told[0]}"
        elif name == "count_star":
            template = "count(*)"
        else:
            template = f"{quoted(name)}({', '.join(told)})"
        if node["class"] == "WINDOW":
            template += " OVER ()"
        kind = _NULL if name == "error" else self.type_of(template)
        return _Call(name, node, args, kind, template)

    def _with_lambda(self, name: str, node: Node, scope: _Scope) -> _Value:
        if name not in _LAMBDAS or len(node["arguments"]) != 2:
            raise _refuse(f"{name}()", _AT_HAND)
        rows = self.value(node["arguments"][0]["expression"], scope)
        function = node["arguments"][1]["expression"]
        if function["lhs"]["class"] != "COLUMN_REF":
            raise _refuse(f"{name}() with more than one parameter", _AT_HAND)
        self._numbers += 1
        parameter = f"v{self._numbers}_"
        given = str(function["lhs"]["column_names"][0]).lower()
        inner = replace(
            scope,
            lambdas={
                **scope.lambdas,
                given: _Value(parameter, rows.type.removesuffix("[]")),
            },
        )
        body = self.value(function["expr"], inner)
        if _LAMBDAS[name] == "filter":
            condition = self.cast(body, "BOOLEAN").sql
            return _Value(f"filter({rows.sql}, {parameter} -> {condition})", rows.type)
        return _Value(f"transform({rows.sql}, {parameter} -> {body.sql})", f"{body.type}[]")

    def _aggregate(self, call: _Call, scope: _Scope, over: str | None) -> _Value:
        node = call.node
        key = "filter_expr" if node["class"] == "WINDOW" else "filter"
        test = None if node[key] is None else self.condition(node[key], scope)
        ordered = node["arg_orders"] if node["class"] == "WINDOW" else node["order_bys"]["orders"]
        orders = [(self.value(one["expression"], scope), one) for one in ordered]
        summary = _Summary(self, call, test, bool(node["distinct"]), over, orders)
        return _AGGREGATES[call.name](summary)

    def _window(self, node: Node, scope: _Scope) -> _Value:
        name = str(node["function_name"]).lower()
        call = self._call(name, node, self._args(node, scope))
        if node.get("exclude_clause", "NO_OTHER") != "NO_OTHER":
            raise _refuse("EXCLUDE in a window", "leave the row out by a condition")
        over = self._over(node, scope, name)
        if name in _AGGREGATES and node["type"] == "WINDOW_AGGREGATE":
            return self._aggregate(call, scope, over)
        if name not in _WINDOWS:
            raise _refuse(f"{name}() as a window", _AT_HAND)
        if not node["orders"]:
            raise _refuse(
                f"{name}() over a window without ORDER BY",
                "say by ORDER BY which row comes first",
            )
        told = _WINDOWS[name](self, call)
        nulls = " IGNORE NULLS" if node["ignore_nulls"] else ""
        return self.typed(f"{told}{nulls} OVER ({over})", call.type)

    def _over(self, node: Node, scope: _Scope, name: str) -> str:
        parts = []
        if node["partitions"]:
            keys = ", ".join(self.value(one, scope).sql for one in node["partitions"])
            parts.append(f"PARTITION BY {keys}")
        if node["orders"]:
            keys = ", ".join(
                f"{self.value(one['expression'], scope).sql} {_direction(one)}"
                for one in node["orders"]
            )
            parts.append(f"ORDER BY {keys}")
        if name not in _UNFRAMED and (frame := self._frame(node, scope)):
            parts.append(frame)
        return " ".join(parts)

    def _frame(self, node: Node, scope: _Scope) -> str:
        start, end = node["start"], node["end"]
        if (start, end) == ("UNBOUNDED_PRECEDING", "CURRENT_ROW_RANGE") and not node["orders"]:
            return ""
        if "GROUPS" in start + end:
            raise _refuse("a window frame of GROUPS", "use ROWS or RANGE")
        unit = "ROWS" if "ROWS" in start + end else "RANGE"
        bounds = []
        for bound, key in ((start, "start_expr"), (end, "end_expr")):
            if bound.startswith("EXPR"):
                if unit == "RANGE":
                    raise _refuse("a window frame of RANGE with an offset", "use ROWS, or a join")
                number = _whole(node[key])
                if number is None:
                    raise _refuse("a computed window frame", "write a number")
                bounds.append(f"{number} {'PRECEDING' if 'PRECEDING' in bound else 'FOLLOWING'}")
            elif bound.startswith("UNBOUNDED"):
                bounds.append(bound.replace("_", " "))
            else:
                bounds.append("CURRENT ROW")
        return f"{unit} BETWEEN {bounds[0]} AND {bounds[1]}"

    def typed(self, sql: str, kind: str) -> _Value:
        """What Spark gives, as the type that stands for DuckDB's."""
        if kind in ("VARCHAR", "BOOLEAN", "DATE", *_MOMENTS) or kind.endswith("[]"):
            return _Value(sql, kind)
        return _Value(f"CAST({sql} AS {spark_type(kind)})", kind)


_COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_NOT_DISTINCT_FROM": "<=>",
}


def _modifier(node: Node, kind: str) -> Node | None:
    return next((one for one in node["modifiers"] if one["type"] == kind), None)


def _direction(order: Node) -> str:
    """NULLs come last in DuckDB, whichever way it sorts."""
    down = "DESC" if order["type"] == "DESCENDING" else "ASC"
    return f"{down} NULLS {'FIRST' if 'FIRST' in order['null_order'] else 'LAST'}"


def _whole(node: Node | None) -> int | None:
    """The number that a node is, if it is a constant one."""
    if node is None or node["class"] != "CONSTANT" or node["literal"]["kind"] != "INTEGER":
        return None
    return int(node["literal"]["text"])


def _bare(node: Any) -> Any:
    """A node without what tells where it stood and how it is called."""
    if isinstance(node, dict):
        left_out = ("query_location", "query_location_length", "alias")
        return {key: _bare(value) for key, value in node.items() if key not in left_out}
    return [_bare(one) for one in node] if isinstance(node, list) else node


def _path(told: Any) -> list[str]:
    """The parts of a qualified name, however the parser tells it."""
    if isinstance(told, str):
        return [told]
    if isinstance(told, dict):
        return [str(one) for one in told.get("path") or told.get("column_names") or told.values()]
    return [str(one) for one in told]


def _renamed(
    columns: Sequence[tuple[str, str]], names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    given = [*names, *(name for name, _ in columns[len(names) :])]
    return tuple((name, kind) for name, (_, kind) in zip(given, columns, strict=True))


def _holds_aggregate(node: Any) -> bool:
    """Whether an expression sums up rows; what is over a window or in a subquery does not."""
    if isinstance(node, list):
        return any(_holds_aggregate(one) for one in node)
    if not isinstance(node, dict) or node.get("class") == "SUBQUERY":
        return False
    if node.get("class") == "FUNCTION" and node["function_name"].lower() in _AGGREGATES:
        return True
    if node.get("class") == "WINDOW":
        return any(_holds_aggregate(one) for one in (node["arguments"], node["partitions"]))
    return any(_holds_aggregate(one) for one in node.values())


def _by_name(parts: Sequence[_Relation]) -> list[_Relation]:
    """Queries with all columns of each, matched by their names."""
    names: dict[str, tuple[str, str]] = {}
    for part in parts:
        for name, kind in part.columns:
            names.setdefault(name.lower(), (name, kind))
    widened = []
    for part in parts:
        had = {name.lower(): (name, kind) for name, kind in part.columns}
        items = [
            f"{_name(had[key][0]) if key in had else 'CAST(NULL AS INT)'} AS {_name(name)}"
            for key, (name, _) in names.items()
        ]
        columns = tuple(
            (name, had[key][1] if key in had else _NULL) for key, (name, _) in names.items()
        )
        widened.append(_Relation(f"SELECT {', '.join(items)} FROM ({part.sql})", columns))
    return widened


# casts


class _Cast:
    """One cast. `tried` gives NULL where the other form fails."""

    def __init__(self, translator: _Translator, *, tried: bool) -> None:
        self._translator = translator
        self._tried = tried
        self._word = "try_cast" if tried else "CAST"

    def sql(self, value: _Value, kind: str) -> str:
        """A value of one type as of another."""
        one, was = value.sql, value.type
        if was.endswith("[]") and kind.endswith("[]"):
            inner = self.sql(_Value("x_", was[:-2]), kind[:-2])
            return f"transform({one}, x_ -> {inner})"
        if was in _TEXTS and kind in _TEXTS:
            return one
        if kind in _TEXTS:
            return self._to_text(one, was)
        if was in _TEXTS:
            return self._from_text(one, kind)
        if kind == "BOOLEAN" and (_exact(was) or was in _FLOATS):
            return f"({one} <> 0)"
        if was == "BOOLEAN" and (_exact(kind) or kind in _FLOATS):
            return f"CAST({one} AS {spark_type(kind)})"
        if kind in _FLOATS and (_exact(was) or was in _FLOATS):
            return self._to_float(one, was, kind)
        if _exact(kind) and (_exact(was) or was in _FLOATS):
            return self._to_exact(one, was, kind)
        if was in _DAYS and kind in _DAYS:
            return f"CAST({one} AS {spark_type(kind)})"
        raise _refuse(f"a cast of {was} to {kind}", "cast by way of a type that tables hold")

    def _to_exact(self, one: str, was: str, kind: str) -> str:
        told = spark_type(kind)
        if was in _INTEGERS:
            return f"{self._word}({one} AS {told})"
        if _exact(was):
            if kind in _INTEGERS and (_digits(was) or (0, 0))[1]:
                one = f"round({one}, 0)"
            return f"{self._word}({one} AS {told})"
        if kind in _INTEGERS and kind != "HUGEINT":
            return f"{self._word}(rint({one}) AS {told})"
        return self._translator.let(one, lambda value: self._decimal_of(value, kind))

    def _decimal_of(self, value: str, kind: str) -> str:
        """DuckDB multiplies and rounds halves away from zero; to a HUGEINT it rounds to even."""
        precision, scale = _digits(kind) or (38, 0)
        if kind == "HUGEINT":
            whole = f"rint({value})"
        else:
            scaled = f"{value} * 1E{scale}D" if scale else value
            whole = self._translator.let(scaled, _half_away)
        number = f"CAST({self._word}({whole} AS BIGINT) AS DECIMAL(38,0))"
        if precision > 18:  # in two halves of 63 bits, either of which is exact
            number = self._translator.let(whole, self._wide)
        if scale:
            number = f"({number} * CAST('1E-{scale}' AS DECIMAL({scale + 1},{scale})))"
        return f"{self._word}({number} AS DECIMAL({precision},{scale}))"

    def _wide(self, whole: str) -> str:
        high = f"floor(abs({whole}) / 9223372036854775808D)"
        low = f"CAST(abs({whole}) - {high} * 9223372036854775808D AS BIGINT)"
        sign = f"CASE WHEN {whole} < 0 THEN -1BD ELSE 1BD END"
        told = _string("retailmart: a DOUBLE of more than 37 digits as an exact number")
        fails = f"WHEN {whole} IS NOT NULL THEN CAST(raise_error({told}) AS DECIMAL(38,0))"
        if self._tried:
            fails = f"WHEN abs({whole}) < 1E38D THEN CAST(raise_error({told}) AS DECIMAL(38,0))"
        return (
            f"CASE WHEN abs({whole}) < 8.5E37D THEN CAST({sign} * (CAST({high} AS DECIMAL(38,0))"
            f" * 9223372036854775808BD + CAST({low} AS DECIMAL(38,0))) AS DECIMAL(38,0))"
            f" {fails} END"
        )

    def _to_float(self, one: str, was: str, kind: str) -> str:
        if was != "HUGEINT":
            return f"CAST({one} AS {kind})"
        told = _string(f"retailmart: {_LARGE}; cast to DECIMAL(38,0) first")
        return self._translator.let(
            one,
            lambda value: (
                f"CASE WHEN abs({value}) > 9007199254740992 THEN"
                f" CAST(raise_error({told}) AS {kind}) ELSE CAST({value} AS {kind}) END"
            ),
        )

    def _to_text(self, one: str, was: str) -> str:
        if was == "BOOLEAN" or _exact(was):
            return f"CAST({one} AS STRING)"
        if was == "DATE":
            return self._translator.let(one, _day_text)
        if was in _MOMENTS:
            zone = "+00" if was == _TZ else ""
            return self._translator.let(one, lambda value: _moment_text(value, zone))
        if was in _FLOATS:
            raise _refuse(
                f"a {was} as text",
                "cast it to DECIMAL first, as in CAST(CAST(x AS DECIMAL(18,4)) AS VARCHAR)",
            )
        raise _refuse(f"a {was} as text", "take its parts apart first")

    def _from_text(self, one: str, kind: str) -> str:
        if kind not in ("BOOLEAN", "DATE", "DOUBLE", *_MOMENTS) and not _exact(kind):
            raise _refuse(f"a cast of text to {kind}", "cast to a type that tables hold")
        found = self._translator.let(one, lambda value: _read(value, kind))
        if self._tried:
            return found
        return self._translator.let(
            one,
            lambda value: (
                f"CASE WHEN {value} IS NULL THEN NULL ELSE coalesce({_read(value, kind)},"
                f" CAST(raise_error(concat('retailmart: ', {_string(f'no {kind}: ')}, {value}))"
                f" AS {spark_type(kind)})) END"
            ),
        )


_LARGE = "a whole number of more than 15 digits, a sum perhaps, as DOUBLE"


def _day_text(value: str) -> str:
    year = f"CAST(1 - year({value}) AS STRING)"
    return (
        f"CASE WHEN {value} >= DATE'0001-01-01' THEN ltrim('+', CAST({value} AS STRING))"
        f" ELSE concat(lpad({year}, greatest(4, length({year})), '0'),"
        f" date_format({value}, '-MM-dd'), ' (BC)') END"
    )


def _moment_text(value: str, zone: str) -> str:
    return (
        f"CASE WHEN {value} >= TIMESTAMP'0001-01-01 00:00:00'"
        f" THEN concat(ltrim('+', CAST({value} AS STRING)), '{zone}')"
        f" ELSE concat({_day_text(f'CAST({value} AS DATE)')},"
        f" substr(CAST({value} AS STRING), locate(' ', CAST({value} AS STRING))), '{zone}') END"
    )


_BLANK = r"[ \t-\r]*"
_WHITE = " \t\n\v\f\r"
_FIGURES = r"[0-9]+(?:_[0-9]+)*"
_POWER = rf"(?:[eE][+-]?{_FIGURES})?"
_NUMBER = rf"{_BLANK}[+-]?(?:{_FIGURES}(?:\.(?:{_FIGURES})?)?|\.{_FIGURES}){_POWER}{_BLANK}"
_WHOLE = rf"{_BLANK}[+-]?[0-9]{{1,18}}{_BLANK}"
_FLOATING = _NUMBER.replace("[+-]?", r"(?:\+?-|\+)?", 1)
_CODED = r"0[xX][0-9a-fA-F]{1,16}|0[bB][01]{1,64}"
_NO_NUMBER = rf"{_BLANK}(?:\+?-|\+)?(?i:nan|inf|infinity){_BLANK}"
_DAY = (
    "(?:"
    + "|".join(rf"[0-9]{{1,6}}{x}[0-9]{{1,2}}{x}[0-9]{{1,2}}" for x in ("-", "/", " ", r"\\"))
    + ")"
)
_PLAIN_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_PLAIN_MOMENT = (
    rf"{_PLAIN_DAY}[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?"
    r"(?:Z|[+-](?:0[0-9]|1[0-7]):[0-5][0-9])?"
)
_TIME = r"[0-9]{1,2}:[0-9]{0,2}(?::(?:[0-9]{1,2}(?:\.[0-9]*)?)?)?"
_ZONE = rf"(?:(?:Z|[+-][0-9]{{2}}(?::?[0-9]{{2}}(?::[0-9]{{2}})?)?| +(?i:utc)){_BLANK}| *)"
# Microseconds since 1970 reach further than the year 99999, but not by much.
_ITS_DAY = _DAY.replace("{1,6}", "{1,5}")
_BEHIND = rf"(?:T|[ \t-\r]){_BLANK}"
_MOMENT = rf"{_BLANK}{_ITS_DAY}{_BEHIND}{_TIME}{_ZONE}"


def _matches(value: str, pattern: str) -> str:
    return f"{value} RLIKE " + _string(rf"\A(?:{pattern})\z")


def _found(value: str, pattern: str, group: int = 1) -> str:
    return f"regexp_extract({value}, {_string(pattern)}, {group})"


def _read(value: str, kind: str) -> str:
    """What a text says, NULL where it says nothing of this type.

    The first case of each takes nearly all, and is cheap.
    """
    if kind == "BOOLEAN":
        return (
            f"CASE WHEN lower({value}) IN ('true', 't', 'yes', 'y', '1') THEN true"
            f" WHEN lower({value}) IN ('false', 'f', 'no', 'n', '0') THEN false END"
        )
    told = spark_type(kind)
    bare = f"trim(BOTH {_string(_WHITE)} FROM {value})"
    number = f"replace({bare}, '_', '')"
    if kind == "DATE":
        return (
            f"CASE WHEN {_matches(value, _PLAIN_DAY)} THEN try_cast({value} AS DATE)"
            f" WHEN {_matches(value, _BLANK + _DAY + _BLANK)} THEN {_read_day(value)}"
            f" WHEN {_matches(value, _MOMENT)} AND {_read_moment(value)} IS NOT NULL"
            f" THEN {_read_day(value)} END"
        )
    if kind in _MOMENTS:
        cases = [
            f"WHEN {_matches(value, _BLANK + _ITS_DAY)} THEN CAST({_read_day(value)} AS TIMESTAMP)"
        ]
        moment = _read_moment(value)
        if kind == _TZ:
            plain = _matches(value, _PLAIN_MOMENT)
            cases.insert(0, f"WHEN {plain} THEN try_cast({value} AS TIMESTAMP)")
            offset = _offset(value)
            moment = f"timestamp_micros(unix_micros({moment}) - {offset})"
        cases.append(f"WHEN {_matches(value, _MOMENT)} THEN {moment}")
        return f"CASE {' '.join(cases)} END"
    if kind in _FLOATS:
        number = f"replace({number}, '+-', '-')"
        word = f"replace(replace(lower({bare}), '+', ''), '-nan', 'nan')"
        return (
            f"CASE WHEN {_matches(value, _FLOATING)} THEN try_cast({number} AS {told})"
            f" WHEN {_matches(value, _NO_NUMBER)} THEN try_cast({word} AS {told}) END"
        )
    if kind in _INTEGERS and kind != "HUGEINT":
        base = f"CASE WHEN lower({value}) LIKE '0x%' THEN 16 ELSE 2 END"
        forms = {
            _WHOLE: f"try_cast({value} AS BIGINT)",
            _NUMBER: f"try_cast({number} AS DECIMAL(38,0))",
            _CODED: f"try_cast(conv(substr({number}, 3), {base}, 10) AS DECIMAL(38,0))",
        }
        told = " ".join(
            f"WHEN {_matches(value, form)} THEN try_cast({found} AS {told})"
            for form, found in forms.items()
        )
        return f"CASE {told} END"
    return f"CASE WHEN {_matches(value, _NUMBER)} THEN try_cast({number} AS {told}) END"


def _read_day(value: str) -> str:
    """A day in any of the forms that count; what comes behind it does not matter here."""
    parts = [
        _found(value, rf"\A{_BLANK}([0-9]+)[-/ \\]([0-9]+)[-/ \\]([0-9]+)", group)
        for group in (1, 2, 3)
    ]
    year = f"lpad({parts[0]}, greatest(4, length({parts[0]})), '0')"
    return f"try_cast(concat({year}, '-', {parts[1]}, '-', {parts[2]}) AS DATE)"


def _read_moment(value: str) -> str:
    """A day and a time of it, whatever its zone: fractions are cut to microseconds."""
    clock = rf"\A{_BLANK}{_DAY}{_BEHIND}([0-9]+):([0-9]*):?([0-9]*)\.?([0-9]{{0,6}})"
    hour, minute, second = (
        f"CAST(concat('0', {_found(value, clock, group)}) AS BIGINT)" for group in (1, 2, 3)
    )
    micros = f"CAST(rpad({_found(value, clock, 4)}, 6, '0') AS BIGINT)"
    whole = f"({hour} * 3600 + {minute} * 60 + {second})"
    return (
        f"CASE WHEN {minute} < 60 AND {second} < 60 AND ({hour} < 24 OR ({hour} = 24"
        f" AND {minute} + {second} + {micros} = 0))"
        f" THEN timestamp_micros(unix_micros(CAST({_read_day(value)} AS TIMESTAMP))"
        f" + {whole} * 1000000L + {micros}) END"
    )


def _offset(value: str) -> str:
    """The microseconds by which a zone is ahead."""
    zone = r"([+-])([0-9]{2}):?([0-9]{0,2}):?([0-9]{0,2})[ \t-\r]*\z"
    zone = rf":[0-9.:]*{zone}"
    sign = f"CASE WHEN {_found(value, zone)} = '-' THEN -1L ELSE 1L END"
    hours, minutes, seconds = (
        f"CAST(concat('0', {_found(value, zone, group)}) AS BIGINT)" for group in (2, 3, 4)
    )
    return f"({sign}) * ({hours} * 3600 + {minutes} * 60 + {seconds}) * 1000000L"


# functions: each tells in Spark's words what DuckDB's means

_Handler = Callable[[_Translator, _Call], _Value]
_FUNCTIONS: dict[str, _Handler] = {}
_LAMBDAS = {
    "list_filter": "filter",
    "array_filter": "filter",
    "filter": "filter",
    "list_transform": "transform",
    "array_transform": "transform",
    "list_apply": "transform",
    "apply": "transform",
}
_INSTEAD: dict[str, str] = {}
for _clock in (
    "now",
    "current_date",
    "today",
    "current_timestamp",
    "get_current_timestamp",
):
    _INSTEAD[_clock] = "use getvariable('as_of'), the run's moment"


def _function(*names: str) -> Callable[[_Handler], _Handler]:
    def registered(handler: _Handler) -> _Handler:
        for name in names:
            _FUNCTIONS[name] = handler
        return handler

    return registered


def _nullif(t: _Translator, value: str, one: str, other: str) -> str:
    return f"CASE WHEN {one} = {other} THEN NULL ELSE {value} END"


def _element(t: _Translator, values: Sequence[_Value]) -> _Value:
    rows, index = values
    number = t.whole(index)
    if not number:
        raise _refuse("a computed place in a list", "write the place as a number: list[1]")
    return _Value(f"try_element_at({rows.sql}, {number})", rows.type.removesuffix("[]"))


@_function("+", "-", "*", "%", "mod", "add", "subtract", "multiply")
def _arithmetic(t: _Translator, call: _Call) -> _Value:
    sign = {"mod": "%", "add": "+", "subtract": "-", "multiply": "*"}.get(call.name, call.name)
    kinds = [arg.type for arg in call.args]
    if len(call.args) == 1:
        return t.typed(f"({sign} {call.text(0)})", call.type)
    if any(kind in (*_DAYS, "INTERVAL") for kind in kinds):
        return _calendar(t, call, sign)
    if call.type in _FLOATS:
        one, other = (t.cast(arg, call.type).sql for arg in call.args)
        if sign == "%":
            return _Value(_remainder(t, one, other), call.type)
        return _Value(f"({one} {sign} {other})", call.type)
    if not _exact(call.type):
        raise _refuse(f"{' '.join(kinds)} with {sign}", "cast to numbers")
    if call.type in _INTEGERS or sign != "*":
        args = [t.cast(arg, call.type) for arg in call.args]
    else:
        args = [t.cast(a, "HUGEINT") if a.type == "HUGEINT" else a for a in call.args]
    return t.typed(f"({args[0].sql} {sign} {args[1].sql})", call.type)


def _remainder(t: _Translator, one: str, other: str) -> str:
    return t.let(
        other,
        lambda by: f"CASE WHEN {by} = 0 THEN {one} * CAST('NaN' AS DOUBLE) ELSE {one} % {by} END",
    )


@_function("/")
def _divide(t: _Translator, call: _Call) -> _Value:
    one, other = (t.cast(arg, "DOUBLE") for arg in call.args)
    if other.literal is not None and float(t.evaluated(other.literal) or 0):
        return _Value(f"({one.sql} / {other.sql})", "DOUBLE")
    return _Value(
        t.let(one.sql, lambda top: t.let(other.sql, lambda by: _quotient(top, by))),
        "DOUBLE",
    )


def _quotient(top: str, by: str) -> str:
    """What floats give: a number through nothing is infinite, and nothing through it is none."""
    sign = f"CASE WHEN CAST({by} AS STRING) LIKE '-%' THEN -1D ELSE 1D END"
    nothing = "CAST('NaN' AS DOUBLE)"
    return (
        f"CASE WHEN {by} <> 0 THEN {top} / {by}"
        f" WHEN {by} = 0 AND ({top} = 0 OR {top} = {nothing}) THEN {nothing}"
        f" WHEN {by} = 0 AND {top} IS NOT NULL"
        f" THEN signum({top}) * {sign} * CAST('Infinity' AS DOUBLE) END"
    )


@_function("//", "divide")
def _whole_quotient(t: _Translator, call: _Call) -> _Value:
    if call.type not in _INTEGERS:
        return _divide(t, replace(call, type="DOUBLE"))
    one, other = (t.cast(arg, call.type) for arg in call.args)
    if call.type != "HUGEINT":
        return t.typed(f"({one.sql} div {other.sql})", call.type)
    told = t.let(
        one.sql,
        lambda top: t.let(other.sql, lambda by: f"(({top} - {top} % {by}) / {by})"),
    )
    return t.typed(told, call.type)


def _calendar(t: _Translator, call: _Call, sign: str) -> _Value:
    one, other = call.args
    if one.type == other.type == "DATE" and sign == "-":
        return t.typed(f"datediff({one.sql}, {other.sql})", call.type)
    if one.type == "DATE" and other.type in _INTEGERS and sign in "+-":
        word = "date_add" if sign == "+" else "date_sub"
        return _Value(f"{word}({one.sql}, {t.cast(other, 'INTEGER').sql})", "DATE")
    if other.type == "DATE" and one.type in _INTEGERS and sign == "+":
        return _Value(f"date_add({other.sql}, {t.cast(one, 'INTEGER').sql})", "DATE")
    if one.type == "INTERVAL" and sign == "+":
        one, other = other, one
    if one.type in _DAYS and other.type == "INTERVAL" and sign in "+-":
        moment = t.cast(one, call.type).sql
        for span in _spans(t, other):
            moment = f"({moment} {sign} {span})"
        return _Value(moment, call.type)
    told = f"{one.type} {sign} {other.type}"
    raise _refuse(told, "count with date_diff(), or add to_days(n) or to_months(n) to a date")


_SPANS = {
    "to_years": "make_ym_interval({}, 0)",
    "to_quarters": "make_ym_interval(0, 3 * {})",
    "to_months": "make_ym_interval(0, {})",
    "to_weeks": "make_dt_interval(7 * {}, 0, 0, 0)",
    "to_days": "make_dt_interval({}, 0, 0, 0)",
    "to_hours": "make_dt_interval(0, {}, 0, 0)",
    "to_minutes": "make_dt_interval(0, 0, {}, 0)",
}


def _spans(t: _Translator, value: _Value) -> list[str]:
    """An interval as Spark's kinds of it: months first, as DuckDB adds them."""
    if value.literal is None:
        return [value.sql]
    parts = ("year", "month", "day", "hour", "minute", "microsecond")
    told = ", ".join(f"date_part('{part}', {value.literal})" for part in parts)
    years, months, days, hours, minutes, micros = t.evaluated(f"[{told}]")
    months += 12 * years
    seconds = Decimal((hours * 60 + minutes) * 60) + Decimal(micros) / 1_000_000
    spans = [f"make_ym_interval(0, {months})"] if months else []
    if days or seconds or not months:
        spans.append(f"make_dt_interval({days}, 0, 0, CAST('{seconds:f}' AS DECIMAL(18,6)))")
    return spans


@_function(*_SPANS)
def _span(t: _Translator, call: _Call) -> _Value:
    number = t.cast(call.args[0], "INTEGER").sql
    return _Value(_SPANS[call.name].format(number), "INTERVAL")


@_function("||")
def _joined(t: _Translator, call: _Call) -> _Value:
    if call.type.endswith("[]"):
        raise _refuse("|| of lists", _AT_HAND)
    parts = ", ".join(t.cast(arg, "VARCHAR").sql for arg in call.args)
    return _Value(f"concat({parts})", "VARCHAR")


@_function("concat")
def _concat(t: _Translator, call: _Call) -> _Value:
    parts = ", ".join(f"coalesce({t.cast(arg, 'VARCHAR').sql}, '')" for arg in call.args)
    return _Value(f"concat({parts})", "VARCHAR")


@_function("concat_ws")
def _concat_ws(t: _Translator, call: _Call) -> _Value:
    parts = ", ".join(t.cast(arg, "VARCHAR").sql for arg in call.args)
    return _Value(f"concat_ws({parts})", "VARCHAR")


@_function("nullif")
def _nullif_function(t: _Translator, call: _Call) -> _Value:
    one, other = t.alike(call.args)
    return _Value(_nullif(t, call.text(0), one.sql, other.sql), call.args[0].type)


@_function("if")
def _if(t: _Translator, call: _Call) -> _Value:
    test, one, other = call.args
    return _Value(
        f"CASE WHEN {t.cast(test, 'BOOLEAN').sql} THEN {t.cast(one, call.type).sql}"
        f" ELSE {t.cast(other, call.type).sql} END",
        call.type,
    )


@_function("ifnull")
def _ifnull(t: _Translator, call: _Call) -> _Value:
    parts = ", ".join(t.cast(arg, call.type).sql for arg in call.args)
    return _Value(f"coalesce({parts})", call.type)


@_function("greatest", "least")
def _extreme(t: _Translator, call: _Call) -> _Value:
    args = [t.cast(arg, call.type).sql for arg in call.args]
    return _Value(f"{call.name}({', '.join(args)})" if len(args) > 1 else args[0], call.type)


@_function("error")
def _error(t: _Translator, call: _Call) -> _Value:
    return _Value(f"{_RAISE}{call.text(0)})", _NULL)


@_function("abs")
def _abs(t: _Translator, call: _Call) -> _Value:
    return t.typed(f"abs({call.text(0)})", call.type)


@_function("sign")
def _sign(t: _Translator, call: _Call) -> _Value:
    told = f"signum({call.text(0)})"
    if call.args[0].type in _FLOATS:
        told = t.let(
            call.text(0),
            lambda v: f"CASE WHEN {v} = CAST('NaN' AS DOUBLE) THEN 0D ELSE signum({v}) END",
        )
    return t.typed(told, call.type)


@_function("isnan", "isinf", "isfinite")
def _kind_of_float(t: _Translator, call: _Call) -> _Value:
    value = t.cast(call.args[0], "DOUBLE").sql
    told = {
        "isnan": f"({value} = CAST('NaN' AS DOUBLE))",
        "isinf": f"(abs({value}) = CAST('Infinity' AS DOUBLE))",
        "isfinite": f"(abs({value}) < CAST('Infinity' AS DOUBLE))",
    }
    return _Value(told[call.name], "BOOLEAN")


@_function("round", "ceil", "ceiling", "floor", "trunc")
def _round(t: _Translator, call: _Call) -> _Value:
    value = call.args[0]
    if call.name == "round" and _exact(call.type):
        digits = int(t.evaluated(call.args[1].literal or "0")) if len(call.args) > 1 else 0
        if call.type in _INTEGERS and digits >= 0:
            return t.cast(value, call.type)
        return t.typed(f"round({value.sql}, {digits})", call.type)
    if _exact(call.type) and value.type in _INTEGERS:
        return t.cast(value, call.type)
    if _exact(call.type) and call.name != "trunc":
        return t.typed(f"{call.name.removesuffix('ing')}({value.sql})", call.type)
    if call.type in _FLOATS:
        return _Value(
            t.let(t.cast(value, call.type).sql, lambda v: _float_round(t, call, v)),
            call.type,
        )
    raise _refuse(f"{call.name}()", _AT_HAND)


def _float_round(t: _Translator, call: _Call, value: str) -> str:
    if call.name == "floor":
        return f"(rint({value}) - CASE WHEN rint({value}) > {value} THEN 1D ELSE 0D END)"
    if call.name in ("ceil", "ceiling"):
        return (
            f"CASE WHEN {value} > -1 AND {value} < 0 THEN -0D ELSE"
            f" rint({value}) - CASE WHEN rint({value}) < {value} THEN -1D ELSE 0D END END"
        )
    if call.name == "round" and (len(call.args) == 1 or call.args[1].literal is not None):
        digits = int(t.evaluated(call.args[1].literal or "0")) if len(call.args) > 1 else 0
        scaled = value
        if digits:
            scaled = f"({value} {'*' if digits > 0 else '/'} 1E{abs(digits)}D)"
        whole = t.let(scaled, _half_away)
        if digits:
            whole = f"({whole} {'/' if digits > 0 else '*'} 1E{abs(digits)}D)"
        return whole
    raise _refuse(f"{call.name}() of a {call.type}", _AT_HAND)


def _half_away(value: str) -> str:
    low = f"CAST(floor(abs({value})) AS DOUBLE)"
    return (
        f"CASE WHEN abs({value}) < 4503599627370496D THEN signum({value}) *"
        f" ({low} + CASE WHEN abs({value}) - {low} >= 0.5D THEN 1D ELSE 0D END)"
        f" ELSE {value} END"
    )


@_function("sqrt")
def _sqrt(t: _Translator, call: _Call) -> _Value:
    return _Value(f"sqrt({t.cast(call.args[0], 'DOUBLE').sql})", "DOUBLE")


# text

_SPACES = "".join(map(chr, (0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)))


@_function("trim", "ltrim", "rtrim")
def _trim(t: _Translator, call: _Call) -> _Value:
    side = {"trim": "BOTH", "ltrim": "LEADING", "rtrim": "TRAILING"}[call.name]
    chars = call.text(1) if len(call.args) > 1 else _string(_SPACES)
    return _Value(f"trim({side} {chars} FROM {call.text(0)})", "VARCHAR")


@_function("length", "len", "strlen", "char_length", "character_length")
def _length(t: _Translator, call: _Call) -> _Value:
    if call.args[0].type.endswith("[]"):
        return t.typed(f"array_size({call.text(0)})", call.type)
    word = "octet_length" if call.name == "strlen" else "char_length"
    return t.typed(f"{word}({call.text(0)})", call.type)


@_function("upper", "lower", "ucase", "lcase")
def _letters(t: _Translator, call: _Call) -> _Value:
    word = {"ucase": "upper", "lcase": "lower"}.get(call.name, call.name)
    return _Value(t.let(call.text(0), lambda value: _in_letters(word, value)), "VARCHAR")


def _in_letters(word: str, value: str) -> str:
    """Letter by letter, by DuckDB's own table: Java makes SS of ß, and its tables have an age."""
    letters, others = _letter_table(word)
    return (
        f"CASE WHEN octet_length({value}) = char_length({value}) THEN {word}({value})"
        f" ELSE translate({value}, {_string(letters)}, {_string(others)}) END"
    )


@cache
def _letter_table(word: str) -> tuple[str, str]:
    """All letters that upper() or lower() changes, and what becomes of each."""
    with closing(_duckdb().cursor()) as connection:
        found = connection.execute(
            f"SELECT string_agg(c, '' ORDER BY c), string_agg({word}(c), '' ORDER BY c) FROM"
            # The numbers left out stand for no letters, and chr() refuses them.
            " (SELECT chr(CASE WHEN n BETWEEN 55296 AND 57343 THEN 1 ELSE n END::INTEGER) AS c"
            f" FROM range(1, 1114112) t(n)) WHERE {word}(c) <> c"
        ).fetchall()
    return str(found[0][0]), str(found[0][1])


@_function("contains", "starts_with", "ends_with", "prefix", "suffix", "^@")
def _holds(t: _Translator, call: _Call) -> _Value:
    if call.args[0].type.endswith("[]"):
        raise _refuse("contains() of a list", "use list_filter")
    word = {"contains": "contains", "ends_with": "endswith", "suffix": "endswith"}.get(
        call.name, "startswith"
    )
    return _Value(f"{word}({call.text(0)}, {call.text(1)})", "BOOLEAN")


@_function("replace")
def _replace(t: _Translator, call: _Call) -> _Value:
    return _Value(f"replace({call.text(0)}, {call.text(1)}, {call.text(2)})", "VARCHAR")


@_function("lpad", "rpad")
def _pad(t: _Translator, call: _Call) -> _Value:
    if call.args[2].literal in (None, "''"):
        raise _refuse(f"{call.name}() with a computed text", "write the text to fill with")
    told = f"{call.text(0)}, {t.cast(call.args[1], 'INTEGER').sql}, {call.text(2)}"
    return _Value(f"{call.name}({told})", "VARCHAR")


@_function("repeat")
def _repeat(t: _Translator, call: _Call) -> _Value:
    return _Value(f"repeat({call.text(0)}, {t.cast(call.args[1], 'INTEGER').sql})", "VARCHAR")


@_function("instr", "strpos", "position")
def _place(t: _Translator, call: _Call) -> _Value:
    return t.typed(f"instr({call.text(0)}, {call.text(1)})", call.type)


@_function("ascii", "unicode", "ord")
def _code(t: _Translator, call: _Call) -> _Value:
    return t.typed(f"ascii({call.text(0)})", call.type)


@_function("translate")
def _translate(t: _Translator, call: _Call) -> _Value:
    if call.args[1].literal is None or call.args[2].literal is None:
        raise _refuse("translate() of computed letters", "write the letters")
    return _Value(f"translate({', '.join(arg.sql for arg in call.args)})", "VARCHAR")


@_function("left", "right")
def _end(t: _Translator, call: _Call) -> _Value:
    value, count = call.args
    number = t.cast(count, "INTEGER").sql
    if count.literal is None or count.literal.startswith("-"):
        size = f"char_length({value.sql})"
        number = f"CASE WHEN {number} < 0 THEN {size} + {number} ELSE {number} END"
    return _Value(f"{call.name}({value.sql}, {number})", "VARCHAR")


@_function("substr", "substring")
def _substr(t: _Translator, call: _Call) -> _Value:
    value, start, *size = (
        call.args[0],
        *(t.cast(arg, "INTEGER") for arg in call.args[1:]),
    )
    plain = [t.whole(arg) for arg in call.args[1:]]
    if (plain[0] or 0) > 0 and (not size or (plain[1] is not None and plain[1] >= 0)):
        return _Value(f"substr({', '.join(v.sql for v in (value, start, *size))})", "VARCHAR")
    told = t.let(value.sql, lambda text: _cut(text, start.sql, size[0].sql if size else None))
    return _Value(told, "VARCHAR")


def _cut(text: str, start: str, size: str | None) -> str:
    """A part of a text from anywhere: from the end, from before it, backwards."""
    length = f"char_length({text})"
    first = (
        f"CASE WHEN {start} > 0 THEN {start} - 1 WHEN {start} = 0 THEN -1"
        f" ELSE {length} + {start} END"
    )
    low, high = first, length
    if size is not None:
        low = f"(({first}) + least({size}, 0))"
        high = f"(({first}) + greatest({size}, 0))"
    low = f"greatest({low}, 0)"
    nothing = f"{start} IS NULL" + (f" OR {size} IS NULL" if size is not None else "")
    return (
        f"CASE WHEN {nothing} THEN NULL"
        f" ELSE substr({text}, {low} + 1, greatest({high} - {low}, 0)) END"
    )


@_function("split_part")
def _split_part(t: _Translator, call: _Call) -> _Value:
    if call.args[1].literal in (None, "''"):
        raise _refuse("split_part() by a computed or empty text", "write the text to split by")
    number = t.cast(call.args[2], "INTEGER").sql
    told = f"split_part({call.text(0)}, {call.text(1)}, {number})"
    if not t.whole(call.args[2]):
        told = f"CASE WHEN {number} = 0 AND {call.text(0)} IS NOT NULL THEN '' ELSE {told} END"
    return _Value(told, "VARCHAR")


@_function("string_split", "str_split", "split", "string_to_array")
def _string_split(t: _Translator, call: _Call) -> _Value:
    if call.args[1].literal in (None, "''"):
        raise _refuse(f"{call.name}() by a computed or empty text", "write the text to split by")
    pattern = re.sub(r"(\W)", r"\\\1", str(t.evaluated(call.args[1].literal or "")))
    return _Value(f"split({call.text(0)}, {_string(pattern)}, -1)", "VARCHAR[]")


_LIKES = ("~~", "!~~", "~~*", "!~~*", "like_escape", "not_like_escape", "ilike_escape")


@_function(*_LIKES, "not_ilike_escape")
def _like(t: _Translator, call: _Call) -> _Value:
    value, pattern = call.text(0), f"replace({call.text(1)}, '\\\\', '\\\\\\\\')"
    escape = t.evaluated(call.args[2].literal or "''") if len(call.args) > 2 else ""
    if call.args[1].literal is not None:
        pattern = _string(_like_pattern(str(t.evaluated(call.args[1].literal)), str(escape)))
    elif len(call.args) > 2:
        raise _refuse("LIKE with a computed pattern and ESCAPE", "write the pattern as a text")
    if "*" in call.name or "ilike" in call.name:
        value, pattern = (
            t.let(one, lambda text: _in_letters("lower", text)) for one in (value, pattern)
        )
    word = "NOT LIKE" if call.name.startswith(("!", "not")) else "LIKE"
    return _Value(f"({value} {word} {pattern})", "BOOLEAN")


def _like_pattern(pattern: str, escape: str) -> str:
    """A pattern in which a backslash escapes, as Spark wants it."""
    told, letters = "", iter(pattern)
    for letter in letters:
        if escape and letter == escape:
            letter = next(letters, "")  # noqa: PLW2901 the one that it makes plain
            told += f"\\{letter}" if letter in "%_\\" and letter else letter
        else:
            told += "\\\\" if letter == "\\" else letter
    return told


@_function("regexp_full_match", "regexp_matches")
def _regexp(t: _Translator, call: _Call) -> _Value:
    pattern = _pattern(t, call, 2)
    if call.name == "regexp_full_match":
        pattern = rf"\A(?:{pattern})\z"
    return _Value(f"({call.text(0)} RLIKE {_string(pattern)})", "BOOLEAN")


@_function("regexp_extract")
def _regexp_extract(t: _Translator, call: _Call) -> _Value:
    group = t.whole(call.args[2]) if len(call.args) > 2 else 0
    if group is None:
        raise _refuse("regexp_extract() of named or computed groups", "write the group's number")
    pattern = _string(_pattern(t, call, 3))
    return _Value(f"regexp_extract({call.text(0)}, {pattern}, {group})", "VARCHAR")


@_function("regexp_replace")
def _regexp_replace(t: _Translator, call: _Call) -> _Value:
    if call.args[2].literal is None:
        raise _refuse("regexp_replace() with a computed text", "write the text to put there")
    pattern = _pattern(t, call, 3)
    if r"(?<" in pattern or t.evaluated(f"regexp_matches('', {call.args[1].literal})"):
        raise _refuse("regexp_replace() of what may be empty", "let the pattern take a letter")
    flags = str(t.evaluated(call.args[3].literal or "''")) if len(call.args) > 3 else ""
    shift = 0
    if "g" not in flags:  # all before the first is put back as it was
        pattern, shift = rf"\A([\s\S]*?)(?:{pattern})", 1
    told = "$1" if shift else ""
    text = str(t.evaluated(call.args[2].literal))
    for number, slash, plain in re.findall(r"\\(\d)|(\\.?)|([^\\]+)", text):
        if slash and slash != "\\\\":
            raise _refuse(f"the replacement {text!r}", "use \\1 to \\9 and plain text")
        plain = "\\" if slash else plain  # noqa: PLW2901 what the slash stands for
        told += f"${int(number) + shift}" if number else ""
        told += re.sub(r"([\\$0-9])", r"\\\1", plain)  # a figure would belong to a group's
    return _Value(
        f"regexp_replace({call.text(0)}, {_string(pattern)}, {_string(told)})",
        "VARCHAR",
    )


def _pattern(t: _Translator, call: _Call, options: int) -> str:
    """A pattern of RE2 in Java's words."""
    if any(arg.literal is None for arg in call.args[1:2] + call.args[options:]):
        raise _refuse(f"{call.name}() with a computed pattern", "write the pattern as a text")
    flags = str(t.evaluated(call.args[options].literal or "''")) if len(call.args) > options else ""
    if strange := set(flags) - set("gcis"):
        raise _refuse(f"{call.name}() with the options {sorted(strange)}", "use i, s or g")
    pattern = str(t.evaluated(call.args[1].literal or "''"))
    return _JavaPattern(pattern, ignoring_case="i" in flags, dot_all="s" in flags).told()


class _JavaPattern:
    """RE2's pattern in the words of Java: letter by letter, and refused where they differ."""

    _CLASSES: ClassVar = {
        "d": "0-9",
        "w": "0-9A-Za-z_",
        "s": r"\t\n\f\r ",
        "alpha": "A-Za-z",
        "digit": "0-9",
        "alnum": "0-9A-Za-z",
        "upper": "A-Z",
        "lower": "a-z",
        "space": r"\t-\r ",
        "blank": r"\t ",
        "word": "0-9A-Za-z_",
        "xdigit": "0-9A-Fa-f",
        "punct": r"!-/:-@\[-`{-~",
    }
    _WORD = "[0-9A-Za-z_]"
    _BOUND = rf"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))"

    def __init__(self, pattern: str, *, ignoring_case: bool, dot_all: bool) -> None:
        self._pattern = pattern
        self._at = 0
        self._dot = r"[\s\S]" if dot_all else r"[^\n]"
        self._start = "(?iu)" if ignoring_case else ""

    def told(self) -> str:
        """The whole pattern."""
        parts = [self._start]
        while self._at < len(self._pattern):
            parts.append(self._next())
        return "".join(parts)

    def _refuse(self, what: str) -> RetailmartError:
        return _refuse(f"{what} in the pattern {self._pattern!r}", "write it in plainer signs")

    def _take(self, pattern: str) -> str | None:
        match = re.compile(pattern).match(self._pattern, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]

    def _next(self) -> str:
        if self._take(r"\["):
            return self._set()
        if self._take(r"\\"):
            return self._escaped(within=False)
        if opened := self._take(r"\((?:\?(?:P?<\w+>|[imsU]*(?:-[imsU]+)?[:)]))?"):
            return self._group(opened)
        if repeated := self._take(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??"):
            return repeated
        letter = self._pattern[self._at]
        self._at += 1
        if letter == ".":
            return self._dot
        if letter == "$":
            return r"\z"
        if letter == "^":
            return r"\A"
        return letter if letter in "|()" else _plain_letter(letter)

    def _group(self, opened: str) -> str:
        if "<" in opened:
            return "("
        flags = opened[2:-1]
        if not opened.startswith("(?") or not flags:
            return opened
        if set(flags) != {"i"}:
            raise self._refuse(f"the flags {flags}")
        return f"(?iu{opened[-1]}"

    def _escaped(self, *, within: bool) -> str:
        if code := self._take(r"x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]+\}"):
            return _plain_letter(chr(int(code.strip("x{}"), 16)))
        letter = self._take(r"[\s\S]") or ""
        if letter in "dws":
            return self._CLASSES[letter] if within else f"[{self._CLASSES[letter]}]"
        if letter in "DWS" and not within:
            return f"[^{self._CLASSES[letter.lower()]}]"
        if letter in "tnfrv":
            return {"v": r"\x0b"}.get(letter, f"\\{letter}")
        if letter in "bAz" and not within:
            return self._BOUND if letter == "b" else f"\\{letter}"
        if letter and not letter.isalnum():
            return _plain_letter(letter)
        raise self._refuse(f"\\{letter}")

    def _set(self) -> str:
        told = "[^" if self._take(r"\^") else "["
        first = True
        while first or not self._take(r"\]"):
            first = False
            if self._at >= len(self._pattern):
                raise self._refuse("an open [")
            if name := self._take(r"\[:\w+:\]"):
                if name[2:-2] not in self._CLASSES:
                    raise self._refuse(name)
                told += self._CLASSES[name[2:-2]]
            elif self._take(r"\\"):
                told += self._escaped(within=True)
            elif self._take(r"-(?=[^\]])") and not told.endswith(("[", "^")):
                told += "-"
            else:
                told += _plain_letter(self._take(r"[\s\S]") or "")
        return told + "]"


def _plain_letter(letter: str) -> str:
    """One letter that means itself, in a set and elsewhere."""
    if letter.isalnum() or ord(letter) > 127:
        return letter
    return f"\\x{ord(letter):02x}"


@_function("json_object")
def _json_object(t: _Translator, call: _Call) -> _Value:
    keys, values = call.args[::2], call.args[1::2]
    parts = []
    for key, value in zip(keys, values, strict=True):
        if key.literal is None or value.type not in _TEXTS:
            raise _refuse("json_object() of anything but texts", "cast the values to VARCHAR")
        told = json.dumps(str(t.evaluated(key.literal)), ensure_ascii=False) + ":"
        parts.append(f"{_string(told)}, coalesce({_json_text(value.sql)}, 'null')")
    inside = ", ',', ".join(parts)
    return _Value(f"concat('{{', {inside}, '}}')" if parts else "'{}'", "JSON")


def _json_text(value: str) -> str:
    return f"substr(to_json(array({value})), 2, length(to_json(array({value}))) - 2)"


@_function("json_extract_string")
def _json_extract(t: _Translator, call: _Call) -> _Value:
    if call.args[1].literal != "'$.*'":
        raise _refuse("json_extract_string()", _AT_HAND)
    return _Value(f"map_values(from_json({call.text(0)}, 'MAP<STRING,STRING>'))", "VARCHAR[]")


@_function("json_keys")
def _json_keys(t: _Translator, call: _Call) -> _Value:
    return _Value(f"json_object_keys({call.text(0)})", "VARCHAR[]")


@_function("list_value")
def _list(t: _Translator, call: _Call) -> _Value:
    inner = call.type.removesuffix("[]")
    told = ", ".join(t.cast(arg, inner).sql for arg in call.args)
    return _Value(f"array({told})", call.type)


@_function("range", "generate_series")
def _range(t: _Translator, call: _Call) -> _Value:
    if call.type != "BIGINT[]":
        raise _refuse("a range of anything but whole numbers", "add the numbers to the date")
    args = [t.cast(arg, "BIGINT") for arg in call.args]
    if len(args) == 1:
        args.insert(0, _Value("0L", "BIGINT", "0"))
    step = t.whole(args.pop()) if len(args) == 3 else 1
    if not step:
        raise _refuse(f"{call.name}() with a computed step", "write the step as a number")
    start, stop = (arg.sql for arg in args)
    last = stop if call.name == "generate_series" else f"({stop} {'-' if step > 0 else '+'} 1L)"
    told = f"sequence({start}, {last}, {step}L)"
    return _Value(
        f"CASE WHEN {start} IS NULL OR {stop} IS NULL THEN NULL"
        f" WHEN {start} {'<=' if step > 0 else '>='} {last}"
        f" THEN {told} ELSE CAST(array() AS ARRAY<BIGINT>) END",
        "BIGINT[]",
    )


@_function("list_contains", "array_contains", "list_has", "array_has")
def _list_contains(t: _Translator, call: _Call) -> _Value:
    rows, value = call.args
    inner = t.common([_Value("", rows.type.removesuffix("[]")), value])
    listed, one = t.cast(rows, f"{inner}[]").sql, t.cast(value, inner).sql
    return _Value(
        f"CASE WHEN {listed} IS NOT NULL AND {one} IS NOT NULL"
        f" THEN coalesce(array_contains({listed}, {one}), false) END",
        "BOOLEAN",
    )


@_function("array_to_string", "list_to_string")
def _list_text(t: _Translator, call: _Call) -> _Value:
    return _Value(
        f"array_join({t.cast(call.args[0], 'VARCHAR[]').sql}, {call.text(1)})",
        "VARCHAR",
    )


@_function("list_sort", "array_sort")
def _list_sort(t: _Translator, call: _Call) -> _Value:
    if len(call.args) > 1:
        raise _refuse(f"{call.name}() with a direction", "sort upwards")
    return _Value(f"array_sort({call.text(0)})", call.type)


@_function("list_max", "list_min", "array_max", "array_min")
def _list_bound(t: _Translator, call: _Call) -> _Value:
    return _Value(f"array_{call.name[-3:]}({call.text(0)})", call.type)


@_function("unnest")
def _unnest(t: _Translator, call: _Call) -> _Value:
    rows = call.args[0]
    return _Value(f"explode({rows.sql})", rows.type.removesuffix("[]"))


# dates

_PARTS = {
    "year": ("year", "years", "y", "yr", "yrs"),
    "quarter": ("quarter", "quarters"),
    "month": ("month", "months", "mon", "mons"),
    "week": ("week", "weeks", "w"),
    "day": ("day", "days", "d", "dayofmonth"),
    "hour": ("hour", "hours", "h", "hr", "hrs"),
    "minute": ("minute", "minutes", "m", "min", "mins"),
    "second": ("second", "seconds", "s", "sec", "secs"),
    "millisecond": ("millisecond", "milliseconds", "ms", "msec", "msecs"),
    "microsecond": ("microsecond", "microseconds", "us", "usec", "usecs"),
}
_PART_OF = {alias: part for part, aliases in _PARTS.items() for alias in aliases}
_MICROS = {
    "hour": 3_600_000_000,
    "minute": 60_000_000,
    "second": 1_000_000,
    "millisecond": 1_000,
    "microsecond": 1,
}


def _part(t: _Translator, call: _Call, value: _Value) -> str:
    if value.literal is None:
        raise _refuse(f"{call.name}() with a computed part", "write the part, as in 'month'")
    word = str(t.evaluated(value.literal)).lower()
    if word not in _PART_OF:
        raise _refuse(f"{call.name}() with {word!r}", f"use one of {', '.join(_PARTS)}")
    return _PART_OF[word]


def _as_days(t: _Translator, values: Sequence[_Value]) -> list[_Value]:
    return [v if v.type in _DAYS else t.cast(v, "TIMESTAMP") for v in values]


@_function("date_trunc", "datetrunc")
def _date_trunc(t: _Translator, call: _Call) -> _Value:
    part = _part(t, call, call.args[0])
    value = _as_days(t, call.args[1:])[0]
    return _Value(f"date_trunc('{part}', {t.cast(value, 'TIMESTAMP').sql})", call.type)


@_function("date_diff", "datediff")
def _date_diff(t: _Translator, call: _Call) -> _Value:
    part = _part(t, call, call.args[0])
    one, other = _as_days(t, call.args[1:])
    if part in _MICROS:
        size = _MICROS[part]
        counted = [
            f"unix_micros({t.cast(v, 'TIMESTAMP').sql})"
            if v.type == "DATE"
            else f"unix_micros({v.sql})"
            for v in (other, one)
        ]
        if size > 1:
            counted = [f"CAST(floor({c} / {size}BD) AS BIGINT)" for c in counted]
        return t.typed(f"({counted[0]} - {counted[1]})", call.type)
    first, second = (t.cast(v, "DATE").sql for v in (one, other))
    if part == "day":
        return t.typed(f"datediff({second}, {first})", call.type)
    if part == "week":
        return t.typed(f"(datediff({second}, {first}) div 7)", call.type)
    size = {"month": 1, "quarter": 3, "year": 12}[part]
    counted = [f"((year({v}) * 12 + month({v}) - 1) div {size})" for v in (second, first)]
    return t.typed(f"({counted[0]} - {counted[1]})", call.type)


@_function(
    "year",
    "month",
    "quarter",
    "day",
    "dayofmonth",
    "hour",
    "minute",
    "second",
    "week",
    "weekofyear",
    "dayofyear",
    "doy",
    "dow",
    "dayofweek",
    "weekday",
    "isodow",
    "isoyear",
)
def _extract(t: _Translator, call: _Call) -> _Value:
    return _extracted(t, call.name, call.args[0], call.type)


_EXTRACTS = {
    **{part: f"{part}({{}})" for part in ("year", "month", "quarter", "hour", "minute", "second")},
    "day": "dayofmonth({})",
    "week": "weekofyear({})",
    "weekofyear": "weekofyear({})",
    "doy": "dayofyear({})",
    "dayofyear": "dayofyear({})",
    "dow": "(dayofweek({}) - 1)",
    "dayofweek": "(dayofweek({}) - 1)",
    "weekday": "(dayofweek({}) - 1)",
    "isodow": "(weekday({}) + 1)",
    "isoyear": "extract(YEAROFWEEK FROM {})",
    "millisecond": "(pmod(unix_micros({}), 60000000L) div 1000L)",
    "microsecond": "pmod(unix_micros({}), 60000000L)",
}
_TIMES = ("hour", "minute", "second", "millisecond", "microsecond")


@_function("epoch", "epoch_ms", "epoch_us")
def _epoch(t: _Translator, call: _Call) -> _Value:
    if call.args[0].type not in _DAYS:
        raise _refuse(f"{call.name}() of a {call.args[0].type}", "cast to TIMESTAMPTZ")
    micros = f"unix_micros({t.cast(call.args[0], 'TIMESTAMP').sql})"
    told = {
        "epoch": f"(CAST({micros} AS DOUBLE) / 1E6D)",
        "epoch_ms": f"round({micros} / 1000BD)",
        "epoch_us": micros,
    }
    return t.typed(told[call.name], call.type)


@_function("to_timestamp")
def _to_timestamp(t: _Translator, call: _Call) -> _Value:
    if call.args[0].type not in _INTEGERS:
        raise _refuse("to_timestamp() of fractions", "count in whole seconds")
    return _Value(f"timestamp_micros({t.cast(call.args[0], 'BIGINT').sql} * 1000000L)", call.type)


@_function("timezone")
def _in_zone(t: _Translator, call: _Call) -> _Value:
    zone, value = call.args
    if zone.literal is None or str(t.evaluated(zone.literal)).upper() != "UTC":
        raise _refuse("AT TIME ZONE of anything but 'UTC'", "add the hours: ts + INTERVAL 1 HOUR")
    return _Value(t.cast(value, call.type).sql, call.type)


@_function("monthname", "dayname")
def _day_name(t: _Translator, call: _Call) -> _Value:
    letters = "MMMM" if call.name == "monthname" else "EEEE"
    return _Value(f"date_format({t.cast(call.args[0], 'TIMESTAMP').sql}, '{letters}')", "VARCHAR")


def _extracted(t: _Translator, part: str, value: _Value, kind: str) -> _Value:
    part = part if part in _EXTRACTS else _PART_OF.get(part, part)
    if part == "epoch":
        return _epoch(t, _Call("epoch", {}, (value,), kind, ""))
    if part not in _EXTRACTS:
        raise _refuse(f"date_part({part!r})", f"use one of {', '.join(_EXTRACTS)}")
    value = _as_days(t, [value])[0]
    if value.type == "DATE" and part in _TIMES:
        value = t.cast(value, "TIMESTAMP")
    return t.typed(_EXTRACTS[part].format(value.sql), kind)


@_function("date_part", "datepart")
def _date_part(t: _Translator, call: _Call) -> _Value:
    if call.args[0].literal is None:
        raise _refuse("date_part() with a computed part", "write the part, as in 'month'")
    part = str(t.evaluated(call.args[0].literal)).lower()
    return _extracted(t, part, call.args[1], "DOUBLE" if part == "epoch" else "BIGINT")


@_function("strftime")
def _strftime(t: _Translator, call: _Call) -> _Value:
    value, shape = call.args
    if shape.type in _DAYS:
        value, shape = shape, value
    if shape.literal is None:
        raise _refuse("strftime() with a computed form", "write the form, as in '%Y-%m'")
    moment = t.cast(value, "TIMESTAMP").sql
    parts = [_letters_of(moment, code) for code in _format_parts(str(t.evaluated(shape.literal)))]
    return _Value(f"concat({', '.join(parts)})" if parts else "''", "VARCHAR")


_CODES = {
    "Y": "yyyy", "m": "MM", "d": "dd", "H": "HH", "M": "mm", "S": "ss", "y": "yy", "j": "DDD",
    "b": "MMM", "B": "MMMM", "a": "EEE", "A": "EEEE", "p": "a", "I": "hh", "f": "SSSSSS",
    "-d": "d", "-m": "M", "-H": "H", "-M": "m", "-S": "s", "-I": "h", "-j": "D",
}  # fmt: skip
_COUNTED = {
    "u": "CAST(weekday({}) + 1 AS STRING)",
    "w": "CAST(dayofweek({}) - 1 AS STRING)",
    "V": "lpad(CAST(weekofyear({}) AS STRING), 2, '0')",
    "G": "lpad(CAST(extract(YEAROFWEEK FROM {}) AS STRING), 4, '0')",
}


def _format_parts(text: str) -> Iterator[str]:
    """A form of strftime's as Java's forms, each for one call, and codes that Java has not."""
    run: list[str] = []
    words = ""
    for code, plain in [*re.findall(r"%(-?[a-zA-Z%])|([^%]+|%)", text), ("", "")]:
        if plain or code == "%":
            words += plain or code
            continue
        if words:
            run.append("'" + words.replace("'", "''") + "'")
            words = ""
        if code in _CODES:
            run.append(_CODES[code])
            continue
        if run:
            yield "".join(run)
            run = []
        if code in _COUNTED:
            yield code
        elif code:
            known = ", %".join((*_CODES, *_COUNTED))
            raise _refuse(f"strftime() with %{code}", f"use one of %{known}")


def _letters_of(moment: str, part: str) -> str:
    if part in _COUNTED:
        return _COUNTED[part].format(moment)
    return f"date_format({moment}, {_string(part)})"


@_function("last_day")
def _last_day(t: _Translator, call: _Call) -> _Value:
    return _Value(f"last_day({t.cast(call.args[0], 'DATE').sql})", "DATE")


@_function("make_date")
def _make_date(t: _Translator, call: _Call) -> _Value:
    told = ", ".join(t.cast(arg, "INTEGER").sql for arg in call.args)
    return _Value(f"make_date({told})", "DATE")


# aggregates


@dataclass(frozen=True)
class _Summary:
    """An aggregate with all that belongs to it. `test` is its FILTER, `over` its window."""

    t: _Translator
    call: _Call
    test: str | None
    distinct: bool
    over: str | None
    orders: Sequence[tuple[_Value, Node]]

    def of(self, function: str, told: str) -> str:
        """An aggregate of Spark's over the rows that count."""
        distinct = "DISTINCT " if self.distinct else ""
        if self.over is not None:
            if self.distinct:
                raise _refuse("DISTINCT in a window", "count in a query of its own, and join it")
            if self.test is not None:
                told = f"CASE WHEN {self.test} THEN {told} END"
            return f"{function}({told}) OVER ({self.over})"
        filtered = f" FILTER (WHERE {self.test})" if self.test is not None else ""
        return f"{function}({distinct}{told}){filtered}"

    def rows(self, told: str, instead: str, test: str | None = None) -> str:
        """The values of all rows that count, as a list in the order asked for."""
        if not self.orders or self.over is not None:
            raise _refuse(
                f"{self.call.name}() without an ORDER BY of its own",
                f"say which row comes first, as in {self.call.name}(x ORDER BY y), {instead}",
            )
        keys = [f"'k{n}', {value.sql}" for n, (value, _) in enumerate(self.orders)]
        tests = " AND ".join(filter(None, (self.test, test)))
        filtered = f" FILTER (WHERE {tests})" if tests else ""
        listed = f"collect_list(named_struct({', '.join(keys)}, 'v', {told})){filtered}"
        steps = []
        for n, (_, order) in enumerate(self.orders):
            down, nulls = _direction(order).split(" NULLS ")
            last, less = (1 if nulls == "LAST" else -1), (-1 if down == "ASC" else 1)
            a, b = f"a_.k{n}", f"b_.k{n}"
            steps.append(
                f"WHEN {a} IS NULL AND {b} IS NOT NULL THEN {last}"
                f" WHEN {a} IS NOT NULL AND {b} IS NULL THEN {-last}"
                f" WHEN {a} < {b} THEN {less} WHEN {a} > {b} THEN {-less}"
            )
        ordered = f"array_sort({listed}, (a_, b_) -> CASE {' '.join(steps)} ELSE 0 END)"
        values = f"transform({ordered}, x_ -> x_.v)"
        return f"array_distinct({values})" if self.distinct else values


_Aggregate = Callable[[_Summary], _Value]
_AGGREGATES: dict[str, _Aggregate] = {}


def _summing(*names: str) -> Callable[[_Aggregate], _Aggregate]:
    def registered(handler: _Aggregate) -> _Aggregate:
        for name in names:
            _AGGREGATES[name] = handler
        return handler

    return registered


@_summing("count", "count_star")
def _count(s: _Summary) -> _Value:
    if not s.call.args:
        return _Value(s.of("count", "1"), "BIGINT")
    return _Value(s.of("count", s.call.text(0)), "BIGINT")


@_summing("sum")
def _sum(s: _Summary) -> _Value:
    value = s.call.args[0]
    if value.type in _FLOATS:
        raise _refuse(
            f"a sum of {value.type}",
            "it hangs on the order of the rows, on DuckDB too; sum exact numbers:"
            " sum(CAST(x AS DECIMAL(18,4)))",
        )
    return s.t.typed(s.of("sum", _summed(s, value)), s.call.type)


def _summed(s: _Summary, value: _Value) -> str:
    if value.type == "BOOLEAN":
        return s.t.cast(value, "INTEGER").sql
    return f"CAST({value.sql} AS DECIMAL(20,0))" if value.type == "BIGINT" else value.sql


@_summing("avg", "mean")
def _avg(s: _Summary) -> _Value:
    value = s.call.args[0]
    if value.type not in _INTEGERS:
        raise _refuse(
            f"avg() of {value.type}",
            "its last digit hangs on the plan, on DuckDB too; write sum(x) / count(x) of an exact"
            " number, as in CAST(x AS DECIMAL(18,4))",
        )
    total = s.t.typed(s.of("sum", _summed(s, value)), "HUGEINT")
    count = s.of("count", value.sql)
    return _Value(f"({s.t.cast(total, 'DOUBLE').sql} / nullif({count}, 0))", "DOUBLE")


@_summing("min", "max")
def _bound(s: _Summary) -> _Value:
    if len(s.call.args) > 1:
        raise _refuse(f"{s.call.name}() of several rows", "number the rows with row_number()")
    return _Value(s.of(s.call.name, s.call.text(0)), s.call.type)


@_summing("bool_or", "bool_and")
def _bools(s: _Summary) -> _Value:
    return _Value(s.of(s.call.name, s.t.cast(s.call.args[0], "BOOLEAN").sql), "BOOLEAN")


@_summing("count_if", "countif")
def _count_if(s: _Summary) -> _Value:
    test = s.t.cast(s.call.args[0], "BOOLEAN").sql
    return s.t.typed(s.of("count", f"CASE WHEN {test} THEN 1 END"), s.call.type)


@_summing("arg_max", "arg_min", "max_by", "min_by", "argmax", "argmin")
def _arg(s: _Summary) -> _Value:
    if len(s.call.args) > 2:
        raise _refuse(f"{s.call.name}() of several rows", "number the rows with row_number()")
    value, by = s.call.args
    word = "max_by" if "max" in s.call.name else "min_by"
    key = f"CASE WHEN {value.sql} IS NOT NULL THEN {by.sql} END"
    return _Value(s.of(word, f"{value.sql}, {key}"), s.call.type)


@_summing("string_agg", "group_concat", "listagg")
def _string_agg(s: _Summary) -> _Value:
    separator = s.call.text(1) if len(s.call.args) > 1 else "','"
    value = s.t.cast(s.call.args[0], "VARCHAR")
    rows = s.rows(
        value.sql,
        "its text must not hang on the order of rows",
        f"{value.sql} IS NOT NULL",
    )
    told = s.t.let(
        rows,
        lambda v: f"CASE WHEN array_size({v}) > 0 THEN array_join({v}, {separator}) END",
    )
    return _Value(told, "VARCHAR")


@_summing("list", "array_agg")
def _list_agg(s: _Summary) -> _Value:
    rows = s.rows(s.call.text(0), "its list must not hang on the order of rows")
    return _Value(
        s.t.let(rows, lambda v: f"CASE WHEN array_size({v}) > 0 THEN {v} END"),
        s.call.type,
    )


@_summing("first", "last", "any_value", "arbitrary")
def _first(s: _Summary) -> _Value:
    test = f"{s.call.text(0)} IS NOT NULL" if s.call.name == "any_value" else None
    rows = s.rows(s.call.text(0), "or use min() or max()", test)
    return _Value(f"try_element_at({rows}, {-1 if s.call.name == 'last' else 1})", s.call.type)


@_summing("median")
def _median(s: _Summary) -> _Value:
    value = s.call.args[0]
    if s.call.type != "DOUBLE" or not _exact(value.type):
        raise _refuse(
            f"median() of {value.type}",
            "number the rows with row_number(), and take the middle",
        )
    rows = f"array_sort({s.of('collect_list', s.t.cast(value, 'DOUBLE').sql)})"
    return _Value(s.t.let(rows, _middle), "DOUBLE")


def _middle(rows: str) -> str:
    low, high = (
        f"try_element_at({rows}, CAST((array_size({rows}) + {more}) div 2 AS INT))"
        for more in (1, 2)
    )
    return f"CASE WHEN array_size({rows}) = 0 THEN NULL ELSE {low} + ({high} - {low}) * 0.5D END"


for _inexact in (
    "stddev",
    "stddev_samp",
    "stddev_pop",
    "variance",
    "var_samp",
    "var_pop",
    "corr",
    "covar_pop",
    "covar_samp",
    "regr_slope",
    "product",
    "fsum",
    "sumkahan",
    "favg",
    "kahan_sum",
    "entropy",
    "skewness",
    "kurtosis",
    "geomean",
    "geometric_mean",
):
    _INSTEAD[_inexact] = "its last digits hang on the order of the rows; use exact sums and counts"
for _near in (
    "approx_count_distinct",
    "approx_quantile",
    "approx_top_k",
    "reservoir_quantile",
):
    _INSTEAD[_near] = "count exactly: count(DISTINCT x)"
for _part_of in ("quantile", "quantile_cont", "quantile_disc", "percentile_cont"):
    _INSTEAD[_part_of] = "number the rows with row_number() or ntile(), and take those you want"
_INSTEAD["mode"] = (
    "count the values in a query, and keep one with"
    " QUALIFY row_number() OVER (ORDER BY n DESC, value) = 1"
)

_UNFRAMED = {
    "row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead",
}  # fmt: skip
_WINDOWS: dict[str, Callable[[_Translator, _Call], str]] = {
    **{
        name: lambda _, call: f"{call.name}()"
        for name in ("row_number", "rank", "dense_rank", "percent_rank", "cume_dist")
    },
    "ntile": lambda t, call: f"ntile({t.cast(call.args[0], 'INTEGER').sql})",
    "first_value": lambda _, call: f"first_value({call.text(0)})",
    "first": lambda _, call: f"first_value({call.text(0)})",
    "last_value": lambda _, call: f"last_value({call.text(0)})",
    "last": lambda _, call: f"last_value({call.text(0)})",
    "nth_value": lambda _, call: f"nth_value({call.text(0)}, {call.text(1)})",
}


def _shifted(t: _Translator, call: _Call) -> str:
    value, *others = call.args
    told = [t.cast(value, call.type).sql]
    if others:
        number = t.whole(others[0])
        if number is None:
            raise _refuse(f"{call.name}() by a computed number", "write the number")
        told.append(str(number))
    if len(others) > 1:
        told.append(t.cast(others[1], call.type).sql)
    return f"{call.name}({', '.join(told)})"


_WINDOWS |= {"lag": _shifted, "lead": _shifted}
