"""Reads YAML safely; every mistake is reported by file and line, with a suggestion."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Location = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound="Document")
# A name of a feed, table, mart or column that every database and folder accepts.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class Document(BaseModel):
    """A frozen value read from a file the user writes; unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Source:
    """Parsed YAML and the location of each of its parts. Lines count from 1.

    `origins` names the origin of values that are not in the file: an environment variable or a
    flag.
    """

    label: str
    data: object
    lines: Mapping[Location, int] = field(default_factory=dict)
    origins: Mapping[Location, str] = field(default_factory=dict)

    def at(self, location: Location) -> str:
        """`file:line` of the deepest part of `location` that is given."""
        for length in range(len(location), -1, -1):
            if origin := self.origins.get(location[:length]):
                return origin
            if line := self.lines.get(location[:length]):
                return f"{self.label}:{line}"
        return self.label


def parse_yaml(text: str, label: str, problems: list[str], first_line: int = 1) -> Source | None:
    """Parse one YAML document, or report its errors in `problems`.

    As in YAML 1.1, a bare yes, no, on or off as a value is true or false; keys are always texts.
    Numbers with a point become exact Decimals, never floats.
    """
    lines: dict[Location, int] = {}
    try:
        loader = _Loader(text)
        node = _composed(text, loader)
        if node is not None:  # checked first, because merged keys (`<<`) change it
            _LineCollector(lines, first_line, label, problems).collect(node, ())
        data = _constructed(loader, node)
    except yaml.YAMLError as error:
        line, message = _line_of(error, text), _words_of(error)
        begun = _line_of_what_is_open(error)
        if line is not None and begun is not None and begun < line:
            message = f"what begins here is not closed: {message} in line {line + first_line}"
            line = begun
        place = f":{line + first_line}" if line is not None else ""
        problems.append(f"{label}{place}: {message}")
        return None
    except RecursionError:
        problems.append(f"{label}: is nested too deeply")
        return None
    return Source(label, {} if data is None else data, lines)


def parse_value(text: str) -> object:
    """A single setting's value, read as YAML. ValueError describes an error."""
    try:
        loader = _Loader(text)
        return _constructed(loader, _composed(text, loader))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{text!r} is no YAML value: {_words_of(error)}") from error


def validate(model: type[ModelT], source: Source, problems: list[str]) -> ModelT | None:
    """Turn parsed YAML into `model`, or add one sentence for each mistake."""
    if not isinstance(source.data, Mapping):
        problems.append(f"{source.at(())}: expected `key: value` lines")
        return None
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        details: dict[Location, list[Any]] = {}
        for detail in error.errors():
            details.setdefault(_written(source.data, detail), []).append(detail)
        for location, found in details.items():
            sentence = f"{source.at(location)}: {_sentence(model, location, found)}"
            if sentence not in problems:
                problems.append(sentence)
        return None


def read_document(
    path: Path,
    folder: Path,
    kind: str,
    model: type[ModelT],
    mistakes: Callable[[object], Iterable[tuple[Location, str]]],
    problems: list[str],
) -> ModelT | None:
    """Read a YAML file whose name is that of its content, as feeds/sales.yml for a feed.

    `mistakes` finds conflicts between parts of the YAML as written.
    """
    label = path.relative_to(folder).as_posix()
    if not is_named(path, label, kind, problems):
        return None
    source = parse_yaml(path.read_text(encoding="utf-8-sig", errors="replace"), label, problems)
    if source is None:
        return None
    document = validate(model, source, problems)
    wrong = [f"{source.at(place)}: {message}" for place, message in mistakes(source.data)]
    problems += wrong
    return None if wrong else document


def is_named(path: Path, label: str, kind: str, problems: list[str]) -> bool:
    """Whether a file's name is a valid SQL name; `kind` is what the file declares."""
    if NAME.fullmatch(path.stem):
        return True
    problems.append(f"{label}: a {kind}'s file is named with letters, digits and _, letter first")
    return False


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known words if none is similar."""
    names = sorted(known)
    if near := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


class _Loader(yaml.SafeLoader):
    """Safe YAML whose keys are texts and whose numbers with a point are decimals."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)
            for key, _ in node.value:
                # A column may be called `no` or `2024`; YAML would read False and an integer.
                if isinstance(key, yaml.ScalarNode) and key.tag in _PLAIN_TAGS:
                    key.tag = _TEXT_TAG
        return super().construct_mapping(node, deep)  # type: ignore[arg-type]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            message = f"{getattr(node, 'value', '')!r} is no value: {error}"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from error

    def decimal(self, node: yaml.ScalarNode) -> Decimal | float:
        text = self.construct_scalar(node).replace("_", "").lower()
        if _DECIMAL.fullmatch(text):
            return Decimal(text)
        return self.construct_yaml_float(node)


_TEXT_TAG = "tag:yaml.org,2002:str"
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null", "timestamp")
}
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?")
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.decimal)


# libyaml's composer has no limit of its own: what nests deeper would overflow the stack.
_DEEPEST = 1000
# Where libyaml and the loader differ: the one accepts tabs and complex keys that the other refuses.
_READ_IN_TWO_WAYS = {"\t", "?", "!", "\ufeff"}


def _composed(text: str, loader: _Loader) -> yaml.Node | None:
    """The document's nodes. libyaml, where it is installed, finds them 20 times as fast.

    What it refuses is parsed again, for the loader's words.
    """
    nested = sum(map(text.count, "[{-:"))
    if yaml.__with_libyaml__ and nested <= _DEEPEST and not _READ_IN_TWO_WAYS & set(text):
        fast = yaml.CSafeLoader(text)
        try:
            node: yaml.Node | None = fast.get_single_node()
            return node
        except yaml.YAMLError:
            pass
        finally:
            fast.dispose()
    return loader.get_single_node()


def _constructed(loader: _Loader, node: yaml.Node | None) -> object:
    return None if node is None else loader.construct_document(node)


def _line_of(error: yaml.YAMLError, text: str) -> int | None:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return mark.line if mark else None
    position = getattr(error, "position", None)
    return None if position is None else text.count("\n", 0, position)


def _line_of_what_is_open(error: yaml.YAMLError) -> int | None:
    """The line of a bracket, brace or quote that is not closed: the parser stops only later."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.context_mark is None:
        return None
    is_open = any(part in (error.context or "") for part in ("flow", "quoted scalar"))
    return error.context_mark.line if is_open else None


def _words_of(error: Exception) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    return str(problem or error).splitlines()[0]


def _written(data: object, detail: Any) -> Location:
    """The part of a mistake's location that the user wrote; pydantic adds names of its types."""
    location: Location = tuple(detail["loc"])
    if detail["type"] in ("missing", "extra_forbidden"):
        return location
    for length, part in enumerate(location):
        below = data if isinstance(data, list | Mapping) else ()
        known = range(len(below)) if isinstance(below, list) else below
        if part not in known:
            return location[:length]
        data = below[part]  # type: ignore[index]
    return location


def _sentence(model: type[BaseModel], location: Location, details: Sequence[Any]) -> str:
    name = ".".join(str(part) for part in location)
    detail = details[0]
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"unknown key {location[-1]!r}{did_you_mean(str(location[-1]), known)}"
    if detail["type"] == "missing":
        return f"{name!r} is missing"
    if len(details) > 1:
        # An instance is what Python code makes of a text that has failed already.
        tried = [one for one in details if not str(one["loc"][-1]).startswith("is-instance")]
        kinds = " nor ".join(map(_kind_of, tried))
        return f"{name}: {detail['input']!r} is neither {kinds}"
    if detail["type"] in ("enum", "literal_error"):
        known = set(re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
        return f"{name}: {detail['input']!r} is unknown{did_you_mean(str(detail['input']), known)}"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}: {message}" if name else message


def _kind_of(detail: Any) -> str:
    """What a value was tried as, in words: pydantic has its own names."""
    name = str(detail["loc"][-1])
    if name.startswith("literal["):
        return name.removeprefix("literal[").removesuffix("]")
    if name in ("int", "constrained-int"):
        least = detail.get("ctx", {}).get("ge")
        return "a whole number" if least is None else f"a whole number from {least} on"
    words = {"str": "a text", "constrained-str": "a text", "decimal": "a number"}
    return (words | {"bool": "true or false"}).get(name, name)


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    annotation: Any = model
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            named = {info.alias or key: info for key, info in annotation.model_fields.items()}
            annotation = named[str(part)].annotation if part in named else None
        else:
            annotation = _item_type(annotation)
    annotation = _model_in(annotation)
    return {f.alias or n for n, f in annotation.model_fields.items()} if annotation else set()


def _item_type(annotation: Any) -> Any:
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) in (Union, types.UnionType):
        models = [_model_in(part) for part in get_args(annotation)]
        return next((found for found in models if found), None)
    if get_args(annotation) and hasattr(annotation, "__metadata__"):
        return _model_in(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


class _LineCollector:
    """Records the line of each part of a document, and duplicate keys."""

    def __init__(
        self, lines: dict[Location, int], first_line: int, label: str, problems: list[str]
    ) -> None:
        self._lines = lines
        self._first_line = first_line
        self._label = label
        self._problems = problems
        # An alias can contain itself, or double at each level: visit each node only once.
        self._seen: set[int] = set()

    def collect(self, node: yaml.Node, location: Location) -> None:
        self._lines.setdefault(location, node.start_mark.line + self._first_line)
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._collect_keys(node, location)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.collect(value, (*location, index))

    def _collect_keys(self, node: yaml.MappingNode, location: Location) -> None:
        here: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + self._first_line
            if str(key.value) in here:
                self._problems.append(f"{self._label}:{line}: {key.value!r} stands here twice")
            here.add(str(key.value))
            self._lines[(*location, str(key.value))] = line
            self.collect(value, (*location, str(key.value)))
