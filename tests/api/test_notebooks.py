"""The notebooks run from top to bottom, draw figures, and hold no output of an earlier run."""

import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
PLAN_BY_RULE = """
from fedjax_mri.fed.engine import auto
auto.choose_plan = lambda plan, assemble, *_, by_rule=auto.plan_by_rule: by_rule(plan, assemble)
"""
SHORTER = {  # what is replaced, to train less
    "clients=24, test_clients=8": "clients=12, test_clients=4",
    "cohort=12": "cohort=6",
    "rounds=24": "rounds=6",
    "rounds=10": "rounds=5",
}


@pytest.fixture(scope="module")
def books() -> dict[str, nbformat.NotebookNode]:
    """The notebooks, executed one after the other by one kernel that forgets all names before each of them.

    As of a user it has one device; plans are not measured, and training is shorter.
    """
    books = {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    cells = [nbformat.v4.new_code_cell(PLAN_BY_RULE)]
    for book in books.values():
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in book.cells)
        cells += [nbformat.v4.new_code_cell("%reset -f"), *book.cells]
    assert all(any(long in cell.source for cell in cells) for long in SHORTER)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the notebooks number theirs alike
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    whole = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(whole, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS[0].parent)}})
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    client.execute(env=os.environ | {"XLA_FLAGS": flags})
    return books


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(path, books) -> None:
    shown = [output.get("data", {}) for cell in books[path.stem].cells for output in cell.get("outputs", ())]
    assert any("image/png" in data for data in shown)


def test_there_are_three() -> None:
    assert len(NOTEBOOKS) == 3
