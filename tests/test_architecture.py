"""Imports point down the layers, form no circle, and respect private modules."""

import subprocess
import sys
from pathlib import Path

import imports
import layers
import pytest

# Third-party package -> where it may be imported, as paths inside the package.
FENCES = {
    "triton": ("kernels/*/gpu*.py",),
    "numba": (
        "kernels/*/compiled.py",
        "kernels/topk_encode/candidates.py",
        "kernels/topk_encode/sorting.py",
        "kernels/hierarchical_loss/walk.py",
        "kernels/_prefetch.py",
        "kernels/hierarchical_loss/vectors.py",
    ),
    "transformer_lens": ("hosts/lens.py", "based/bridge.py"),
    "nnsight": ("hosts/nnsight.py",),
    "sae_lens": ("saelens.py",),
    "matplotlib": ("viz/*.py",),
    "anywidget": ("viz/*.py",),
    "traitlets": ("viz/*.py",),
    "tyro": ("cli/*.py",),
    "datasets": ("text/*.py",),
    "pyarrow": ("text/*.py",),
    "neuronpedia": ("features/neuronpedia.py",),
    "torchao": ("training/optimizer.py",),
    "tensorboard": ("training/logging/tensorboard.py",),
    "wandb": ("training/logging/wandb.py",),
    "trackio": ("training/logging/trackio.py",),
}
# What `import sae_lens_ext` must not load.
HEAVY = [
    "torch._dynamo",
    *FENCES,
    "transformers",
    "pandas",
    "huggingface_hub",
]
SOURCES = imports.package_sources()


def violations(path: str, source: str, files: set[str]) -> list[str]:
    """What is wrong with the imports of one module, a sentence each."""
    here = layers.row_of(path)
    if here is None:
        return [f"{path} has no row in tests/layers.py"]

    sentences = []
    for imported in imports.imports_of(source):
        where = f"{path}:{imported.line} imports {imported.dotted}"
        library = imported.module.split(".")[0]
        allowed = FENCES.get(library)
        if allowed is not None and not any(Path(path).match(glob) for glob in allowed):
            sentences.append(f"{where}, which belongs in {allowed or 'no module'}")

        target = imports.file_of(imported, files)
        # The package's own __init__ is no layer: it loads names when they are used.
        if target in (None, "__init__.py"):
            continue
        if _is_private_elsewhere(imported.dotted, path):
            sentences.append(f"{where}, which is private to its package")
        there = layers.row_of(target)
        is_below = there is not None and (there[0] < here[0] or there == here)
        if not is_below:
            sentences.append(f"{where}, which is not below it")
    return sentences


def _is_private_elsewhere(dotted: str, importer: str) -> bool:
    """Whether a name with an underscore is imported from outside its folder."""
    parts = dotted.split(".")[1:]
    folders = Path(importer).parts[:-1]
    for depth, part in enumerate(parts):
        is_private = part.startswith("_") and not part.startswith("__")
        if is_private and list(folders[:depth]) != parts[:depth]:
            return True
    return False


def checked_modules() -> list[str]:
    return [path for path in SOURCES if path != "__init__.py"]


@pytest.mark.parametrize("path", checked_modules())
def test_imports_point_down_and_stay_inside_their_fences(path):
    assert violations(path, SOURCES[path], set(SOURCES)) == []


def test_files_import_each_other_in_no_circle():
    assert imports.circles(imports.graph(SOURCES)) == []


def test_every_row_has_a_module():
    names = {row[1] for path in checked_modules() if (row := layers.row_of(path))}
    assert names == {name for row in layers.LAYERS for name in row}


def test_contributing_shows_the_table():
    document = layers.CONTRIBUTING.read_text(encoding="utf-8")
    assert layers.with_table(document) == document


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/x.py", "from sae_lens_ext.sae import SAE"),
        ("viz/x.py", "def f():\n    from sae_lens_ext.cli.app import app"),
        ("sae/x.py", "import sae_lens_ext.based"),
        ("kernels/x.py", "from sae_lens_ext import SAE"),
        ("based/x.py", "from sae_lens_ext.based.pretrain import main"),
        ("hosts/torch.py", "import transformer_lens"),
        ("training/x.py", "plt = require('matplotlib.pyplot', 'A picture')"),
        ("kernels/topk_encode/cpu.py", "import triton.language as tl"),
        ("formats/saelens/read.py", "from sae_lens import SAE"),
        ("hosts/x.py", "import importlib\nimportlib.import_module('transformer_lens')"),
        ("sae/x.py", "from sae_lens_ext.kernels._rows import cpu"),
        ("sae/x.py", "from sae_lens_ext.kernels import _rows"),
        ("based/x.py", "from sae_lens_ext.kernels._backend import has_numba"),
        ("unlisted/x.py", "import torch"),
    ],
)
def test_a_planted_import_is_found(path, source):
    assert violations(path, source, set(SOURCES))


def test_a_planted_circle_is_found():
    sources = {
        **SOURCES,
        "sae/x.py": "from sae_lens_ext.sae.y import b",
        "sae/y.py": "def f():\n    from sae_lens_ext.sae import z",
        "sae/z.py": "import sae_lens_ext.sae.x",
    }
    circles = imports.circles(imports.graph(sources))
    assert circles == [["sae/x.py", "sae/y.py", "sae/z.py"]]


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, sae_lens_ext, sae_lens_ext.kernels, sae_lens_ext.sae\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_importing_the_package_alone_does_not_load_torch():
    code = "import sys, sae_lens_ext; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
