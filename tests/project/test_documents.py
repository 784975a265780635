"""YAML documents: nothing but plain values come out, and every mistake has its line."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from pydantic import Field

import retailmart
from retailmart.project.documents import (
    Document,
    Source,
    did_you_mean,
    parse_value,
    parse_yaml,
    validate,
)


class Shelf(Document):
    """What these tests read."""

    name: str
    width: int = Field(1, ge=1)
    boards: list[int] = Field(default_factory=list)


def parsed(text: str) -> object:
    """The data of a document that must be good."""
    problems: list[str] = []
    source = parse_yaml(text, "x.yml", problems)
    assert source is not None
    assert problems == []
    return source.data


def mistakes(text: str, first_line: int = 1) -> list[str]:
    """What is wrong with a document."""
    problems: list[str] = []
    source = parse_yaml(text, "x.yml", problems, first_line)
    if source:
        validate(Shelf, source, problems)
    return problems


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/tuple", "!mine"],
)
def test_objects_are_never_loaded(tag: str, tmp_path: Path) -> None:
    """A tag that asks for a Python object is refused with its line, and nothing is run."""
    made = tmp_path / "made"
    problems: list[str] = []
    source = parse_yaml(f"a: 1\nname: {tag} ['touch {made}']\n", "x.yml", problems)
    assert source is None
    assert len(problems) == 1
    assert problems[0].startswith("x.yml:2: could not determine a constructor for the tag")
    assert not made.exists()


def test_every_mistake_has_its_line() -> None:
    """Unknown, missing and ill-typed keys of one document are all told at once."""
    assert mistakes("# shelf\nwidht: 3\nboards: [1, two]\n") == [
        "x.yml:2: 'name' is missing",
        "x.yml:3: boards.1: should be a valid integer, unable to parse string as an integer",
        "x.yml:2: unknown key 'widht'; did you mean 'width'?",
    ]


def test_syntax_errors_have_their_line() -> None:
    """A document that is no YAML names the line; a header in a larger file counts from there."""
    words = "what begins here is not closed: expected ',' or ']', but got ':' in line"
    assert mistakes("name: a\nboards: [1\nwidth: 2\n") == [f"x.yml:2: {words} 3"]
    assert mistakes("name: a\nboards: [1\nwidth: 2\n", first_line=10) == [f"x.yml:11: {words} 12"]
    assert mistakes("name: a\nwidth: 'x\nboards: [1]\n")[0].startswith("x.yml:2: ")


def test_a_key_twice_is_a_mistake() -> None:
    """YAML lets the last of two equal keys win; here the second is a mistake, however deep."""
    assert mistakes("name: a\nwidth: 2\nname: b\n") == ["x.yml:3: 'name' stands here twice"]
    problems: list[str] = []
    parse_yaml("a:\n  - {b: 1,\n     b: 2}\n", "x.yml", problems)
    assert problems == ["x.yml:3: 'b' stands here twice"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("just words", "x.yml:1: expected `key: value` lines"),
        ("- a\n- b\n", "x.yml:1: expected `key: value` lines"),
        ("name: \x00\n", "x.yml:1: special characters are not allowed"),
        ("name: a\nwidth: 2024-02-31\n", "x.yml:2: '2024-02-31' is no value: day is out of range"),
        ("name: a\n? [b]\n: 1\n", "x.yml:2: found unhashable key"),
        ("---\nname: a\n---\nname: b\n", "x.yml:3: but found another document"),
        ("[" * 5000, "x.yml: is nested too deeply"),
        ("- " * 200_000 + "a", "x.yml: is nested too deeply"),
    ],
)
def test_no_document_ends_in_a_traceback(text: str, words: str) -> None:
    """Whatever a file holds, it comes to one sentence."""
    problems = mistakes(text)
    assert len(problems) == 1
    assert problems[0].startswith(words)


def test_both_parsers_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and lines do not depend on whether libyaml is installed."""

    def read(text: str) -> object:
        problems: list[str] = []
        source = parse_yaml(text, "x.yml", problems)
        return source and (source.data, source.lines), problems

    assert yaml.__with_libyaml__
    project = Path(retailmart.__file__).parent / "template" / "project"
    texts = [path.read_text() for path in sorted(project.rglob("*.yml"))]
    texts += ["a: &a {x: 1.50}\nb: |\n  two\n  lines\nc: {<<: *a, y: [no, 0x1F]}\n"]
    texts += ["a:\tb\n", "a: !\n", "? a\n: b\n", "a: {b: c?}\n", "\ufeffa: 1\n\ufeff", "a: [b\n"]
    fast = list(map(read, texts))
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert fast == list(map(read, texts))


def test_aliases_that_double_or_hold_themselves_end() -> None:
    """A document of a few lines that unfolds to billions, or to itself, is looked through once."""
    layers = [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}, *l{n - 1}]" for n in range(1, 40)]
    assert len(mistakes("\n".join(["l0: &l0 [1]", *layers]))) == 41
    assert mistakes("name: a\nboards: &b [*b]\n")[0].startswith("x.yml:2: boards.0")


def test_keys_are_texts() -> None:
    """A column may be called no, on, 2024 or null: keys are never turned into other values."""
    assert parsed("no: 1\non: 2\n2024: 3\nnull: 4\n1.50: 5\n") == {
        "no": 1,
        "on": 2,
        "2024": 3,
        "null": 4,
        "1.50": 5,
    }


def test_bare_yes_and_no_are_truths() -> None:
    """As YAML 1.1 has it, yes, no, on and off are true and false where a value stands."""
    assert parsed('[yes, no, on, off, "no", y, n]') == [True, False, True, False, "no", "y", "n"]


def test_numbers_are_the_decimals_written() -> None:
    """A number with a point keeps every digit, however many a float could not hold."""
    assert parsed("[0.01, 0.10, 0.12345678901234567890, -0.5, 1_000.25]") == [
        Decimal("0.01"),
        Decimal("0.10"),
        Decimal("0.12345678901234567890"),
        Decimal("-0.5"),
        Decimal("1000.25"),
    ]


def test_merged_keys_work() -> None:
    """YAML's `<<` takes over another mapping's keys, and own ones go before them."""
    assert parsed("a: &a {x: 1, no: 2}\nb:\n  <<: *a\n  x: 3\n") == {
        "a": {"x": 1, "no": 2},
        "b": {"x": 3, "no": 2},
    }


def test_an_empty_document_is_an_empty_mapping() -> None:
    """A file of comments only is read as one without keys."""
    assert parsed("# nothing\n") == {}


def test_a_value_says_what_is_wrong_with_it() -> None:
    """A single value that is no YAML is a ValueError in one line."""
    assert parse_value("0.015") == Decimal("0.015")
    with pytest.raises(ValueError, match=r"'\[x' is no YAML value: ") as caught:
        parse_value("[x")
    assert "\n" not in str(caught.value)


def test_places_fall_back_to_what_is_there() -> None:
    """A place that the file lacks is told as the deepest part that it has."""
    source = Source("x.yml", {}, {(): 1, ("a",): 4}, {("b",): "B in the environment"})
    assert source.at(("a", "b", 0)) == "x.yml:4"
    assert source.at(("c",)) == "x.yml:1"
    assert source.at(("b", "c")) == "B in the environment"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("lnding", "; did you mean 'landing'?"),
        ("zzz", "; known: lake, landing"),
    ],
)
def test_hints(word: str, hint: str) -> None:
    """A near word is proposed; without one, all known words are listed."""
    assert did_you_mean(word, ["landing", "lake"]) == hint


def test_no_hint_without_known_words() -> None:
    """Nothing is proposed where nothing is known."""
    assert did_you_mean("x", []) == ""
