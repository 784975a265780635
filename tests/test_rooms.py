"""The rooms of the house: who may import what, read from the source itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import retailmart
from retailmart.lake import layout
from retailmart.lake.layout import is_system_column
from retailmart.tables import FILE_ID, ROW

ROOT = Path(retailmart.__file__).parent
# From the top down; a module imports only from rooms below its own.
FLOORS = (
    {"__main__"},
    {"cli"},
    {"console"},
    {"api"},
    {"operations"},
    {"session", "template", "monitoring"},
    {"marts"},
    {"sources"},
    {"feeds"},
    {"files"},
    {"sheets"},
    {"engines", "lake", "ledger", "storage"},
    {"database"},
    {"tables"},
    {"project"},
    {"shortages"},
    {"report", "errors", "check_results", "stopping"},
)
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {
    "duckdb": {"engines"},
    "deltalake": {"lake"},
    "pyspark": {"engines"},
    "sqlalchemy": {"database", "ledger"},
    "sqlite3": {"database", "template"},
    "typer": {"cli"},
    "rich": {"console"},
    "yaml": {"project"},
    "pydantic": {"project"},
    "dotenv": {"project"},
    "cryptography": {"project"},
    "keyring": {"project"},
    "obstore": {"storage"},
    "botocore": {"storage"},
    "pymysql": {"database"},
    "connectorx": {"database"},
    "psycopg": {"database"},
    "openpyxl": {"sheets"},
    "watchfiles": {"operations"},
    "jinja2": {"operations"},
    "vl_convert": {"operations"},
    "dagster_pipes": {"cli"},
    "apprise": {"monitoring"},
    "openlineage": {"monitoring"},
}
# Finds what belongs to a kind of thing by its name, and is imported where a name is met.
REGISTRIES = {"retailmart.database.registry"}
SYSTEM_COLUMNS = {
    *(name for name in vars(layout).values() if isinstance(name, str) and is_system_column(name)),
    FILE_ID,
    ROW,
}
VALUES = {"tables", "errors", "report", "check_results", "stopping"}
# Dataclasses of these keep what a step works with; all others are values.
AT_WORK = {
    "cli/common.py",
    "database/shadow.py",
    "feeds/deliveries.py",
    "feeds/quarantine.py",
    "feeds/standings.py",
    "files/check_json.py",
    "files/scan.py",
    "marts/build.py",
    "marts/held.py",
    "marts/publish.py",
    "marts/splitting/lookups.py",
    "marts/splitting/rows.py",
    "operations/check.py",
    "operations/doctor/__init__.py",
    "operations/explain/__init__.py",
    "operations/explain/trace.py",
    "operations/watch/__init__.py",
    "operations/watch/health.py",
    "operations/work.py",
    "session.py",
    "sources/databases.py",
    "sources/shop_tables.py",
}
# What `cli/` calls. All else it gets as a value from the API, and may name its type.
BELOW_COMMANDS = {
    *("api", "console", "report", "errors", "check_results", "project", "shortages", "stopping"),
}
# Where imports may form a cycle: they find what belongs to a kind of thing by its name.
OPENING = {
    ("retailmart.project.addresses", "retailmart.database.registry"),
}


@dataclass(frozen=True)
class Import:
    """One import as it stands in the source."""

    file: str
    line: int
    room: str
    name: str
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"

    @property
    def to_room(self) -> str | None:
        """The room of ours that is imported, if it is one."""
        parts = self.name.split(".")
        if parts[0] != "retailmart":
            return None
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"


def modules() -> list[Path]:
    """All modules but the public door itself."""
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def imports(path: Path, root: Path = ROOT) -> Iterator[Import]:
    """Every import of a module, those inside functions too."""
    tree = ast.parse(path.read_text())
    relative = path.relative_to(root)
    room = relative.parts[0].removesuffix(".py")
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            line = getattr(node, "lineno", 0)
            yield Import(relative.as_posix(), line, room, name, id(node) in for_types)


ALL = [found for path in modules() for found in imports(path)]


def name_of(file: str) -> str:
    """The name under which a module of ours is imported."""
    name = file.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")
    return f"retailmart.{name}"


def cycles(edges: Iterable[tuple[str, str]]) -> list[set[str]]:
    """The groups of modules that import each other, directly or through others."""
    imported: dict[str, set[str]] = {}
    for one, other in edges:
        imported.setdefault(one, set()).add(other)
    reached: dict[str, set[str]] = {}
    for start in imported:
        found, waiting = set[str](), [start]
        while waiting:
            new = imported.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        reached[start] = found
    groups: list[set[str]] = []
    for one, found in reached.items():
        if one in found and not any(one in group for group in groups):
            groups.append({other for other in found if one in reached.get(other, ())})
    return groups


def test_every_module_has_a_room() -> None:
    """A new module finds its floor before it is imported by others."""
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in modules()}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("library", sorted(HEAVY))
def test_a_library_stays_in_its_room(library: str) -> None:
    """What a library can do is known in one room; others may name its types only."""
    astray = [
        str(found)
        for found in ALL
        if found.name.split(".")[0] == library
        and found.room not in HEAVY[library]
        and not found.for_types
        and not (library == "yaml" and found.room == "cli")
    ]
    assert astray == []


def test_imports_point_down() -> None:
    """No room knows the rooms above it."""
    upward = [
        str(found)
        for found in ALL
        if found.to_room in ROOMS
        and ROOMS[found.to_room] < ROOMS[found.room]
        and found.name.rpartition(".")[0] not in REGISTRIES
    ]
    assert upward == []


def test_siblings_do_not_know_each_other() -> None:
    """Rooms of one floor meet in the steps above them, or through values."""
    sideways = [
        str(found)
        for found in ALL
        if found.to_room in ROOMS
        and found.to_room != found.room
        and ROOMS[found.to_room] == ROOMS[found.room]
        and found.to_room not in VALUES
        and not (found.room == "lake" and found.to_room == "storage")
    ]
    assert sideways == []


def test_paths_and_columns_in_the_lake_have_one_home() -> None:
    """Nobody puts a table's path together, or takes it apart, by hand."""
    written = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in modules()
        if path.relative_to(ROOT).as_posix() not in ("lake/layout.py", "tables.py")
        for text, line in _texts(ast.parse(path.read_text()))
        if re.search(r"(?<![\w./])(raw|quarantine)/", text) or text in SYSTEM_COLUMNS
    ]
    assert written == []


def _texts(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The texts of a module and their lines, without its docstrings."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value, node.lineno


def test_the_public_door_is_not_used_from_inside() -> None:
    """Modules import each other where things are, never through the package's own door."""
    assert [str(found) for found in ALL if found.to_room == "__init__"] == []


def test_nobody_asks_for_an_engines_name() -> None:
    """A missing primitive belongs in the Engine, not in an `if engine ==`."""
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        if path.relative_to(ROOT).parts[0] != "engines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if ast.unparse(side).split(".")[-1] == "engine"
        or (isinstance(side, ast.Constant) and side.value in ("duckdb", "spark"))
    ]
    assert asked == []


def test_nobody_asks_which_database_it_is() -> None:
    """What differs between databases is a question to the Dialect, not an `if name ==`."""
    kinds = {"sqlite", "mysql", "mariadb", "postgres", "postgresql"}
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        if path.relative_to(ROOT).parts[0] != "database"
        # Which part of a URL is a password must be known before the URL can be parsed.
        and path.relative_to(ROOT).as_posix() != "project/addresses.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".startswith", ".get")))
        for side in ast.walk(node)
        if isinstance(side, ast.Constant) and side.value in kinds
    ]
    assert asked == []


def test_only_the_template_knows_retail() -> None:
    """No text elsewhere is the name of a feed, mart or table of the template, or has one in it."""
    project = ROOT / "template" / "project"
    names = {
        path.stem for kind in ("feeds", "marts", "tables") for path in project.glob(f"{kind}/*")
    }
    assert {"sales", "customer_mart"} <= names
    names -= {"orders"}  # part of an ORDER BY in sqlglot
    compound = re.compile("|".join(rf"\b{name}\b" for name in names if "_" in name))
    known = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in modules()
        if path.relative_to(ROOT).parts[0] != "template"
        for text, line in _texts(ast.parse(path.read_text()))
        if text in names or compound.search(text)
    ]
    assert known == []


def test_values_are_frozen() -> None:
    """A value can be handed on without a copy; only what a step keeps at work may change."""
    changing = {
        path.relative_to(ROOT).as_posix()
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for decorator in map(ast.unparse, node.decorator_list)
        if decorator.startswith("dataclass") and "frozen=True" not in decorator
    }
    assert changing == AT_WORK


def test_only_steps_speak_to_engines_by_protocol() -> None:
    """No room above the engines imports one of them; they ask for the protocol."""
    named = [
        str(found)
        for found in ALL
        if found.name.startswith("retailmart.engines.duckdb")
        and found.room != "engines"
        # What people read is a relation of DuckDB's, whichever engine runs.
        and found.file
        not in (
            "operations/read.py",
            "operations/ask.py",
            "operations/report/figures.py",
            "marts/marts_file.py",
        )
        # So is what explains a number, and reads refused rows: the keys of rows are DuckDB's.
        and not found.file.startswith("operations/explain/")
        and found.file not in ("operations/as_repaired.py", "operations/report/person.py")
    ]
    assert named == []


def test_no_module_imports_itself_through_others() -> None:
    """Modules form no cycle, late imports included: each can be understood after its imports."""
    known = {name_of(path.relative_to(ROOT).as_posix()) for path in modules()}
    edges = set()
    for found in ALL:
        if not found.for_types:
            target = found.name if found.name in known else found.name.rpartition(".")[0]
            edges.add((name_of(found.file), target))
    inside = {(one, other) for one, other in edges if other in known}
    assert inside >= OPENING
    assert [sorted(one) for one in cycles(inside - OPENING)] == []


def test_cycles_are_found() -> None:
    """The search above sees long cycles, and those of one module."""
    straight = {("a", "b"), ("b", "c"), ("a", "c")}
    assert cycles(straight) == []
    assert cycles({*straight, ("c", "a"), ("d", "a")}) == [{"a", "b", "c"}]
    assert cycles({*straight, ("c", "c")}) == [{"c"}]


def test_commands_call_the_api_alone() -> None:
    """A command parses, calls the API and prints; types of operations' values may be named."""
    more = [
        str(found)
        for found in ALL
        if found.room == "cli"
        and found.to_room not in (None, "cli", *BELOW_COMMANDS)
        and not found.for_types
    ]
    assert more == []


def test_the_fault_campaign_shares_only_what_is_meant_for_it() -> None:
    """Tests know nothing of chaos/, which has from tests what is in tests/support/ only."""
    top = Path(__file__).parents[1]
    found = [
        one
        for folder in ("tests", "chaos")
        for path in sorted((top / folder).rglob("*.py"))
        for one in imports(path, top)
    ]
    assert {one.room for one in found} == {"tests", "chaos"}
    wrong = [
        str(one)
        for one in found
        if one.name.split(".")[0] in {"tests", "chaos"} - {one.room}
        and not (one.room == "chaos" and f"{one.name}.".startswith("tests.support."))
    ]
    assert wrong == []
