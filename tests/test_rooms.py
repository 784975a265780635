"""The rooms of the house: who may import what, read from the source itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
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
    {"console", "template"},
    {"api"},
    {"operations"},
    {"session"},
    {"marts"},
    {"sources"},
    {"feeds"},
    {"files"},
    {"sheets"},
    {"engines", "lake", "ledger", "storage"},
    {"database"},
    {"tables"},
    {"project"},
    {"report", "errors", "check_results"},
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
}
# Finds what belongs to a kind of thing by its name, and is imported where a name is met.
REGISTRIES = {"retailmart.database.registry"}
SYSTEM_COLUMNS = {
    *(name for name in vars(layout).values() if isinstance(name, str) and is_system_column(name)),
    FILE_ID,
    ROW,
}
VALUES = {"tables", "errors", "report", "check_results"}


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


def imports(path: Path) -> Iterator[Import]:
    """Every import of a module, those inside functions too."""
    tree = ast.parse(path.read_text())
    relative = path.relative_to(ROOT)
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


def test_no_circle_of_imports() -> None:
    """Each module can be read before those that use it.

    A package that opens what is in it, and a registry, import that when they are asked.
    """
    names = {
        ".".join(("retailmart", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path.relative_to(ROOT).as_posix()
        for path in modules()
    }
    needs = {
        name: {
            module
            for found in ALL
            if found.file == file and not found.for_types
            for module in (found.name, found.name.rpartition(".")[0])
            if module in names and module not in REGISTRIES
            if not (file.endswith("__init__.py") and module.startswith(f"{name}."))
        }
        - {name}
        for name, file in names.items()
    }
    list(TopologicalSorter(needs).static_order())


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


def test_only_steps_speak_to_engines_by_protocol() -> None:
    """No room above the engines imports one of them; they ask for the protocol."""
    named = [
        str(found)
        for found in ALL
        if found.name.startswith("retailmart.engines.duckdb")
        and found.room not in ("engines", "api")
    ]
    assert named == []
