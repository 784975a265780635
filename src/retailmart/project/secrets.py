"""The project's encrypted store of secrets: `.retailmart/secrets.json`.

Each value is encrypted with AES-256-GCM under its own random nonce, with its name as associated
data: a value that was changed, or moved to another name, cannot be decrypted. The key is derived
from RETAILMART_KEY with scrypt and the file's own salt, or is a random one that the keyring of the
operating system keeps. The file is written whole or not at all, by one writer at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any

from retailmart.errors import MissingExtra, SettingsError
from retailmart.project.addresses import SECRET_NAME
from retailmart.project.documents import did_you_mean

_FORMAT = 1
_SERVICE = "retailmart"
_KEY_VARIABLE = "RETAILMART_KEY"
_SHORTEST_KEY = 16
_KEY_BYTES, _SALT_BYTES, _NONCE_BYTES = 32, 16, 12
_LARGEST_VALUE = 64 << 10
# 32 MB and a tenth of a second for each guess at a key. Other values need a new _FORMAT.
_SCRYPT = {"length": _KEY_BYTES, "n": 1 << 15, "r": 8, "p": 1}
_PROOF = "proof of the key"
_MAKE_KEY = (
    "Make a key with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'\n"
    f"  and put it into the environment as {_KEY_VARIABLE}, or into a file that"
    f" {_KEY_VARIABLE}_FILE names. Keep a copy elsewhere: without it nothing opens"
)


@dataclass(frozen=True)
class _Contents:
    """The file's content. `account` is the keyring's name for this project's key."""

    account: str
    salt: bytes
    proof: bytes | None = None
    sealed: Mapping[str, bytes] = field(default_factory=dict)


class SecretStore:
    """The secrets of the project in `folder`; `environment` may hold the key."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.path = folder / ".retailmart" / "secrets.json"
        self._environment = environment
        self._derived: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"SecretStore({str(self.path)!r})"

    def names(self) -> list[str]:
        """The names of all secrets, sorted. No key is needed."""
        contents = self._read()
        return sorted(contents.sealed) if contents else []

    def get(self, name: str) -> str:
        """A secret. SettingsError if it is not stored or the key does not decrypt it."""
        contents = self._read()
        if contents is None or name not in contents.sealed:
            known = contents.sealed if contents else ()
            raise _unknown(name, known, f"Store it with: retailmart secrets set {name}")
        key = self._key_of(contents)
        value = _opened(key, name, contents.sealed[name])
        if value is None:
            raise SettingsError(
                [f"{self.path}: {name!r} was changed by another hand, and does not open"],
                "Bring the file back from a backup, or store it anew with:"
                f" retailmart secrets set {name}",
            )
        return value.decode()

    @staticmethod
    def check(name: str) -> None:
        """Raise SettingsError if a name is not valid."""
        if not SECRET_NAME.fullmatch(name):
            # Not repeated: it may be NAME=VALUE.
            raise SettingsError(
                ["a secret's name has letters, digits, _ . and - only"],
                "Write: retailmart secrets set NAME, and give the value when asked",
            )

    def set(self, name: str, value: str) -> None:
        """Store a secret; it replaces an older one of that name."""
        self.check(name)
        try:
            content = value.encode()
        except UnicodeEncodeError:
            raise SettingsError([f"the value of {name} is no text in UTF-8"]) from None
        if not content or len(content) > _LARGEST_VALUE:
            message = "is empty" if not content else f"is longer than {_LARGEST_VALUE:,} bytes"
            raise SettingsError([f"the value of {name} {message}"], "Nothing was stored")
        with self._alone():
            contents = self._read()
            if contents is None or not contents.sealed:
                # An empty store accepts any key: this is the way back after a key was lost.
                contents, key = self._begin(contents)
            else:
                key = self._key_of(contents)
            sealed = {**contents.sealed, name: _sealed(key, name, content)}
            self._write(replace(contents, sealed=sealed))

    def remove(self, name: str) -> None:
        """Remove a secret. No key is needed; SettingsError if it is not stored."""
        with self._alone():
            contents = self._read()
            if contents is None or name not in contents.sealed:
                known = contents.sealed if contents else ()
                raise _unknown(name, known, "See: retailmart secrets list")
            kept = {other: value for other, value in contents.sealed.items() if other != name}
            self._write(replace(contents, sealed=kept))

    # keys

    def _begin(self, contents: _Contents | None) -> tuple[_Contents, bytes]:
        """An empty file's first key, with the check value that identifies it."""
        account = contents.account if contents else token_hex(16)
        fresh = _Contents(account, token_bytes(_SALT_BYTES))
        key = self._text_key(fresh.salt) or _made_in_keyring(account)
        return replace(fresh, proof=_sealed(key, _PROOF, b"")), key

    def _key_of(self, contents: _Contents) -> bytes:
        """The key that the file was written with, or SettingsError."""
        text_key = self._text_key(contents.salt)
        key = text_key or _from_keyring(contents.account)
        if key is None:
            raise SettingsError(
                [f"{self.path}: {_KEY_VARIABLE} is not set, and the keyring has no key for it"],
                f"Set {_KEY_VARIABLE} to the key that the secrets were stored with. If it is lost:"
                " retailmart secrets rm each NAME, then set them anew",
            )
        if contents.proof is None or _opened(key, _PROOF, contents.proof) is None:
            whose = _KEY_VARIABLE if text_key else "the key in the keyring"
            other = (
                f"; unset {_KEY_VARIABLE} if the keyring holds the right one" if text_key else ""
            )
            raise SettingsError(
                [f"{self.path}: {whose} is not the key that the secrets were stored with"],
                f"Set {_KEY_VARIABLE} to that key{other}. Nothing was changed",
            )
        return key

    def _text_key(self, salt: bytes) -> bytes | None:
        text = self._environment.get(_KEY_VARIABLE)
        if text is None:
            return None
        if len(text) < _SHORTEST_KEY:
            raise SettingsError(
                [f"{_KEY_VARIABLE} is shorter than {_SHORTEST_KEY} characters"], _MAKE_KEY
            )
        if salt not in self._derived:
            try:
                from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
            except ModuleNotFoundError as error:
                raise _missing(error) from None
            content = text.encode("utf-8", "surrogateescape")
            self._derived[salt] = bytes(Scrypt(salt=salt, **_SCRYPT).derive(content))
        return self._derived[salt]

    # the file

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until nobody else writes: of two concurrent changes, one would be lost."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self) -> _Contents | None:
        try:
            document = json.loads(self.path.read_bytes())
            if document["format"] != _FORMAT:
                raise SettingsError(
                    [f"{self.path} was written by another version of retailmart"],
                    "Use that version, or a newer one",
                )
            sealed = {name: _bytes(value) for name, value in document["secrets"].items()}
            if not all(map(SECRET_NAME.fullmatch, sealed)):
                raise ValueError("names that nobody could have given")
            return _Contents(
                account=str(document["account"]),
                salt=_bytes(document["salt"]),
                proof=_bytes(document["proof"]),
                sealed=sealed,
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise SettingsError(
                [f"{self.path} is damaged"],
                "Bring it back from a backup, or move it away and store the secrets anew",
            ) from None

    def _write(self, contents: _Contents) -> None:
        document = {
            "format": _FORMAT,
            "account": contents.account,
            "salt": _text(contents.salt),
            "proof": _text(contents.proof or b""),
            "secrets": {name: _text(value) for name, value in sorted(contents.sealed.items())},
        }
        part = self.path.with_suffix(".part")
        part.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o600), "w", encoding="ascii") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _unknown(name: str, known: Iterable[str], hint: str) -> SettingsError:
    if not SECRET_NAME.fullmatch(name):
        return SettingsError(["no secret has such a name"], "See: retailmart secrets list")
    return SettingsError([f"no secret {name!r} is stored{did_you_mean(name, known)}"], hint)


# encryption


def _sealed(key: bytes, name: str, content: bytes) -> bytes:
    cipher, _ = _cipher(key)
    nonce = token_bytes(_NONCE_BYTES)
    return nonce + bytes(cipher.encrypt(nonce, content, _bound_to(name)))


def _opened(key: bytes, name: str, sealed: bytes) -> bytes | None:
    """The decrypted content, or None if the key is wrong or anything was changed."""
    cipher, wrong = _cipher(key)
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return bytes(cipher.decrypt(nonce, rest, _bound_to(name)))
    except (wrong, ValueError):
        return None


def _bound_to(name: str) -> bytes:
    return f"retailmart secrets {_FORMAT}\0{name}".encode()


def _cipher(key: bytes) -> tuple[Any, type[Exception]]:
    """The cipher, and the exception that it raises for changed content."""
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return AESGCM(key), InvalidTag


def _missing(error: ModuleNotFoundError) -> MissingExtra:
    return MissingExtra(
        "secrets", f"the store of secrets needs the package {error.name}, which is not installed"
    )


def _bytes(text: str) -> bytes:
    return b64decode(text, validate=True)


def _text(content: bytes) -> str:
    return b64encode(content).decode("ascii")


# the keyring of the operating system


def _from_keyring(account: str) -> bytes | None:
    """The project's key, or None. SettingsError if no keyring can be used."""
    with _keyring() as keyring:
        text = keyring.get_password(_SERVICE, account)
    try:
        key = _bytes(text) if text else None
    except ValueError:
        key = None
    return key if key and len(key) == _KEY_BYTES else None


def _made_in_keyring(account: str) -> bytes:
    """The keyring's key for a project, created if it has none."""
    if there := _from_keyring(account):
        return there
    key = token_bytes(_KEY_BYTES)
    with _keyring() as keyring:
        keyring.set_password(_SERVICE, account, _text(key))
    # Some keyrings accept everything and store nothing.
    if _from_keyring(account) != key:
        raise SettingsError(["the keyring of this system did not keep the key"], _MAKE_KEY)
    return key


@contextmanager
def _keyring() -> Iterator[Any]:
    try:
        import keyring
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    try:
        yield keyring
    except Exception as error:
        # Backends raise any error: from the keyring, the bus or the system.
        raise SettingsError(
            [
                f"{_KEY_VARIABLE} is not set, and the keyring of this system cannot be used"
                f" ({type(error).__name__})"
            ],
            _MAKE_KEY,
        ) from None
