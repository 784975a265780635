"""functions.py: the user's own scalar functions over Arrow, for the SQL of marts.

The file is read without running it; only an engine that is opened for marts imports it.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from retailmart.errors import SettingsError
from retailmart.project.decimals import as_decimals
from retailmart.project.documents import NAME
from retailmart.project.lexer import words_of
from retailmart.project.types import ColumnType, parse_type

if TYPE_CHECKING:
    import ast

    import pyarrow as pa

FILE = "functions.py"
_MODULE = "retailmart_functions"
_BY_PLACE = Parameter.POSITIONAL_ONLY
_FIX = f"Correct {FILE}, and look again with: retailmart check"
# Takes and returns pyarrow arrays, all of one length.
Vectorised = Callable[..., Any]


@dataclass(frozen=True)
class Function:
    """A scalar function that marts can call. It receives NULLs like any value.

    `source_digest` changes with its own text and with all that it uses from its file. `line` is its
    first line.
    """

    name: str
    parameters: tuple[ColumnType, ...]
    returns: ColumnType
    source_digest: str
    line: int = field(default=1, compare=False)


class FunctionFailed(Exception):
    """A function failed, or returned an undeclared result; the message says where, in one line."""


@dataclass(frozen=True)
class Functions:
    """A project's functions.py: its definitions, and the exact text that was read."""

    defined: Mapping[str, Function] = field(default_factory=dict)
    path: Path = Path(FILE)
    source: bytes = field(default=b"", repr=False)

    def used_in(self, query: str) -> dict[str, str]:
        """The source digests of the functions that a query may call, by name.

        A matching word is enough. Mistaking a column for a call costs a rebuild; missing a call
        costs wrong figures.
        """
        words = words_of(query) if self.defined else frozenset[str]()
        return {
            name: function.source_digest
            for name, function in sorted(self.defined.items())
            if name.lower() in words
        }

    def load(self) -> dict[Function, Vectorised]:
        """Import the file. SettingsError names the line of a failure."""
        if not self.defined:
            return {}
        module = ModuleType(_MODULE)
        module.__file__ = str(self.path)
        sys.modules[_MODULE] = module  # a dataclass looks up its own module there
        try:
            # Not from its path: the file may have been edited since its digests were taken.
            code = compile(self.source, str(self.path), "exec", dont_inherit=True)
            exec(code, module.__dict__)  # noqa: S102
        except (Exception, SystemExit) as error:
            place = f"{FILE}:{_line_of(error.__traceback__) or 1}"
            raise SettingsError([f"{place}: {_words(error)}"], _import_fix(error)) from error
        found = {function: getattr(module, name, None) for name, function in self.defined.items()}
        if problems := [
            f"{FILE}:{function.line}: {function.name} is no function any more once the file has run"
            for function, code in found.items()
            if not callable(code)
        ]:
            raise SettingsError(problems, _FIX)
        return {function: code for function, code in found.items() if code is not None}


def read_functions(folder: Path, taken: Mapping[str, str], problems: list[str]) -> Functions:
    """Read a project's functions.py without running it; mistakes go to `problems`.

    `taken` maps the names of tables in lower case to the files that declare them.
    """
    path = folder / FILE
    if not path.is_file():
        return Functions()
    import ast

    source = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, str(path))
            compile(tree, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        problems.append(f"{FILE}:{error.lineno or 1}: {error.msg}")
        return Functions()
    except (ValueError, RecursionError) as error:
        problems.append(f"{FILE}: is no Python: {error}")
        return Functions()
    defined: dict[str, Function] = {}
    first: dict[str, int] = {}
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name[0] == "_":
            continue
        wrong = [*_name_mistakes(node, taken, first), *_mistakes(node)]
        problems += [f"{FILE}:{line}: {node.name}: {message}" for line, message in wrong]
        first.setdefault(node.name.lower(), node.lineno)
        if not wrong:
            defined[node.name] = Function(
                node.name,
                tuple(parse_type(_text(argument.annotation)) for argument in _arguments(node)),
                parse_type(_text(node.returns)),
                _digest(tree, node.name),
                node.lineno,
            )
    return Functions(defined, path, source)


def guarded(function: Function, code: Vectorised, gives: pa.DataType) -> Vectorised:
    """The function as an engine calls it: any error in it becomes one FunctionFailed.

    `gives` is the engine's Arrow type for the declared return type.
    """

    def call(*arguments: pa.Array) -> pa.Array:
        try:
            result = code(*arguments)
        except (Exception, SystemExit) as error:
            line = _line_of(error.__traceback__) or function.line
            message = f"{FILE}:{line}: {function.name}: {_words(error)}"
            raise FunctionFailed(message) from error
        return _checked(function, result, len(arguments[0]), gives)

    # Engines count the parameters in a function's signature.
    shown = [Parameter(f"p{n}", _BY_PLACE) for n in range(len(function.parameters))]
    call.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    return call


def _checked(function: Function, result: Any, rows: int, gives: pa.DataType) -> pa.Array:
    import pyarrow as pa

    place = f"{FILE}:{function.line}: {function.name}"
    if not isinstance(result, pa.Array | pa.ChunkedArray):
        raise FunctionFailed(f"{place} gave {type(result).__name__}, no pyarrow Array")
    if len(result) != rows:
        raise FunctionFailed(f"{place} gave {len(result)} values for {rows} rows")
    if result.type == gives:
        return result
    if function.returns.is_decimal and pa.types.is_floating(result.type):
        raise FunctionFailed(
            f"{place} gave {result.type} for {function.returns}: money never passes through a"
            " float; compute it in decimals"
        )
    try:
        if not function.returns.is_decimal:
            return result.cast(gives)
        # Arrow requires space for any value of the integer's type.
        whole = pa.types.is_integer(result.type)
        roomy = result.cast(pa.decimal128(20, 0)) if whole else result
        return as_decimals(roomy, function.returns)
    except (pa.ArrowException, ArithmeticError) as error:
        message = f"{place} gave {result.type}, not the {function.returns} it declares"
        raise FunctionFailed(f"{message}: {_first_line(error)}") from error


def _name_mistakes(
    node: ast.FunctionDef | ast.AsyncFunctionDef, taken: Mapping[str, str], first: Mapping[str, int]
) -> Iterator[tuple[int, str]]:
    name = node.name.lower()
    if not NAME.fullmatch(node.name):
        yield node.lineno, "a function is named with letters, digits and _, letter first"
    if name in taken:
        yield node.lineno, f"{taken[name]} has this name too; give the function another"
    if name in first:
        yield node.lineno, f"is defined in line {first[name]} already; SQL minds no letter case"


def _mistakes(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[int, str]]:
    """The reasons why a function cannot be used in SQL, with their lines."""
    import ast

    given = node.args
    if isinstance(node, ast.AsyncFunctionDef):
        yield node.lineno, "is async; a mart calls a plain def"
    if given.vararg or given.kwarg or given.kwonlyargs or given.defaults:
        yield node.lineno, "takes its parameters by place: no *, ** and no defaults"
    arguments = _arguments(node)
    if not arguments:
        yield node.lineno, "has no parameter, so it can't know how many rows there are"
    for argument in arguments:
        if message := _type_mistake(argument.annotation):
            yield argument.lineno, f"the parameter {argument.arg!r} {message}"
    if message := _type_mistake(node.returns):
        helper = "" if node.returns else f", or call it _{node.name} if it is a helper"
        yield node.lineno, f"what it returns {message}{helper}"


def _type_mistake(annotation: ast.expr | None) -> str | None:
    import ast

    if annotation is None:
        return 'has no type; write it as text, as in "INT" or "DECIMAL(18,2)"'
    if not isinstance(annotation, ast.Constant) or not isinstance(annotation.value, str):
        return f'has the type {ast.unparse(annotation)}; write it as text, as in "INT"'
    try:
        parse_type(annotation.value)
    except ValueError as error:
        return f"has no known type: {error}"
    return None


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Sequence[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args]


def _text(annotation: ast.expr | None) -> str:
    """The text of a valid annotation."""
    return str(getattr(annotation, "value", ""))


def _digest(tree: ast.Module, name: str) -> str:
    """A digest of the function and what it uses from its file, without comments and layout."""
    import ast

    binding: dict[str, list[ast.stmt]] = {}
    wanted: list[ast.stmt] = []
    for statement in tree.body:
        bound = _bound(statement)
        for one in bound:
            binding.setdefault(one, []).append(statement)
        if not bound and not _is_text(statement):
            wanted.append(statement)  # an `if`, a `for`, a call: it may have any effect
    wanted += binding[name]
    used: dict[tuple[int, int], ast.stmt] = {}
    while wanted:
        statement = wanted.pop()
        place = (statement.lineno, statement.col_offset)
        if place in used:
            continue
        used[place] = statement
        names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        wanted += [other for one in sorted(names) for other in binding.get(one, ())]
    text = "\n".join(ast.unparse(used[place]) for place in sorted(used))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a statement only defines; empty if it does more."""
    import ast

    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Import() | ast.ImportFrom():
            names = [(one.asname or one.name).partition(".")[0] for one in statement.names]
            return [] if "*" in names or _is_future(statement) else names
        case ast.Assign(targets=targets) if all(isinstance(one, ast.Name) for one in targets):
            return [one.id for one in targets if isinstance(one, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _is_future(statement: ast.Import | ast.ImportFrom) -> bool:
    return getattr(statement, "module", None) == "__future__"


def _is_text(statement: ast.stmt) -> bool:
    import ast

    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _line_of(trace: TracebackType | None) -> int | None:
    """The deepest line of functions.py in an error's traceback."""
    line = None
    while trace:
        if trace.tb_frame.f_globals.get("__name__") == _MODULE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _import_fix(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"Install {error.name} where retailmart is installed; {FILE} is one file, and imports"
            " none beside it"
        )
    return _FIX
