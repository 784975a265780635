"""The encrypted store: what goes in comes out for who has the key, and for nobody else."""

from __future__ import annotations

import json
import multiprocessing
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring

from retailmart.errors import SettingsError
from retailmart.project.secrets import SecretStore

KEY = "a key of more than sixteen characters"
CANARY = "canary-5f0c-p@ss:w/ord"


class Remembering(KeyringBackend):
    """A keyring in memory, as an unlocked one of a desktop behaves."""

    priority = -1  # never taken unless a test asks for it

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        """What was kept."""
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep it."""
        self.kept[service, username] = password


class Forgetting(Remembering):
    """A keyring that takes everything and keeps nothing."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep nothing."""


class Locked(Remembering):
    """A keyring whose owner is not there; what it raises is not keyring's own kind of error."""

    def get_password(self, service: str, username: str) -> str | None:
        """Raise with a text that must not be repeated."""
        raise OSError(f"locked, {CANARY}")


@pytest.fixture
def use() -> Iterator[Callable[[KeyringBackend], None]]:
    """Set the keyring for a test; without this, whatever the machine has is left alone."""
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def store(folder: Path, key: str | None = KEY) -> SecretStore:
    """The store of a project, opened anew as another process would."""
    return SecretStore(folder, {} if key is None else {"RETAILMART_KEY": key})


def document(folder: Path) -> Any:
    """The file as it stands."""
    return json.loads((folder / ".retailmart" / "secrets.json").read_text())


def rewrite(folder: Path, content: Any) -> None:
    """Change the file as somebody with an editor would."""
    (folder / ".retailmart" / "secrets.json").write_text(json.dumps(content))


def refusal(action: Callable[[], object]) -> str:
    """The words of an error, which never hold the canary nor the key."""
    with pytest.raises(SettingsError) as caught:
        action()
    words = str(caught.value)
    assert CANARY not in words
    assert KEY not in words
    return words


@pytest.mark.parametrize("value", [CANARY, "x", "ü€🙂", "two\nlines\n", " padded ", "a\0b"])
def test_what_is_stored_comes_back(tmp_path: Path, value: str) -> None:
    """A value is any text, and comes back as it was; the file shows nothing of it."""
    store(tmp_path).set("DB.pass-word_1", value)
    assert store(tmp_path).get("DB.pass-word_1") == value
    assert store(tmp_path).names() == ["DB.pass-word_1"]
    content = (tmp_path / ".retailmart" / "secrets.json").read_bytes()
    assert len(value) == 1 or value.encode() not in content


def test_a_value_can_be_replaced_and_removed(tmp_path: Path) -> None:
    """The newest value counts; a removed one is gone and the others stay."""
    secrets = store(tmp_path)
    for name, value in (("A", "old"), ("B", "other"), ("A", "new")):
        secrets.set(name, value)
    assert (secrets.get("A"), secrets.get("B")) == ("new", "other")
    secrets.remove("A")
    assert secrets.names() == ["B"]
    assert "no secret 'A' is stored" in refusal(lambda: secrets.get("A"))
    assert secrets.get("B") == "other"


def test_equal_values_look_different(tmp_path: Path) -> None:
    """Each value has its own nonce: neither equal passwords nor an unchanged one can be seen."""
    store(tmp_path).set("A", CANARY)
    before = document(tmp_path)["secrets"]["A"]
    store(tmp_path).set("A", CANARY)
    store(tmp_path).set("B", CANARY)
    after = document(tmp_path)["secrets"]
    assert len({before, after["A"], after["B"]}) == 3


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Nobody else can read the file, and no half-written one stays beside it."""
    store(tmp_path).set("A", CANARY)
    store(tmp_path).set("B", CANARY)
    folder = tmp_path / ".retailmart"
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["secrets.json", "secrets.lock"]


def test_a_part_left_by_a_killed_write_is_no_hindrance(tmp_path: Path) -> None:
    """What a killed command left beside the file is thrown away."""
    store(tmp_path).set("A", "1")
    (tmp_path / ".retailmart" / "secrets.part").write_text("{")
    store(tmp_path).set("B", "2")
    assert store(tmp_path).names() == ["A", "B"]


def test_a_failing_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the file as it was."""
    store(tmp_path).set("A", "1")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            store(tmp_path).set("B", "2")
    assert store(tmp_path).get("A") == "1"
    assert store(tmp_path).names() == ["A"]


def test_another_key_opens_and_changes_nothing(tmp_path: Path) -> None:
    """With a wrong key nothing is read, nothing is written, and the words say why."""
    store(tmp_path).set("A", CANARY)
    before = (tmp_path / ".retailmart" / "secrets.json").read_bytes()
    wrong = store(tmp_path, "another key of more characters")
    for action in (lambda: wrong.get("A"), lambda: wrong.set("B", CANARY)):
        assert "RETAILMART_KEY is not the key" in refusal(action)
    assert (tmp_path / ".retailmart" / "secrets.json").read_bytes() == before
    assert store(tmp_path).get("A") == CANARY


def test_who_lost_the_key_can_begin_anew(tmp_path: Path) -> None:
    """Names can be listed and removed without the key; an empty store takes a new one."""
    store(tmp_path).set("A", CANARY)
    lost = store(tmp_path, "another key of more characters")
    assert lost.names() == ["A"]
    lost.remove("A")
    lost.set("A", "new")
    assert lost.get("A") == "new"
    assert "is not the key" in refusal(lambda: store(tmp_path).get("A"))


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    """A key that could be guessed is not taken; the way to a good one is told."""
    words = refusal(lambda: store(tmp_path, "fifteen letters").set("A", CANARY))
    assert "shorter than 16 characters" in words
    assert "token_urlsafe" in words
    assert not (tmp_path / ".retailmart" / "secrets.json").exists()


def test_no_changed_byte_goes_unnoticed(tmp_path: Path) -> None:
    """Whichever byte of a sealed value is flipped, the secret does not open."""
    store(tmp_path).set("A", CANARY)
    good = document(tmp_path)
    sealed = b64decode(good["secrets"]["A"])
    opened = store(tmp_path)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        rewrite(tmp_path, {**good, "secrets": {"A": b64encode(changed).decode()}})
        assert "changed by another hand" in refusal(lambda: opened.get("A"))
    for length in (0, 11, 12, 20):
        rewrite(tmp_path, {**good, "secrets": {"A": b64encode(sealed[:length]).decode()}})
        assert "changed by another hand" in refusal(lambda: opened.get("A"))
    rewrite(tmp_path, good)
    assert opened.get("A") == CANARY


@pytest.mark.parametrize("part", ["salt", "proof"])
def test_a_changed_file_does_not_open(tmp_path: Path, part: str) -> None:
    """The parts by which the key is known are not changed unnoticed either."""
    store(tmp_path).set("A", CANARY)
    content = document(tmp_path)
    changed = bytearray(b64decode(content[part]))
    changed[0] ^= 1
    rewrite(tmp_path, {**content, part: b64encode(changed).decode()})
    assert "is not the key" in refusal(lambda: store(tmp_path).get("A"))
    assert "is not the key" in refusal(lambda: store(tmp_path).set("B", "x"))


def test_values_cannot_be_swapped_between_names(tmp_path: Path) -> None:
    """A password moved to another name would go to another server: it does not open there."""
    store(tmp_path).set("TEST_SERVER", "harmless")
    store(tmp_path).set("REAL_SERVER", CANARY)
    content = document(tmp_path)
    one, other = content["secrets"]["TEST_SERVER"], content["secrets"]["REAL_SERVER"]
    rewrite(tmp_path, {**content, "secrets": {"TEST_SERVER": other, "REAL_SERVER": one}})
    for name in ("TEST_SERVER", "REAL_SERVER"):
        assert "changed by another hand" in refusal(partial(store(tmp_path).get, name))


def test_values_cannot_come_from_another_project(tmp_path: Path) -> None:
    """Two projects with one key cannot read each other's values: their salts differ."""
    for shop in ("one", "two"):
        store(tmp_path / shop).set("A", shop)
    foreign = document(tmp_path / "one")["secrets"]
    rewrite(tmp_path / "two", {**document(tmp_path / "two"), "secrets": foreign})
    assert "changed by another hand" in refusal(lambda: store(tmp_path / "two").get("A"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": 1, "account": "x", "salt": "?", "proof": "", "secrets": {}}',
        '{"format": 1, "account": "x", "salt": "", "proof": "", "secrets": []}',
        '{"format": 1, "account": "x", "salt": "", "proof": "", "secrets": {"A": 1}}',
        '{"format": 1, "account": "x", "salt": "", "proof": "", "secrets": {"\\u001b[2J": ""}}',
        "\\xff",
    ],
)
def test_a_damaged_file_is_told_and_kept(tmp_path: Path, content: str) -> None:
    """Whatever stands in the file, it is not overwritten, and there is no traceback."""
    path = tmp_path / ".retailmart" / "secrets.json"
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    for action in (
        lambda: store(tmp_path).get("A"),
        lambda: store(tmp_path).names(),
        lambda: store(tmp_path).set("A", CANARY),
        lambda: store(tmp_path).remove("A"),
    ):
        assert "secrets.json is damaged" in refusal(action)
    assert path.read_bytes() == content.encode("latin-1")


def test_a_later_format_is_not_touched(tmp_path: Path) -> None:
    """A file of a version to come is neither read amiss nor written over."""
    store(tmp_path).set("A", CANARY)
    rewrite(tmp_path, {**document(tmp_path), "format": 2})
    assert "another version" in refusal(lambda: store(tmp_path).set("A", CANARY))
    assert document(tmp_path)["format"] == 2


@pytest.mark.parametrize("name", ["", "A B", f"DB={CANARY}", "ü", "a/b", "a\n", "x" * 129])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    """A name with anything else in it is refused without being repeated: it may hold a value."""
    assert "letters, digits" in refusal(lambda: store(tmp_path).set(name, "x"))
    assert "no secret has such a name" in refusal(lambda: store(tmp_path).get(name))


@pytest.mark.parametrize("value", ["", "x" * (64 * 1024 + 1), "\udcff"])
def test_values_that_are_none_are_refused(tmp_path: Path, value: str) -> None:
    """No value, one as long as a file and one that is no text are mistakes."""
    assert "the value of A " in refusal(lambda: store(tmp_path).set("A", value))
    assert store(tmp_path).names() == []


def test_an_unknown_name_is_told_with_what_is_near(tmp_path: Path) -> None:
    """A misspelt reference finds its way; no value is shown."""
    store(tmp_path).set("SHOP_PASSWORD", CANARY)
    assert "did you mean 'SHOP_PASSWORD'?" in refusal(lambda: store(tmp_path).get("SHOP_PASWORD"))
    assert "no secret 'X' is stored" in refusal(lambda: store(tmp_path / "empty").remove("X"))
    assert "no secret 'X' is stored" in refusal(lambda: store(tmp_path / "empty").get("X"))


def _set(folder: Path, name: str, ready: Any) -> None:
    secrets = store(folder)
    ready.wait()
    secrets.set(name, name)


def test_of_many_that_are_stored_at_once_none_is_lost(tmp_path: Path) -> None:
    """Processes that set different secrets at the same moment all find theirs stored."""
    context = multiprocessing.get_context("spawn")
    names = [f"N{n}" for n in range(4)]
    ready = context.Barrier(len(names))
    workers = [context.Process(target=_set, args=(tmp_path, name, ready)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert store(tmp_path).names() == names
    assert [store(tmp_path).get(name) for name in names] == names


# the keyring


def test_the_keyring_holds_a_key_of_its_own(
    tmp_path: Path, use: Callable[[KeyringBackend], None]
) -> None:
    """Without RETAILMART_KEY the first secret makes a random key, and later ones use it."""
    use(chain := Remembering())
    store(tmp_path, None).set("A", CANARY)
    store(tmp_path, None).set("B", "other")
    assert store(tmp_path, None).get("A") == CANARY
    ((service, _), key), *rest = chain.kept.items()
    assert (service, len(b64decode(key)), rest) == ("retailmart", 32, [])
    assert key not in (tmp_path / ".retailmart" / "secrets.json").read_text()


def test_a_project_finds_its_key_after_a_move(
    tmp_path: Path, use: Callable[[KeyringBackend], None]
) -> None:
    """The keyring knows a project by a number in its file, not by its path."""
    use(Remembering())
    store(tmp_path / "old", None).set("A", CANARY)
    (tmp_path / "old").rename(tmp_path / "new")
    assert store(tmp_path / "new", None).get("A") == CANARY


def test_projects_have_different_keys(
    tmp_path: Path, use: Callable[[KeyringBackend], None]
) -> None:
    """What opens one project opens no other."""
    use(chain := Remembering())
    store(tmp_path / "one", None).set("A", CANARY)
    store(tmp_path / "two", None).set("A", CANARY)
    assert len(set(chain.kept.values())) == 2


def test_the_variable_goes_before_the_keyring(
    tmp_path: Path, use: Callable[[KeyringBackend], None]
) -> None:
    """Where both have a key, RETAILMART_KEY counts; if it is not the right one, that is said."""
    use(chain := Remembering())
    store(tmp_path / "text").set("A", CANARY)
    assert chain.kept == {}
    store(tmp_path / "ring", None).set("A", CANARY)
    words = refusal(lambda: store(tmp_path / "ring").get("A"))
    assert "RETAILMART_KEY is not the key" in words
    assert "unset RETAILMART_KEY" in words


@pytest.mark.parametrize("kind", [NoKeyring, Locked])
def test_without_any_key_the_way_to_one_is_told(
    tmp_path: Path, use: Callable[[KeyringBackend], None], kind: type[KeyringBackend]
) -> None:
    """A server has no keyring: the error says how to make a key and where it belongs."""
    use(kind())
    words = refusal(lambda: store(tmp_path, None).set("A", CANARY))
    assert "the keyring of this system cannot be used" in words
    assert "secrets.token_urlsafe(32)" in words
    assert "RETAILMART_KEY_FILE" in words
    assert store(tmp_path).names() == []


def test_a_keyring_that_keeps_nothing_gets_no_secret(
    tmp_path: Path, use: Callable[[KeyringBackend], None]
) -> None:
    """A key that is gone at once would seal a secret for ever."""
    use(Forgetting())
    assert "did not keep the key" in refusal(lambda: store(tmp_path, None).set("A", CANARY))
    assert store(tmp_path).names() == []


def test_a_keyring_without_the_key_is_told(
    tmp_path: Path, use: Callable[[KeyringBackend], None]
) -> None:
    """On another machine the keyring is empty, or has something else there."""
    use(chain := Remembering())
    store(tmp_path, None).set("A", CANARY)
    ((place, _),) = chain.kept.items()
    for other in ("", "no base64", "c2hvcnQ="):
        chain.kept[place] = other
        assert "the keyring has no key for it" in refusal(lambda: store(tmp_path, None).get("A"))
    chain.kept[place] = b64encode(b"x" * 32).decode()
    assert "the key in the keyring is not the key" in refusal(
        lambda: store(tmp_path, None).get("A")
    )


@pytest.mark.parametrize("missing", ["cryptography", "keyring"])
def test_a_missing_library_is_told(
    tmp_path: Path,
    use: Callable[[KeyringBackend], None],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    """Without the extra the words say what to install."""
    use(Remembering())
    for name in ("", ".exceptions", ".hazmat.primitives.kdf.scrypt"):
        monkeypatch.setitem(__import__("sys").modules, missing + name, None)
    key = KEY if missing == "cryptography" else None
    words = refusal(lambda: store(tmp_path, key).set("A", CANARY))
    assert "pip install '.[secrets]'" in words


def test_it_shows_nothing_of_itself(tmp_path: Path) -> None:
    """A store in a log or a debugger is its path and no more."""
    secrets = store(tmp_path)
    secrets.set("A", CANARY)
    assert repr(secrets) == f"SecretStore({str(tmp_path / '.retailmart' / 'secrets.json')!r})"
