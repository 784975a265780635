"""The reference says what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from website.reference import FOLDER, commands, pages

import retailmart

VARIABLE = re.compile(r"(AWS|JAVA|MYSQL|PG|PYSPARK|RETAILMART|S3|SPARK)_[A-Z0-9_]*[A-Z0-9]")


@pytest.mark.parametrize("name", ["cli.md", "settings.md"])
def test_the_page_is_up_to_date(name: str) -> None:
    """Who changes a command or a setting writes its page again."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == pages()[name], f"docs/reference/{name} is not up to date: make reference"


def test_every_command_tells_its_exit_codes() -> None:
    """Scripts find them in the reference and in --help."""
    silent = [name for name, command in commands() if name.count(" ") and not command.epilog]
    assert silent == []


def test_every_variable_that_the_code_names_is_told() -> None:
    """A variable of the environment is not known to the code only."""
    told = pages()["settings.md"]
    assert [name for name in sorted(set(variables())) if f"`{name}`" not in told] == []


def variables() -> Iterator[str]:
    """The texts in the source that are names of variables."""
    for path in Path(retailmart.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and VARIABLE.fullmatch(value):
                yield value
