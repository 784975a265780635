"""Checks and completes addresses: `${…}` references, database URLs and S3 locations.

Settings hold addresses with references instead of passwords. A complete address is built when
connecting and is not stored anywhere.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from retailmart.project.documents import did_you_mean
from retailmart.project.environment import Ask, Environment

KEPT = "***"

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SECRET_VARIABLE = re.compile(r"PASSWORD|SECRET|TOKEN|^RETAILMART_KEY$", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ALMOST_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+")
_QUERY_PASSWORD = re.compile(r"(?:^|&)(?:password\d?|passwd|passphrase|pwd)=(?!&|$)", re.IGNORECASE)
_SHOWN_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\n]*@")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
# Stands for a secret while a URL is only checked.
_UNKNOWN = "unknown"
# Replace references while an address is parsed: their own colons must not divide it.
_OPEN, _CLOSE = "\ue000", "\ue001"
_STANDIN = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


@dataclass(frozen=True)
class Variables:
    """The environment variables that complete the URLs of one kind of database.

    `scheme` is that of a URL which leaves everything to them. `prefix` is the start of their names.
    `socket` is the URL parameter for a local socket, which is used instead of a host.
    """

    scheme: str
    prefix: str
    socket: str

    def of(self, part: str) -> str:
        """The variable for a part of the URL: HOST, PORT, DATABASE, USER or PASSWORD."""
        return self.prefix + part


@dataclass(frozen=True)
class Reference:
    """The content of `${…}`: a variable's name, or the name of a stored secret."""

    name: str
    is_secret: bool

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference. ValueError if it is neither; the error does not repeat the text."""
        kind, colon, name = text.partition(":")
        if colon and kind == "secret" and SECRET_NAME.fullmatch(name):
            return cls(name, True)
        if not colon and _VARIABLE.fullmatch(text):
            return cls(text, False)
        raise ValueError("holds a ${…} that is neither ${NAME} nor ${secret:NAME}")


def references(text: str) -> list[Reference]:
    """The references in a text. ValueError if one is malformed."""
    return [Reference.parse(inner) for inner in _REFERENCE.findall(text)]


def variable(name: str, environment: Environment) -> str:
    """A variable that a setting refers to. ValueError if it is not set."""
    try:
        return environment[name]
    except KeyError:
        near = did_you_mean(name, environment)
        # The whole environment is not a useful list of suggestions.
        near = near if near.startswith("; did you mean") else ""
        raise ValueError(
            f"the variable {name!r} is set neither in the environment nor in .env{near}"
        ) from None


def is_reference(text: str) -> bool:
    """Whether a text is one reference and nothing else."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return False
    with suppress(ValueError):
        Reference.parse(found[1])
        return True
    return False


def fill_key(text: str, environment: Environment, ask: Ask) -> str:
    """A key that a setting refers to; `ask` returns a secret. ValueError if it is not set."""
    (reference,) = references(text)
    return ask(reference.name) if reference.is_secret else variable(reference.name, environment)


def fill_place(text: str, environment: Environment) -> str:
    """A folder or endpoint with its variables filled in, and S3_BUCKET if it names no bucket.

    ValueError says what is missing. Secrets are not allowed: locations are shown.
    """
    for reference in references(text):
        name = reference.name
        if reference.is_secret or _SECRET_VARIABLE.search(name) or environment.refers(name):
            raise ValueError("a place is shown to people, and can hold no secret")
    filled = _REFERENCE.sub(lambda found: variable(found[1], environment), text)
    if filled.startswith("s3:///") or filled == "s3://":
        if "S3_BUCKET" not in environment:
            raise ValueError(
                "names no bucket: write s3://BUCKET/FOLDER, or set S3_BUCKET in the environment"
            )
        filled = f"s3://{environment['S3_BUCKET']}{filled.removeprefix('s3://')}"
    return filled


def checked_place(text: str) -> str:
    """A local folder or `s3://bucket/folder`. ValueError for any other form."""
    scheme, there, rest = text.partition("://")
    if not there:
        return text
    if scheme != "s3":
        raise ValueError("is neither a folder nor a place like s3://bucket/folder")
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or "?" in rest or "#" in rest:
        raise ValueError(
            "an S3 place is s3://bucket/folder and nothing else; keys belong into the environment"
            " as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an endpoint into s3.endpoint"
        )
    if bucket and not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is no name of a bucket; write s3://bucket/folder")
    if re.search(r"%[0-9A-Fa-f]{2}|\\|[\x00-\x1f]", prefix):
        raise ValueError("what reads a bucket takes a % or \\ in a name amiss; choose another")
    parts = prefix.removesuffix("/").split("/") if prefix else []
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("has an empty part, a . or a .. in it; write s3://bucket/folder")
    return text


def checked_endpoint(text: str) -> str:
    """`http(s)://host[:port]`. ValueError for any other form."""
    message = "write an endpoint as in https://s3.example.com or http://127.0.0.1:9000"
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        raise ValueError(message) from None
    if "@" in parts.netloc:
        raise ValueError(f"an endpoint holds no user and no password; {message}")
    if not good or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(message)
    return text


def overlap(one: str, other: str, folder: Path) -> bool:
    """Whether two locations are the same, or one is inside the other."""
    first, second = _parts_of_place(one, folder), _parts_of_place(other, folder)
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter]


def _parts_of_place(place: str, folder: Path) -> tuple[str, ...]:
    if place.startswith("s3://"):
        return ("s3:", *PurePosixPath(place.removeprefix("s3://")).parts)
    return (folder / place).resolve().parts


# database URLs


def without_password(text: str) -> tuple[str, str | None]:
    """A URL with `***` for the password that is written in it, and that password.

    References and empty passwords do not count.
    """
    template, found = _with_standins(text)
    span = _password_span(template)
    if span is None:
        return text, None
    password = template[slice(*span)]
    if not _STANDIN.sub("", password):
        return text, None
    shown = template[: span[0]] + KEPT + template[span[1] :]
    return _with_references(shown, found), _with_references(password, found)


def query_password(text: str) -> bool:
    """Whether a URL has a password after its question mark, where it would be shown."""
    return bool(_QUERY_PASSWORD.search(text.partition("?")[2]))


def veiled(text: str) -> str:
    """A message in which no URL shows a password."""
    return _SHOWN_PASSWORD.sub(rf"\1{KEPT}@", text)


def complete_url(
    text: str, environment: Environment, ask: Ask | None, password: str | None = None
) -> str:
    """A database URL with all references and missing parts filled in, ready to connect.

    `ask` returns a secret by its name; without it the URL is only checked, and has no password.
    `password` replaces the `***` that `without_password` left. ValueError and SettingsError say
    what is missing.
    """
    if ask is None:
        environment = environment.asking(lambda _: _UNKNOWN)
    template, found = _with_standins(text)

    def fill(part: str) -> str:
        return _STANDIN.sub(lambda standin: value(found[int(standin[1])]), part)

    def value(inner: str) -> str:
        reference = Reference.parse(inner)
        if not reference.is_secret:
            return variable(reference.name, environment)
        return ask(reference.name) if ask else _UNKNOWN

    if ask is None and any(reference.is_secret for reference in references(text)):
        whole = _STANDIN.fullmatch(template)
        if whole:
            return text  # a secret's content is unknown before it is requested
    scheme = _SCHEME.match(template)
    if scheme is None:  # a variable or secret holds the whole URL, or its beginning
        template = fill(template)
        scheme = _SCHEME.match(template)
        password = None
    if scheme is None or scheme[1].lower().startswith("sqlite"):
        return fill(template)
    parts = _Parts.parse(template, scheme).filled(fill)
    if password is not None:
        parts = replace(parts, password=unquote(password))
    from retailmart.database.registry import kind_of

    names = None
    with suppress(KeyError):  # opening reports an unknown kind of database
        names = kind_of(scheme[1]).variables
    if names is not None:
        parts = _from_variables(parts, names, environment, with_password=ask is not None)
    return str(parts)


@dataclass(frozen=True)
class _Parts:
    """The parts of a database URL; user, password and database are not percent-encoded."""

    scheme: str
    user: str
    password: str | None
    host: str
    port: str
    database: str
    query: str

    @classmethod
    def parse(cls, text: str, scheme: re.Match[str]) -> _Parts:
        span = _password_span(text)
        if span:
            user, password = text[scheme.end() : span[0] - 1], text[slice(*span)]
            rest = text[span[1] + 1 :]
        else:
            user, password, rest = "", None, text[scheme.end() :]
            before = rest.partition("?")[0]
            if "@" in before:
                user, _, rest = rest.partition("@")
        before, _, query = rest.partition("?")
        where, _, database = before.partition("/")
        host, port = where, ""
        if divided := re.fullmatch(r"(\[[^\]]*\]|[^:]*):([^:]*)", where):
            host, port = divided[1], divided[2]
        return cls(
            scheme[1],
            unquote(user),
            None if password is None else unquote(password),
            host,
            port,
            unquote(database),
            query,
        )

    def filled(self, fill: Ask) -> _Parts:
        return _Parts(
            self.scheme,
            fill(self.user),
            None if self.password is None else fill(self.password),
            fill(self.host),
            fill(self.port),
            fill(self.database),
            fill(self.query),
        )

    def __str__(self) -> str:
        account = quote(self.user, safe="")
        if self.password is not None:
            account += f":{quote(self.password, safe='')}"
        where = self.host + (f":{self.port}" if self.port else "")
        query = f"?{self.query}" if self.query else ""
        at = f"{account}@" if account else ""
        return f"{self.scheme}://{at}{where}/{quote(self.database, safe='')}{query}"

    def __repr__(self) -> str:
        return "_Parts(…)"


def _from_variables(
    parts: _Parts, names: Variables, environment: Environment, *, with_password: bool
) -> _Parts:
    """Fill the missing parts of a server's URL from the usual variables of its kind.

    The password is used only for the server and account that it was set for, the port only for that
    server.
    """
    for name in map(names.of, ("USER", "HOST", "PORT", "DATABASE")):
        if environment.refers(name):
            raise ValueError(f"{name} is shown to people, and can hold no secret")
    user, host = environment.get(names.of("USER"), ""), environment.get(names.of("HOST"), "")
    by_socket = f"{names.socket}=" in parts.query
    its_host = by_socket or not parts.host or not host or parts.host.lower() == host.lower()
    its_user = not parts.user or not user or parts.user == user
    port, password = parts.port, parts.password
    if not port and its_host and not by_socket:
        port = environment.get(names.of("PORT"), "")
    if with_password and password is None and its_host and its_user:
        password = environment.get(names.of("PASSWORD"))
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(
            f"the port of the database ({names.of('PORT')}, or in its URL) is not a number"
        )
    name = names.of("DATABASE")
    database = parts.database or environment.get(name, "")
    if not database:
        raise ValueError(
            f"names no database: write {names.scheme}://USER@HOST/DB, or set {names.of('DATABASE')}"
        )
    return replace(
        parts,
        user=parts.user or user,
        password=password,
        host=parts.host or ("" if by_socket else host or "localhost"),
        port=port,
        database=database,
    )


def _password_span(template: str) -> tuple[int, int] | None:
    """The start and end of the password in a URL, even if the URL is malformed."""
    scheme = _ALMOST_SCHEME.match(template)
    if scheme and scheme[1].lower().startswith("sqlite"):
        return None
    start = scheme.end() if scheme else 0
    colon, first = template.find(":", start), template.find("@", start)
    if colon < 0 or first < colon:
        return None
    # A password with an unencoded @ ends at the last one: better to hide too much.
    return colon + 1, template.rfind("@")


def _with_standins(text: str) -> tuple[str, list[str]]:
    found: list[str] = []

    def standin(match: re.Match[str]) -> str:
        found.append(match[1])
        return f"{_OPEN}{len(found) - 1}{_CLOSE}"

    return _REFERENCE.sub(standin, text.replace(_OPEN, "").replace(_CLOSE, "")), found


def _with_references(template: str, found: list[str]) -> str:
    return _STANDIN.sub(lambda standin: f"${{{found[int(standin[1])]}}}", template)
