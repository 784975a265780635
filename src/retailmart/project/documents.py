"""YAML read safely, with every mistake told by file and line and a did-you-mean."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

Location = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound="Document")


class Document(BaseModel):
    """A frozen value read from a file the user writes; unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Source:
    """Parsed YAML and where each of its parts stands. Lines count from 1."""

    label: str
    data: object
    lines: Mapping[Location, int] = field(default_factory=dict)

    def at(self, location: Location) -> str:
        """`file:line` of the deepest part of `location` that the file has."""
        for length in range(len(location), -1, -1):
            if line := self.lines.get(location[:length]):
                return f"{self.label}:{line}"
        return self.label


def parse_yaml(text: str, label: str, problems: list[str], first_line: int = 1) -> Source | None:
    """Parse one YAML document, or tell what is wrong with it."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + first_line}" if mark else ""
        problems.append(f"{label}{line}: {getattr(error, 'problem', None) or error}")
        return None
    lines: dict[Location, int] = {}
    if node is not None:
        _collect_lines(node, (), lines, first_line, label, problems)
    return Source(label, {} if data is None else data, lines)


def validate(model: type[ModelT], source: Source, problems: list[str]) -> ModelT | None:
    """Turn parsed YAML into `model`, or add one sentence a mistake."""
    if not isinstance(source.data, Mapping):
        problems.append(f"{source.label}: expected `key: value` lines")
        return None
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        for detail in error.errors():
            place = source.at(tuple(detail["loc"]))
            sentence = f"{place}: {_sentence(model, detail['loc'], detail)}"
            if sentence not in problems:
                problems.append(sentence)
        return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the known words when none is near."""
    words = sorted(known)
    if near := difflib.get_close_matches(word, words, n=1, cutoff=0.6):
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(words)}" if words else ""


def _sentence(model: type[BaseModel], location: Sequence[str | int], detail: Any) -> str:
    name = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"unknown key {location[-1]!r}{did_you_mean(str(location[-1]), known)}"
    if detail["type"] == "missing":
        return f"{name!r} is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    annotation: Any = model
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found = annotation.model_fields.get(str(part))
            annotation = found.annotation if found else None
        else:
            annotation = _item_type(annotation)
    annotation = _model_in(annotation)
    return set(annotation.model_fields) if annotation else set()


def _item_type(annotation: Any) -> Any:
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) in (Union, types.UnionType):
        models = [_model_in(part) for part in get_args(annotation)]
        return next((found for found in models if found), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _collect_lines(
    node: yaml.Node,
    location: Location,
    lines: dict[Location, int],
    first_line: int,
    label: str,
    problems: list[str],
) -> None:
    lines.setdefault(location, node.start_mark.line + first_line)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*location, str(key.value))
            if place in lines:
                line = key.start_mark.line + first_line
                problems.append(f"{label}:{line}: {key.value!r} stands here twice")
            lines[place] = key.start_mark.line + first_line
            _collect_lines(value, place, lines, first_line, label, problems)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(value, (*location, index), lines, first_line, label, problems)
