"""Variables from outside the project: the process's, with `.env` as fallback.

Values in `.env` may refer to stored secrets as `${secret:NAME}`. A secret is read when its
variable is asked for, not before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retailmart.errors import SettingsError

# Variables that are often mounted as files. NAME_FILE also works for any other NAME.
_OFTEN_FILES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MYSQL_PASSWORD",
    "MYSQL_USER",
    "RETAILMART_KEY",
)
# These end in _FILE but mean something else to the S3 client.
_NOT_OURS = {"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"}
# These appear in messages and reports.
_SHOWN = {
    *("S3_BUCKET", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
}
_KEY_OF_THE_STORE = "RETAILMART_KEY"
_LARGEST = 64 << 10
_SECRET = re.compile(r"\$\{secret:([^{}]*)\}")

Ask = Callable[[str], str]


@dataclass(frozen=True)
class Layer:
    """Variables from one origin. `label` precedes a variable's name in messages.

    With `refers`, `${secret:NAME}` in a value stands for a stored secret.
    """

    label: str
    variables: Mapping[str, str] = field(repr=False)
    refers: bool = False


class Environment(Mapping[str, str]):
    """The variables by name. An empty one counts as not set; no value is ever shown.

    If NAME is not set but NAME_FILE is, the file that it names holds the value. The file is read on
    request. SettingsError reports a file that cannot be read.

    `ask` returns a stored secret by its name. Without it, a variable that refers to one cannot be
    read: SettingsError.
    """

    def __init__(self, folder: Path, layers: tuple[Layer, ...], ask: Ask | None = None) -> None:
        self._folder = folder
        self.layers = layers
        self._ask = ask
        self._read_before: dict[str, str] = {}

    @classmethod
    def of(cls, folder: Path) -> Environment:
        """The environment of this process, with the project folder's `.env` as fallback."""
        return cls(
            folder,
            (
                Layer("", dict(os.environ)),
                Layer(".env: ", _read_dotenv(folder / ".env"), refers=True),
            ),
        )

    def asking(self, ask: Ask) -> Environment:
        """The same variables, with another way to get the secrets that they refer to."""
        other = Environment(self._folder, self.layers, ask)
        other._read_before = self._read_before  # a pipe can be read once only
        return other

    def referring(self) -> list[str]:
        """The variables that refer to secrets, sorted; without those that others override."""
        return [name for name in sorted(self._names()) if self.refers(name)]

    def refers(self, name: str) -> bool:
        """Whether a variable's value contains a secret. No secret is read."""
        for layer in self.layers:
            for given in (name, f"{name}_FILE"):
                if value := layer.variables.get(given):
                    return layer.refers and bool(_SECRET.search(value))
        return False

    def __getitem__(self, name: str) -> str:
        for layer in self.layers:
            if value := layer.variables.get(name):
                return self._with_secrets(value, layer, name)
            pointer = f"{name}_FILE"
            path = layer.variables.get(pointer)
            if path and pointer not in _NOT_OURS:
                path = self._with_secrets(path, layer, pointer)
                return self._content(path, f"{layer.label}{pointer}")
        raise KeyError(name)

    def _with_secrets(self, value: str, layer: Layer, name: str) -> str:
        if not (layer.refers and _SECRET.search(value)):
            return value
        place, ask = f"{layer.label}{name}", self._ask
        if name in _SHOWN:
            raise SettingsError([f"{place}: is shown to people, and can hold no secret"])
        if ask is None or name == _KEY_OF_THE_STORE:
            raise SettingsError([f"{place}: the key of the store can't be a secret in the store"])
        try:
            return _SECRET.sub(lambda found: ask(found[1]), value)
        except SettingsError as error:
            told = [f"{place}: {problem}" for problem in error.problems]
            raise SettingsError(told, error.hint) from None

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __repr__(self) -> str:
        return f"<Environment of {len(self)} variables>"

    def _names(self) -> set[str]:
        names = {name for layer in self.layers for name, text in layer.variables.items() if text}
        return names | {name for name in _OFTEN_FILES if f"{name}_FILE" in names}

    def _content(self, path: str, place: str) -> str:
        """A file's text without its last line end. A pipe works too, but is read once."""
        if path not in self._read_before:
            # The message contains neither the path nor an error with it: someone may have put the
            # password itself there.
            try:
                with (self._folder / path).open("rb") as file:
                    content = file.read(_LARGEST + 1)
                text = content.decode("utf-8-sig")
            except OSError as error:
                message = f"the file it names cannot be read: {error.strerror}"
                raise _wrong_file(place, message) from None
            except ValueError:
                raise _wrong_file(place, "the file it names is no text in UTF-8") from None
            text = without_line_end(text)
            if not text or len(content) > _LARGEST:
                wrong = "too big" if text else "empty"
                raise _wrong_file(place, f"the file it names is {wrong}")
            self._read_before[path] = text
        return self._read_before[path]


def without_line_end(text: str) -> str:
    """A text without the one line end that editors and `echo` append."""
    return text.removesuffix("\n").removesuffix("\r")


def _wrong_file(place: str, message: str) -> SettingsError:
    hint = f"Put the value alone into a file, and its path into {place.rpartition(' ')[2]}"
    return SettingsError([f"{place}: {message}"], hint)


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from io import StringIO

    from dotenv import dotenv_values  # not imported without a .env, to save start-up time

    text = path.read_text(encoding="utf-8-sig", errors="replace")
    # Any other `${` in a password is literal; settings have their own references.
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {key: value for key, value in values.items() if value is not None}
