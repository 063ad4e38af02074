"""The saved notebooks are fit to be read: whole, in order, with nothing of the machine that ran them.

That they run is what ``nox -s notebooks -- --check`` shows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: How workers are called: host, process, four hexadecimal digits.
WORKER = re.compile(r"\b[\w.-]+-\d+-[0-9a-f]{4}\b")
FOLDER = re.compile(r"/(?:home|root|tmp|var|work|opt|usr|private|Users)/")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def put_out(path: Path) -> str:
    """Give all that the cells have put out but pictures, as text."""
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    return json.dumps(outputs)


def test_the_four_are_there() -> None:
    assert ["cleaning", "operating", "sweep", "tour"] == [path.stem for path in NOTEBOOKS]


@every_notebook
def test_it_is_saved_as_it_ran_from_the_first_cell_to_the_last(path: Path) -> None:
    cells = code_cells(path)

    assert list(range(1, len(cells) + 1)) == [cell.execution_count for cell in cells]
    assert not [cell for cell in cells if "execution" in cell.metadata]
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"display_data", "execute_result", "stream"}
    assert "execute_result" in kinds


@every_notebook
def test_nothing_was_said_on_standard_error(path: Path) -> None:
    said = [output.text for cell in code_cells(path) for output in cell.outputs if output.get("name") == "stderr"]

    assert not said


@every_notebook
def test_what_is_saved_names_no_folder_and_no_host(path: Path) -> None:
    shown = put_out(path)

    assert not FOLDER.findall(shown)
    assert not WORKER.findall(UUID.sub("", shown))


@every_notebook
def test_it_is_small_and_starts_with_what_it_is_about(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells

    assert path.stat().st_size < 300_000
    assert cells[0].source.startswith("# ")
    assert "NEXUSQ_URL" in cells[0].source
    assert f"(notebooks/{path.name})" in (ROOT / "README.md").read_text()


def test_ci_runs_them() -> None:
    assert "nox -s notebooks -- --check" in (ROOT / ".ci" / "run").read_text().splitlines()
