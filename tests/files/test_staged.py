"""Staged copies on a machine that shares nothing with the driver."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from retailmart.engines.duckdb import DuckDBEngine
from retailmart.errors import DeliveryReplaced
from retailmart.files.checked import CheckedFile
from retailmart.files.staged import StageFiles, here, spans
from retailmart.project import load_project
from retailmart.storage.local import LocalFolder
from retailmart.template import write_project
from tests.support.shop import HEADER, sale

CONTENT = "\n".join([HEADER, *(sale(customer) for customer in range(1, 10))]) + "\n"


@pytest.mark.parametrize("staged_by", ["this worker", "another worker"])
def test_what_a_worker_has_on_its_disk_is_not_fetched_again(tmp_path: Path, staged_by: str) -> None:
    """Whole or a part of it: the copy is found by its content, whoever checked it."""
    write_project(tmp_path / "shop", sample=False)
    feed = load_project(tmp_path / "shop").feeds["sales"]
    landing, elsewhere = tmp_path / "landing", tmp_path / "drivers"
    landing.mkdir()
    (landing / "sales_1.csv").write_text(CONTENT)
    store = LocalFolder(landing)
    work = StageFiles(store, (feed,), elsewhere, lambda engine, checked: None)
    with closing(DuckDBEngine([], tmp_path / "worker")) as engine:
        ((_, checked),) = work(engine, store.entries())
        assert isinstance(checked, CheckedFile)
        if staged_by == "another worker":
            there = elsewhere / checked.delivered.name
            checked = replace(checked, delivered=there, readable=there)
        (landing / "sales_1.csv").unlink()  # what is fetched from now on is missed
        assert here(checked, elsewhere, engine).readable.read_text() == CONTENT
        cut = replace(checked, cuts=((len(HEADER) + 1 + len(sale(1)) + 1, 2),))
        parts = [
            here(cut.part(span), elsewhere, engine).readable.read_text().splitlines()[1:]
            for span in spans(cut, lambda size: 2)
            if span is not None
        ]
        assert parts == [CONTENT.splitlines()[1:2], CONTENT.splitlines()[2:]]
        if staged_by == "another worker":
            with (
                closing(DuckDBEngine([], tmp_path / "third")) as third,
                pytest.raises(DeliveryReplaced),
            ):
                here(checked, elsewhere, third)
