"""Writes docs/reference/ from the code: `make reference`. A test compares the pages with the code.

The commands and their words are those of `--help`; the keys and theirs are those of the models in
`retailmart.project`, from which editors get their JSON Schemas, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main

from retailmart.cli import app
from retailmart.cli.common import EXIT_CODES
from retailmart.database.registry import kinds
from retailmart.project.documents import Document
from retailmart.project.feed import FeedDocument
from retailmart.project.mart import MartHeader
from retailmart.project.settings import Settings
from retailmart.project.table import TableDocument
from website.curves import PICTURE, picture

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
_MADE = "<!-- Written from the code by `make reference`: edit the code, not this page. -->"

_FILES: Mapping[str, type[Document]] = {
    "retailmart.yml": Settings,
    "feeds/NAME.yml": FeedDocument,
    "tables/NAME.yml": TableDocument,
    "marts/NAME.sql": MartHeader,
}
_MORE = {
    "retailmart.yml": "[Running it](../running.md#settings) says what overrides it.",
    "feeds/NAME.yml": "[Feeds](../feeds.md) and [schemas](../schemas.md) explain it.",
    "tables/NAME.yml": "[Tables](../tables.md) explains it.",
    "marts/NAME.sql": "[Marts](../marts.md) explains it.",
}
_DATABASE_PARTS = {
    "HOST": "The server of a URL that names none. If it is set and no setting names the database,"
    " the database is this one.",
    "PORT": "Its port.",
    "DATABASE": "The database on it, with the same effect as the server.",
    "USER": "Who logs in.",
    "PASSWORD": "The password of the user.",
}
_CLIENTS = "Read by the S3 client, as everywhere; it names a file itself."
_VARIABLES = {
    "RETAILMART__KEY": "Any key of retailmart.yml, as in RETAILMART__MEMORY_LIMIT=2GB; a key of a"
    " section as RETAILMART__SECTION__KEY. The value is read as YAML.",
    "NAME_FILE": "The file that holds the value of the variable NAME, if NAME is not set.",
    "RETAILMART_PROJECT": "The project's folder, as `--project`.",
    "RETAILMART_KEY": "The key of the project's [secrets](../secrets.md); without it, the key is in"
    " the keyring of the operating system.",
    "S3_BUCKET": "The bucket of places written as `s3:///folder`.",
    "AWS_ACCESS_KEY_ID": "The key that opens the buckets; without it, the usual chain of profiles"
    " and roles is asked.",
    "AWS_SECRET_ACCESS_KEY": "Its secret half.",
    "AWS_SESSION_TOKEN": "The token of a key that expires.",
    "AWS_PROFILE": "The profile that has key and region.",
    "AWS_REGION": "The region of the buckets, unless `s3: region` is set.",
    "AWS_DEFAULT_REGION": "The same, if AWS_REGION is not set.",
    "AWS_ENDPOINT_URL_S3": "The address of an S3-compatible store, unless `s3: endpoint` is set.",
    "AWS_ENDPOINT_URL": "The same, if AWS_ENDPOINT_URL_S3 is not set.",
    "AWS_CONFIG_FILE": _CLIENTS,
    "AWS_SHARED_CREDENTIALS_FILE": _CLIENTS,
    "AWS_WEB_IDENTITY_TOKEN_FILE": _CLIENTS,
    "NOTIFY_SOCKET": "Set by systemd: `retailmart watch` tells it what it does.",
    "WATCHDOG_USEC": "Set by systemd: how often it wants to hear that `retailmart watch` lives.",
    "WATCHDOG_PID": "Set by systemd: the process that it wants to hear from.",
    "DAGSTER_PIPES_CONTEXT": "Set by Dagster: `retailmart run` reports to it.",
    "JAVA_HOME": "Where the Java of Spark is; without it, the `java` of PATH is used.",
    "SPARK_REMOTE": "Spark's own: a Spark Connect server.",
    "SPARK_LOCAL_DIRS": "Spark's own: where tasks keep temporary files.",
    "PYSPARK_PYTHON": "Spark's own: the Python of the tasks.",
    "PYSPARK_GATEWAY_PORT": "Set by spark-submit: a session is there already.",
    "PYSPARK_EXECUTOR_MEMORY_MB": "Set by Spark for its tasks: the memory that they may share.",
}

_PLAIN_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
}


def pages() -> dict[str, str]:
    """The text of each page, by its file's name."""
    return {"cli.md": cli_page(), "settings.md": settings_page()}


def cli_page() -> str:
    """Every command, with its arguments, options and exit codes."""
    parts = [
        "# Commands",
        _MADE,
        "Results go to stdout, text for people to stderr. With `--quiet`, stderr has only what"
        " needs a person: errors, and what somebody should look at after a run.",
        _table(
            ("exit code", "meaning"), [(str(code), words) for code, words in EXIT_CODES.items()]
        ),
        "[Running it](../running.md) says more about each of them.",
    ]
    for name, command in commands():
        parts += [f"## {name}", _sentences(command.help or "")]
        parts.append(f"```text\n{_usage(name, command)}\n```")
        parts.append(_table(("", "default", "meaning"), map(_parameter, _shown(command))))
        if command.epilog:
            parts.append(command.epilog)
    return "\n\n".join(filter(None, parts)) + "\n"


def commands() -> Iterator[tuple[str, Any]]:
    """The command line itself and every command below it, by its words; groups are left out."""
    waiting = [("retailmart", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop(0)
        below: Mapping[str, Any] = getattr(command, "commands", {})
        if not below or name == "retailmart":
            yield name, command
        waiting[:0] = [(f"{name} {word}", found) for word, found in below.items()]


def settings_page() -> str:
    """Every key of the project's files, and every variable of the environment."""
    parts = [
        "# Settings",
        _MADE,
        "Every key of the files of a project. An unknown key is a mistake, which `retailmart check`"
        " reports with its file and line.",
    ]
    for file, model in _FILES.items():
        parts += [f"## {file}", *_file(model.model_json_schema(), _MORE[file])]
    parts += [
        "## Environment variables",
        "From the environment, or from `.env` in the project's folder. An empty variable counts as"
        " not set.",
        _table(("variable", "meaning"), [(f"`{name}`", said) for name, said in _variables()]),
    ]
    return "\n\n".join(parts) + "\n"


def _variables() -> Iterator[tuple[str, str]]:
    yield from _VARIABLES.items()
    for kind in kinds():
        if names := kind.variables:
            for part, said in _DATABASE_PARTS.items():
                yield names.of(part), f"`{names.scheme}://`: {said}"


def _file(schema: Mapping[str, Any], more: str) -> Iterator[str]:
    """A model's description and keys, then those of the models in it."""
    models = schema.get("$defs", {})
    yield f"{_sentences(schema['description'])} {more}"
    yield _keys(schema, models)
    yield from _sections(schema, models, "", set())


def _sections(
    schema: Mapping[str, Any], models: Mapping[str, Any], above: str, told: set[str]
) -> Iterator[str]:
    """A section for each model in a model, at any depth, where it is first met."""
    for key, said in schema["properties"].items():
        for name in _models_in(said):
            if "properties" in models[name] and name not in told:
                told.add(name)
                yield f"### {_title(f'{above}{key}', said)}"
                yield _sentences(models[name]["description"])
                yield _keys(models[name], models)
                yield from _sections(models[name], models, f"{above}{key}.", told)


def _title(key: str, said: Mapping[str, Any]) -> str:
    several = "items" in said or "additionalProperties" in said
    return f"Each of `{key}`" if several else f"`{key}`"


def _models_in(said: Any) -> Iterator[str]:
    """The names of the models that a key's schema refers to."""
    if isinstance(said, dict):
        if "$ref" in said:
            yield said["$ref"].rpartition("/")[2]
        for below in said.values():
            yield from _models_in(below)
    elif isinstance(said, list):
        for below in said:
            yield from _models_in(below)


def _keys(schema: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = []
    for key, said in schema["properties"].items():
        default = "required" if key in required else _default(said)
        rows.append((f"`{key}`", _type(said, models), default, said["description"]))
    return _table(("key", "type", "default", "meaning"), rows)


def _default(said: Mapping[str, Any]) -> str:
    value = said.get("default")
    if value is None:
        return "none"
    if isinstance(value, str):
        # As YAML takes it: a sign that means something there is in quotes.
        return f"`{value}`" if value[:1].isalnum() else f"`{value!r}`"
    return f"`{json.dumps(value)}`"


def _type(said: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """A JSON Schema's type in words."""
    if "$ref" in said:
        model = models[said["$ref"].rpartition("/")[2]]
        return _type(model, models) if "enum" in model else "mapping, see below"
    if "enum" in said:
        return _either([f"`{value}`" for value in said["enum"]])
    if "anyOf" in said:
        kinds_of = [one for one in said["anyOf"] if one.get("type") != "null"]
        words = list(dict.fromkeys(_type(one, models) for one in kinds_of))
        return _either([word for word in words if word != "whole number" or "number" not in words])
    kind = said.get("type")
    if kind == "array":
        return f"list of {_type(said['items'], models)}" if said["items"] else "list of values"
    if kind == "object":
        below = said["additionalProperties"]
        return f"mapping of names to {_type(below, models)}"
    if said.get("maxLength") == 1:
        return "one character"
    if "minimum" in said:
        most = f"to {said['maximum']}" if "maximum" in said else "or more"
        return f"whole number, {said['minimum']} {most}"
    return _PLAIN_TYPES.get(str(kind), "value")


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _shown(command: Any) -> list[Any]:
    return [one for one in command.params if one.name != "help"]


def _usage(name: str, command: Any) -> str:
    if getattr(command, "commands", None):
        return f"{name} [OPTIONS] COMMAND"
    arguments = [one for one in _shown(command) if one.param_type_name == "argument"]
    words = [
        one.metavar if one.required or "[" in one.metavar else f"[{one.metavar}]"
        for one in arguments
    ]
    needed = [
        f"{one.opts[0]} {one.metavar}"
        for one in _shown(command)
        if one.param_type_name == "option" and one.required
    ]
    return " ".join([name, *needed, "[OPTIONS]", *words])


def _parameter(one: Any) -> tuple[str, str, str]:
    """An argument or option: how it is written, its default, its meaning."""
    if one.param_type_name == "argument":
        return f"`{one.metavar}`", "required" if one.required else "none", one.help
    names = ", ".join(f"`{word}`" for word in one.opts)
    default = "none" if one.default in (None, False) else f"`{one.default}`"
    if not one.is_flag:
        names += f" `{one.metavar}`"
    variable = f" Without it, the variable {one.envvar}." if one.envvar else ""
    return names, "required" if one.required else default, one.help + variable


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    if len(lines) == 2:
        return ""
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _sentences(text: str) -> str:
    """A docstring's paragraphs, each in one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def main() -> None:
    """Write the pages, and the picture of measured years."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
