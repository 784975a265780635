"""The sample's notebook is valid, clean, and works from top to bottom after one run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from retailmart.template import write_project
from retailmart.template.sample import write_sample
from tests.support.shop import AS_OF, Shop

_NOTEBOOK = Path("notebooks", "explore.ipynb")


def test_only_a_sample_with_tills_has_it(tmp_path: Path) -> None:
    """It shows the marts of the tills; a project of people's own begins without it."""
    for name, sample, stories in (
        ("plain", False, ("tills",)),
        ("webshop", True, ("webshop",)),
        ("tills", True, ("tills",)),
    ):
        written = write_project(tmp_path / name, sample=sample, stories=stories)
        assert (tmp_path / name / _NOTEBOOK in written) is (name == "tills")


def test_it_is_valid_and_holds_no_output_of_anybody(tmp_path: Path) -> None:
    """No outputs, no counters, and no path of the machine that it was written on."""
    write_project(tmp_path / "shop", sample=True, stories=("tills",))
    text = (tmp_path / "shop" / _NOTEBOOK).read_text(encoding="utf-8")
    nbformat.validate(nbformat.reads(text, as_version=4))
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert re.findall(r"[\"' (]/\w+/", text) == []


def test_it_draws_three_pictures_of_the_sample(tmp_path: Path) -> None:
    """Executed as Jupyter does, in its own folder: no error, no warning, and money is decimal."""
    folder = tmp_path / "shop"
    write_project(folder, sample=True, stories=("tills",))
    write_sample(folder, ("tills",))
    Shop(folder).run(AS_OF)
    notebook = nbformat.read(folder / _NOTEBOOK, as_version=4)
    check = "assert not [t for t in map(str, best.dtypes) if 'Float' in t]\n"
    check += "from decimal import Decimal\n"
    check += "assert {type(one) for one in purchases['monthly_total']} == {Decimal}\n"
    check += "assert {type(total) for _, _, total in takings} == {Decimal}"
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": folder / "notebooks"}}
    ).execute()
    outputs = [one for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 3
    assert [one for one in outputs if one.output_type in ("error", "stream")] == []
