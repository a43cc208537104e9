"""The notebook runs from top to bottom as a newcomer would run it, offline, and is stored without outputs."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=".")
nbformat.write(notebook, "done.ipynb")
"""


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The code cells after a run in a copy of the folder, in a process and a kernel of their own."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(NOTEBOOK.parent / "audio", folder / "audio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNISEP_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        run = subprocess.run(
            [sys.executable, "-c", EXECUTE, str(NOTEBOOK)], cwd=folder, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    return folder, code_cells(folder / "done.ipynb")


def test_it_is_valid_and_stored_without_outputs():
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert code_cells(NOTEBOOK)
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(NOTEBOOK))


def test_every_cell_shows_something(done):
    _, cells = done
    assert [cell.source for cell in cells if not cell.outputs] == []
    texts = "\n".join(output.get("data", {}).get("text/plain", "") for cell in cells for output in cell.outputs)
    assert "Audio(" in texts and "Separation(" in texts
    pages = [output.get("data", {}).get("text/html", "") for cell in cells for output in cell.outputs]
    assert sum("<audio controls" in page for page in pages) >= 5, "results and sounds have players"


def test_the_sum_that_it_shows_is_exact(done):
    _, cells = done
    (cell,) = [cell for cell in cells if "rest.samples" in cell.source]
    assert float(cell.outputs[0].data["text/plain"].partition("(")[2].rstrip(")")) < 1e-6


def test_it_writes_what_it_says(done):
    folder, _ = done
    files = {path.name for path in (folder / "separated").rglob("*") if path.is_file()}
    assert files == {"stems.png", "guitar.safetensors", "electric guitar.flac", "choir.flac", "rest.flac"}
