"""Hostile JSON: every record loaded as Python's json reads it, or in quarantine with its number.

Python's json module and `decimal` are the judge of what a file holds; nothing of the package helps.
Each file is read twice: by the careful reader alone, and with the engine's look at it before.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.feeds.load import load
from retailmart.feeds.load_part import FileToLoad
from retailmart.files import check_json as module
from retailmart.files import json_records
from retailmart.files.check import check_content
from retailmart.files.checked import CheckedFile, Refusal
from retailmart.files.scan import Scan
from retailmart.lake import Lake
from retailmart.lake.layout import quarantine_table
from retailmart.lake.places import LocalPlace
from retailmart.ledger.values import FileState, LedgerFile
from retailmart.project import Feed
from retailmart.project.feed import read_feed
from tests.support.amount import SEED, tries

MEGABYTE = 1 << 20
DEEPEST = 64
FEED = """files: ["users*"]
format: json
columns:
  customer_id: {type: INT, mandatory: true, aliases: [Customer ID]}
  amount: {type: "DECIMAL(12,2)", aliases: [Outstanding Amount]}
  note: STRING
  flag: BOOLEAN
  city: {type: STRING, aliases: [address.city]}
  ratio: DOUBLE
nulls: ["-"]
extra_columns: more
"""
NAMES = {
    "customer_id": "customer_id",
    "customer id": "customer_id",
    "amount": "amount",
    "outstanding amount": "amount",
    "note": "note",
    "flag": "flag",
    "city": "city",
    "address.city": "city",
    "ratio": "ratio",
}
COLUMNS = ("customer_id", "amount", "note", "flag", "city", "ratio")


# The judge.


class Digits(str):
    """A number's own characters."""

    __slots__ = ()


class Twice(dict[str, Any]):
    """An object that names a key twice."""


class Odd(str):
    """NaN or Infinity."""

    __slots__ = ()


def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs) if len({key for key, _ in pairs}) == len(pairs) else Twice(pairs)


DECODER = json.JSONDecoder(
    parse_float=Digits, parse_int=Digits, parse_constant=Odd, object_pairs_hook=members
)


@dataclass
class Judgement:
    """What a file holds: typed good rows, the numbers of the bad records; or that it is refused."""

    refused: bool = False
    good: Counter[tuple[object, ...]] = field(default_factory=Counter)
    bad: set[int] = field(default_factory=set)


def judge(content: bytes) -> Judgement:
    """Read a file with Python's json and type its values by the rules of the feed."""
    body = content.removeprefix(b"\xef\xbb\xbf")
    if not body.strip(b" \t\r\n").startswith(b"["):
        lines = (line.strip(b" \t\r\n") for line in body.split(b"\n"))
        return judged([(line, line_value(line)) for line in lines if line])
    try:
        text = body.decode()
        DECODER.decode(text)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return Judgement(refused=True)
    except RecursionError:
        pytest.fail("write such a case by hand")
    return judged([(raw.encode(), value) for raw, value in elements(text)])


def elements(text: str) -> Iterator[tuple[str, Any]]:
    """The elements of a sound list, with their text."""
    place = re.compile(r"\s*\[\s*").match(text)
    assert place
    at = place.end()
    while text[at] != "]":
        value, end = DECODER.raw_decode(text, at)
        yield text[at:end], value
        after = re.compile(r"[\s,]*").match(text, end)
        assert after
        at = after.end()


def line_value(line: bytes) -> Any:
    try:
        return DECODER.decode(line.decode())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None


def judged(records: Sequence[tuple[bytes, Any]]) -> Judgement:
    found = Judgement()
    named, objects = set(), 0
    for number, (raw, value) in enumerate(records, 1):
        if isinstance(value, dict) and len(raw) <= MEGABYTE:
            objects += 1
            named |= set(columns(value))
        row = typed_row(raw, value)
        if row is None:
            found.bad.add(number)
        else:
            found.good[row] += 1
    return found if objects and "customer_id" in named else Judgement(refused=True)


def columns(value: dict[str, Any]) -> list[str]:
    """The feed's columns that a record names, however often."""
    named = [NAMES.get(" ".join(key.casefold().split()), "") for key in value]
    for key, inner in value.items():
        if key.strip().casefold() == "address" and isinstance(inner, dict):
            named += ["city" for word in inner if word.strip().casefold() == "city"]
    return [name for name in named if name]


def typed_row(raw: bytes, value: Any) -> tuple[object, ...] | None:
    if not isinstance(value, dict) or len(raw) > MEGABYTE or is_odd(value, 0):
        return None
    if max(Counter(columns(value)).values(), default=0) > 1:
        return None
    row: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, inner in value.items():
        name = NAMES.get(" ".join(key.casefold().split()))
        if name:
            row[name] = inner
        elif key.strip().casefold() == "address" and isinstance(inner, dict):
            cities = [word for word in inner if word.strip().casefold() == "city"]
            rest = {word: item for word, item in inner.items() if word not in cities}
            for word in cities:
                row["city"] = inner[word]
            if rest or not cities:
                extra[key] = rest
        else:
            extra[key] = inner
    values = [JUDGES[name](said(row.get(name))) for name in COLUMNS]
    if values[0] is None or "bad" in values:
        return None
    return (*values, canonical(extra) if extra else None)


def is_odd(value: Any, depth: int) -> bool:
    """Whether a database could not hold a value, or it is none of JSON's."""
    if isinstance(value, Twice | Odd) or (isinstance(value, dict | list) and depth >= DEEPEST):
        return True
    if isinstance(value, str):
        return "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return any(is_odd(key, 0) or is_odd(item, depth + 1) for key, item in value.items())
    return isinstance(value, list) and any(is_odd(item, depth + 1) for item in value)


def said(value: Any) -> str:
    if value is None:
        return ""
    return value + "" if isinstance(value, str) else canonical(value)


def canonical(value: Any) -> str:
    """A value as JSON text in which numbers have their own characters."""
    if isinstance(value, Digits):
        return value + ""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}:{canonical(item)}" for key, item in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value)


BLANK = r"[ \t\r\n\f]*"


def whole(text: str) -> object:
    if not text.strip(" \t\r\n\f") or text.strip(" ") == "-":
        return None if text.strip(" ") in ("", "-") else "bad"
    if len(text) > 1000 or re.fullmatch(rf"{BLANK}[+-]?[0-9]+{BLANK}", text) is None:
        return "bad"
    return number if -(2**31) <= (number := int(text)) < 2**31 else "bad"


def money(text: str) -> object:
    if text.strip(" ") in ("", "-"):
        return None
    if re.fullmatch(rf"{BLANK}[+-]?([0-9]+\.?[0-9]*|\.[0-9]+){BLANK}", text) is None:
        return "bad"
    amount = Decimal(text.strip())
    cents = amount.quantize(Decimal("0.01")) if abs(amount) < 10**20 else None
    return cents if cents == amount and abs(amount) < 10**10 else "bad"


def truth(text: str) -> object:
    if text.strip(" ") in ("", "-"):
        return None
    word = text.strip(" \t\r\n\f").lower()
    return {
        **dict.fromkeys(("true", "yes", "y", "1"), True),
        **dict.fromkeys(("false", "no", "n", "0"), False),
    }.get(word, "bad")


def floating(text: str) -> object:
    if text.strip(" ") in ("", "-"):
        return None
    form = rf"{BLANK}[+-]?[0-9]{{1,100}}(\.[0-9]*)?([eE][+-]?[0-9]{{1,2}})?{BLANK}"
    return float(text) if re.fullmatch(form, text) else "bad"


def words(text: str) -> object:
    return text if text.strip(" ") else None


JUDGES = {
    "customer_id": whole,
    "amount": money,
    "note": words,
    "flag": truth,
    "city": words,
    "ratio": floating,
}


# What loads files without a whole run.


@dataclass(frozen=True, repr=False)
class ScratchLake:
    """An engine, a lake and a feed."""

    engine: DuckDBEngine
    lake: Lake
    feed: Feed
    scratch: Path
    batches: Iterator[int]

    def load(self, contents: Sequence[bytes]) -> list[CheckedFile]:
        """Load files as one batch; each must come out as the judge says. Those that were read."""
        checked = {n: self.check(content) for n, content in enumerate(contents, 1)}
        judged = {n: judge(content) for n, content in enumerate(contents, 1)}
        for n, found in checked.items():
            what = (contents[n - 1][:300], found.message if isinstance(found, Refusal) else "")
            assert isinstance(found, Refusal) == judged[n].refused, what
        files = {n: found for n, found in checked.items() if isinstance(found, CheckedFile)}
        if not files:
            return []
        batch = next(self.batches)
        items = [FileToLoad(ledger_file(n, batch), file) for n, file in files.items()]
        loaded = load(self.engine, self.lake, self.feed, items, {}, batch, self.scratch)
        accepted: dict[int, Counter[tuple[object, ...]]] = {n: Counter() for n in files}
        added = self.engine.define(loaded.added)
        named = ", ".join((*COLUMNS, "more", "_file_id"))
        for *cells, extra, n in self.engine.rows(f"SELECT {named} FROM {added}"):
            more = canonical(DECODER.decode(extra)) if extra else None
            accepted[n][*cells, more] += 1
        refused: dict[int, set[int]] = {n: set() for n in files}
        if loaded.quarantine:
            root = str(self.lake.folder(quarantine_table("users")))
            held = self.engine.define(loaded.quarantine.applied_to(root, None))
            for n, line in self.engine.rows(f"SELECT file_id, line FROM {held}"):
                refused[n].add(line)
        for outcome in loaded.outcomes:
            n, content = outcome.file_id, contents[outcome.file_id - 1][:300]
            assert sorted_extras(accepted[n]) == sorted_extras(judged[n].good), content
            assert refused[n] == judged[n].bad, content
            assert outcome.loaded == judged[n].good.total(), content
            assert outcome.quarantined == len(judged[n].bad), content
            assert outcome.records == outcome.loaded + outcome.quarantined, content
        return list(files.values())

    def check(self, content: bytes) -> CheckedFile | Refusal:
        path = self.scratch / f"{sha256(content).hexdigest()}.csv"
        path.write_bytes(content)
        scan = Scan(delimited=False)
        scan.feed(content)
        return check_content(path, scan, self.feed, path.name)


def sorted_extras(rows: Counter[tuple[object, ...]]) -> Counter[tuple[object, ...]]:
    """Rows whose further keys are in the alphabet's order: an object has none."""
    found: Counter[tuple[object, ...]] = Counter()
    for (*cells, more), count in rows.items():
        value = DECODER.decode(str(more)) if more else None
        found[*cells, canonical(dict(sorted(value.items()))) if value else None] += count
    return found


def ledger_file(n: int, batch: int) -> LedgerFile:
    state = FileState.ACTIVE
    return LedgerFile(n, batch, f"{n}.json", "", 0, "", state, "users", None, None, None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ScratchLake]:
    """A bench in a folder of its own. An engine that served all tests would keep all their rows."""
    (tmp_path / "users.yml").write_text(FEED)
    problems: list[str] = []
    feed = read_feed(tmp_path / "users.yml", tmp_path, problems)
    assert feed, problems
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    lake = Lake(LocalPlace(tmp_path / "lake"))
    lake.place.workspace.mkdir()
    engine = DuckDBEngine([lake.place], scratch, threads=1)
    yield ScratchLake(engine, lake, feed, scratch, iter(range(1, 1_000_000)))
    engine.close()


@pytest.fixture(params=[0, 1 << 60], ids=["engine", "careful"])
def looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the engine may look at files of any size, or at none."""
    monkeypatch.setattr(module, "WORTH_A_LOOK", request.param)
    return bool(request.param == 0)


VALUES = {
    "cents": "12.50",
    "a whole": "12",
    "seventeen digits": "12345678901234567.89",
    "more digits than a float has": "0.30000000000000000001",
    "just below": "9999999999.99",
    "just above": "10000000000.00",
    "a third decimal": "1.005",
    "an exponent": "1e2",
    "a capital exponent": "1E+2",
    "a negative exponent": "15e-3",
    "negative nothing": "-0",
    "nothing with cents": "-0.00",
    "a tenth": "0.1",
    "a millionth": "0.000001",
    "a big whole": "123456789012345678901234567890",
    "too big for a float": "1E400",
    "5,000 digits": "1" * 5000,
    "true": "true",
    "null": "null",
    "a text": '"12.50"',
    "a dash": '"-"',
    "an empty text": '""',
    "a blank text": '" "',
    "escapes": r'"a\"b\\c\/d\n\t\u00e9"',
    "a pair": r'"\ud83e\uded6"',
    "half a pair": r'"\ud83e"',
    "a NUL": r'"a\u0000b"',
    "brackets in a text": '"[{],}"',
    "a list": '[1.50, null, {"a": [1e2]}]',
    "an object": '{"a": 1.50, "b": {"c": "d"}}',
    "an empty object": "{}",
    "an empty list": "[]",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "the word NaN": '"NaN"',
    "64 levels": "[" * 63 + "]" * 63,
    "65 levels": "[" * 64 + "]" * 64,
    "130 levels": '{"a":' * 130 + "1" + "}" * 130,
    "a line separator": '"a\u2028b"',
    "another alphabet": '"Żółć 🫖 ₦"',
}
GOOD = '{"Customer ID": 1, "Outstanding Amount": 10.5, "note": "x"}'
FILES = {
    "nothing": "",
    "blanks": " \n\n\t",
    "an empty list": "[]",
    "one record": f"[{GOOD}]",
    "lines": f"{GOOD}\n{GOOD}\n",
    "no last line end": f"{GOOD}\n{GOOD}",
    "Windows lines": f"{GOOD}\r\n{GOOD}\r\n",
    "blank lines": f"\n\n{GOOD}\n   \n{GOOD}\n\n",
    "a marked list": f"\ufeff[{GOOD}]",
    "marked lines": f"\ufeff{GOOD}\n{GOOD}",
    "a pretty list": json.dumps([json.loads(GOOD)] * 3, indent=4),
    "a tight list": json.dumps([json.loads(GOOD)] * 3, separators=(",", ":")),
    "two lists": f"[{GOOD}][{GOOD}]",
    "a word after the list": f"[{GOOD}] x",
    "a comma at the end": f"[{GOOD},]",
    "a comma at the start": f"[,{GOOD}]",
    "two commas": f"[{GOOD},,{GOOD}]",
    "no comma": f"[{GOOD} {GOOD}]",
    "an open list": f"[{GOOD},{GOOD}",
    "an open list and a comma": f"[{GOOD},",
    "an open bracket": "[",
    "an open record": f'[{GOOD},{{"Customer ID": 2',
    "an open text": f'[{GOOD},{{"note": "abc',
    "a comment": f"[{GOOD}/* x */]",
    "a comma in a record": f'[{GOOD},{{"Customer ID": 2,}}]',
    "a comma in a line": f'{GOOD}\n{{"Customer ID": 2,}}\n',
    "single quotes": f"{GOOD}\n{{'Customer ID': 2}}\n",
    "a bare key": f"{GOOD}\n{{customer_id: 2}}\n",
    "small inf": f'[{GOOD},{{"Customer ID": 2, "ratio": inf}}]',
    "small nan": f'{GOOD}\n{{"Customer ID": 2, "ratio": nan}}\n',
    "a broken line": f"{GOOD}\nbroken\n{GOOD}",
    "a broken first line": f"broken\n{GOOD}",
    "a line with two records": f"{GOOD}{GOOD}\n{GOOD}",
    "a line that ends in a comma": f"{GOOD},\n{GOOD}",
    "a line of numbers": f"{GOOD}\n12\n{GOOD}",
    "numbers": "[1, 2, 3]",
    "lists": f"[[{GOOD}]]",
    "null among records": f"[{GOOD}, null, {GOOD}]",
    "one object over lines": json.dumps(json.loads(GOOD), indent=2),
    "an object around": f'{{"data": [{GOOD}]}}',
    "a CSV": "customer_id,amount\n1,2.50\n",
    "a word": "hello",
    "a key twice": f'[{GOOD}, {{"Customer ID": 1, "Customer ID": 2}}]',
    "a further key twice": f'[{GOOD}, {{"Customer ID": 1, "x": 1, "x": 1}}]',
    "a key twice inside": f'[{GOOD}, {{"Customer ID": 1, "x": {{"y": 1, "y": 1}}}}]',
    "a column twice": f'[{GOOD}, {{"Customer ID": 1, "customer_id": 2}}]',
    "a column by two roads": '[{"Customer ID": 1, "city": "a", "address": {"city": "b"}}]',
    "another case": '[{" CUSTOMER  id ": 1, "NOTE": "x"}]',
    "cases that differ": f'{GOOD}\n{{"customer id": 2, "NOTE": "y"}}\n{{"CUSTOMER_ID": 3}}',
    "another order": f'{GOOD}\n{{"note": "y", "Customer ID": 2}}\n',
    "keys that lack": f'{GOOD}\n{{"Customer ID": 2}}\n{{"Customer ID": 3, "note": "z"}}\n',
    "no mandatory key at all": '[{"note": "x"}, {"note": "y"}]',
    "a mandatory key in one": '[{"note": "x"}, {"note": "y", "Customer ID": 3}]',
    "an empty record": f"[{GOOD}, {{}}]",
    "nothing but an empty record": "[{}]",
    "a mandatory null": f'[{GOOD}, {{"Customer ID": null}}]',
    "only flawed records": '[{"Customer ID": NaN}]',
    "an inner column": '[{"Customer ID": 1, "address": {"city": "Lagos"}}]',
    "an inner column and more": '[{"Customer ID": 1, "Address": {" City": "Lagos", "zip": 5.50}}]',
    "an inner column that is a list": '[{"Customer ID": 1, "address": {"city": [1.0]}}]',
    "an address that is a text": '[{"Customer ID": 1, "address": "Lagos"}]',
    "an empty address": '[{"Customer ID": 1, "address": {}}]',
    "further keys": '[{"Customer ID": 1, "a": 1.50, "b": null, "c": {"d": [1]}, "e": "f"}]',
    "further nulls alike": '{"Customer ID": 1, "a": null}\n' * 3,
    "further keys alike": '{"Customer ID": 1, "a": 1.5, "b\'": "x", "c": true}\n' * 3,
    "an empty key": f'{GOOD}\n{{"Customer ID": 1, "": 2}}\n',
    "names of the engine's": '{"Customer ID": 1, "_row": 2, "_file_id": 3, "c0": 4, "j0": 5}\n' * 2,
    "file_index": '{"Customer ID": 1, "file_index": 2}\n' * 2,
    "odd keys": json.dumps([{"Customer ID": 1, 'a"b': 1, "c\\d": 2, "e.f": 3, "'": 4, "$": 5}]),
    "a quote in a key": '{"Customer ID": 1, "a\\"b": 1}\n' * 2,
    "keys that differ in case": '{"Customer ID": 1, "x": 1, "X": 2}\n' * 2,
    "all decimals": '{"Customer ID": 1, "Outstanding Amount": 10.50}\n' * 3,
    "decimals mixed": '{"Customer ID": 1, "amount": 10.50}\n{"Customer ID": 2, "amount": 1.5}\n',
    "a record of 1 MB": f'[{GOOD}, {{"Customer ID": 2, "note": "{"x" * (MEGABYTE - 30)}"}}]',
    "a record of over 1 MB": f'[{GOOD}, {{"Customer ID": 2, "note": "{"x" * MEGABYTE}"}}, {GOOD}]',
    "a line of over 1 MB": f'{GOOD}\n{{"Customer ID": 2, "note": "{"x" * MEGABYTE}"}}\n{GOOD}',
    "a record of 5 MB": f'[{GOOD}, {{"Customer ID": 2, "n": ["{"]" * 5 * MEGABYTE}"]}}, {GOOD}]',
    "escapes over 4 MB": f'[{{"Customer ID": 2, "n": "{chr(92) * 4 * MEGABYTE}"}}, {GOOD}]',
    "an open record of 5 MB": f'[{GOOD}, {{"Customer ID": 2, "note": "{"x" * 5 * MEGABYTE}',
    "blanks of 3 MB": f"[{' ' * 3 * MEGABYTE}{GOOD}{' ' * 3 * MEGABYTE},{GOOD}]",
}


def each_value() -> dict[str, list[bytes]]:
    """Files with each value in a column, and in a further key: alone, and among others."""
    made: dict[str, list[bytes]] = {}
    for name, value in VALUES.items():
        alike, others = [], []
        for column in ("amount", "note", "customer_id", "ratio", "flag", "further"):
            odd = f'{{"Customer ID": 7, "x": 1, "{column}": {value}}}'
            if column == "customer_id":
                odd = f'{{"x": 1, "Customer ID": {value}}}'
            alike.append(f"{odd}\n{odd}\n")
            others += [odd.replace(value, "1"), odd]
        among = [f"[{', '.join(others)}]", "\n".join(others) + "\n"]
        made[name] = [text.encode() for text in (*alike, *among)]
    return made


def together(cases: Mapping[str, object], count: int) -> list[Any]:
    """Names of cases, so many for a test: each batch takes a while to begin."""
    names = list(cases)
    groups = [names[at : at + count] for at in range(0, len(names), count)]
    return [pytest.param(group, id=f"{group[0]} to {group[-1]}") for group in groups]


@pytest.mark.parametrize("names", together(FILES, 12))
def test_files_made_by_hand(bench: ScratchLake, looked_at: bool, names: Sequence[str]) -> None:
    """Each is refused, or its records are loaded and quarantined, as Python's json says."""
    bench.load([FILES[name].encode() for name in names])


@pytest.mark.parametrize("names", together(VALUES, 10))
def test_values_made_by_hand(bench: ScratchLake, looked_at: bool, names: Sequence[str]) -> None:
    """Each value is what was delivered, to the character, in columns of every type."""
    made = each_value()
    bench.load([content for name in names for content in made[name]])


NO_TEXT = (
    b'[{"Customer ID": 1, "note": "\xff"}]',
    b'[{"Customer ID": 1, "note": "caf\xe9"}, {"Customer ID": 2}]',
    b'[{"Customer ID": 1, "note": "\xf0\x9f\xab"}]',
    b'{"Customer ID": 1, "note": "caf\xe9"}\n{"Customer ID": 2}\n',
    b'{"Customer ID": 1, "note": "a\x00b"}\n{"Customer ID": 2}\n',
    b'\x00{"Customer ID": 1}\n{"Customer ID": 2}\n',
    b'[{"Customer ID": 1, "note": "a\tb"}]',
    b"\xff\xfe[\x00]\x00",
)


def test_bytes_that_are_no_text(bench: ScratchLake, looked_at: bool) -> None:
    """In a list they refuse the file, in a line that line."""
    bench.load(NO_TEXT)


@pytest.mark.parametrize("depth", [900, 5_000, 200_000])
def test_depth_is_bounded(bench: ScratchLake, looked_at: bool, depth: int) -> None:
    """What is nested deeper than any stack is one bad record, and what follows it is read."""
    deep = f'{{"Customer ID": 2, "x": {"[" * depth}{"]" * depth}}}'
    for content in (f"[{GOOD}, {deep}, {GOOD}]", f"{GOOD}\n{deep}\n{GOOD}\n"):
        found = bench.check(content.encode())
        assert isinstance(found, CheckedFile)
        assert found.records == 3
        assert [(one.line, one.parse_error.rule) for one in found.malformed] == [(2, "too_deep")]


def mutated(seed: int) -> list[bytes]:
    """Files with a byte out of place here or there, by a dice of its own."""
    dice = random.Random(f"{SEED} {seed}")
    pieces = [b'"', b",", b"{", b"}", b"[", b"]", b":", b"\n", b" ", b"\\", b"0", b".", b"e", b"-"]
    pieces += [b"\xc3\xa9", b"\xff", b"\0", b"null", b'"x":1,', b"NaN", b"\\u0000", b"//", b"1"]
    made = []
    for _ in range(10):
        count, tight = dice.randint(1, 4), dice.random() < 0.5
        rows = []
        for number in range(count):
            row: dict[str, Any] = {"Customer ID": number, "Outstanding Amount": 10.25 * number}
            row |= {"note": dice.choice(["x", "", "a b", "é"]), "flag": dice.choice([True, None])}
            if dice.random() < 0.3:
                row["address"] = {"city": "Lagos", "zip": 5}
            rows.append(json.dumps(row, separators=(",", ":") if tight else None))
        if dice.random() < 0.5:
            text = f"[{(',' if tight else ', ').join(rows)}]"
        else:
            text = "\n".join(rows) + dice.choice(["", "\n"])
        content = text.encode()
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            at = dice.randint(0, len(content))
            piece = dice.choice([b"", dice.choice(pieces), dice.choice(pieces)])
            content = content[:at] + piece + content[at + dice.randint(0, 2) :]
        made.append(content if dice.random() < 0.9 else content[: dice.randint(0, len(content))])
    return sorted(set(made))


@pytest.mark.parametrize("seed", range(tries(12, 60)))
def test_mutated_files(bench: ScratchLake, looked_at: bool, seed: int) -> None:
    """Whatever byte is out of place, the file comes out as Python's json says."""
    bench.load(mutated(seed))


@pytest.mark.parametrize("seed", range(5))
def test_seams_of_chunks_do_not_show(
    bench: ScratchLake, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """However little is read at a time, and however short a record may be, nothing changes."""
    monkeypatch.setattr(json_records, "_CHUNK", 7)
    numbers = [f'[{{"Customer ID": 1}}, {"7" * count}, 8]'.encode() for count in range(1, 15)]
    bench.load([*numbers, *mutated(1000 + seed)])


@pytest.mark.parametrize(
    ("content", "is_alike"),
    [
        ('{"Customer ID": 1, "amount": 1.5}\n{"Customer ID": 2, "amount": null}\n', True),
        ('[{"Customer ID": 1, "amount": 10.50},{"Customer ID": 2, "amount": 0.10}]', True),
        ('[{"Customer ID":1,"note":"a"},{"Customer ID":2}]', True),
        ('{"Customer ID": 1, "note": 10.50}\n', False),
        ('{"Customer ID": 1, "amount": 1e1}\n', False),
        ('{"Customer ID": 1}\n{"Customer ID":  2}\n', False),
        ('{"Customer ID": 1}\n{"Customer ID": 2, "x": 3}\n{"x": 3}', False),
    ],
)
def test_files_written_alike_are_read_as_they_are(
    bench: ScratchLake, monkeypatch: pytest.MonkeyPatch, content: str, is_alike: bool
) -> None:
    """Only where every record is put together again to the byte; others are written anew."""
    monkeypatch.setattr(module, "WORTH_A_LOOK", 0)
    (found,) = bench.load([content.encode()])
    assert found.cleaned is not is_alike


def test_many_records_keep_their_numbers(bench: ScratchLake, looked_at: bool) -> None:
    """A refused record is told by its number, in files that are read by many hands at once."""
    rows = [f'{{"Customer ID": {n}, "note": "{"x" * 50}"}}' for n in range(1, 30_001)]
    for number in (1, 9_999, 20_000, 30_000):
        rows[number - 1] = rows[number - 1].replace(str(number), '"x"', 1)
    for content in ("\n".join(rows), f"[{','.join(rows)}]"):
        (found,) = bench.load([content.encode()])
        assert found.cleaned is not looked_at


def test_packed_files_are_the_same(bench: ScratchLake) -> None:
    """The judge and the reader meet unpacked bytes only; this one checks the judge's own eyes."""
    content = f"[{GOOD}]".encode()
    assert gzip.decompress(gzip.compress(content)) == content
    assert judge(content).good.total() == 1
    assert judge(b"[").refused
