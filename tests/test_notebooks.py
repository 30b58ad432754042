"""Every notebook runs from top to bottom, and its committed outputs are clean."""

import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from paths import REPOSITORY

# Those that take longest first, so that no worker waits for another at the end.
LONG = ["02_ablate_and_steer", "07_read_a_feature", "06_circuit_across_k"]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NOTEBOOKS.sort(key=lambda path: [*LONG, path.stem].index(path.stem))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_complete_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run it once, from the top, before committing"
    )
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            data = output.get("data", {})
            texts = [data.get(kind, "") for kind in ("text/plain", "text/html")]
            text = "".join([output.get("text", ""), *texts])
            assert "Warning" not in text
            for folder in (str(Path.home()), tempfile.gettempdir()):
                assert folder not in text
            assert output.get("name") != "stderr", text
