"""The records of a JSON file, where they lie in a list within an object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retailmart.files.json_records import BrokenJson, json_records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no object with a list of records in 'orders'"),
        ('{"order": []}', "has no key 'orders', in which the feed's records should be"),
        ('{"orders": {}}', "has no list of records in 'orders'"),
        ('{"orders": [], "orders": []}', "names the key 'orders' more than once"),
        ('{"orders": []', "is no JSON: expecting ','"),
        ('{"orders": [] "a": 1}', "is no JSON: expecting ','"),
        ('{"orders": [],}', "is no JSON: a comma stands before the end of the object"),
        ('{"orders": []} x', "is no JSON: something follows the object"),
        ('{"orders": [}', "is no JSON: "),
        ('{"orders": [], "a": tru}', "is no JSON: "),
        ('{1: 2, "orders": []}', "is no JSON: expecting a key"),
    ],
)
def test_a_wrapping_object_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    """Each way in which the list is not there, or not the only one, is a file's reason."""
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(BrokenJson) as broken:
        list(json_records(file, "orders"))
    assert str(broken.value).startswith(message)


def test_long_values_around_records(tmp_path: Path) -> None:
    """Values beside the list may be longer than what is read at once."""
    rows = [{"id": n, "note": "x" * 100} for n in range(30_000)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": "y" * 3_000_000, "orders": rows, "z": list(range(400_000))}))
    assert [record.members for record in json_records(file, "orders")][-1] == {
        **rows[-1],
        "id": "29999",
    }
