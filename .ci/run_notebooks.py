"""Run notebooks from top to bottom and write their outputs into them.

``python .ci/run_notebooks.py [NOTEBOOK ...]``, by default every notebook of the
repository. Prints how long each took. A notebook that fails is left as it was.
"""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def run(path: Path) -> float:
    """Run a notebook in place; returns the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    # What a notebook writes to its folder is not kept. Times of cells and states of
    # widgets would change with every run.
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            store_widget_state=False,
        ).execute()
    seconds = time.perf_counter() - start
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    for path in paths or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(f"{path.name}: {run(path):.0f} s", flush=True)
