"""The layers and fences of CONTRIBUTING.md, as tests."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sae_lens_ext

PACKAGE = Path(sae_lens_ext.__file__).parent

# Low to high. A module may import from rows below its own; names in one row do not import each other.
LAYERS = [
    {"_types", "errors"},
    {"_arguments", "_fields", "_optional"},
    {"kernels", "formats", "text"},
    {"sae", "based"},
    {"objectives"},
    {"hosts"},
    {"interventions"},
    {"training"},
    {"viz"},
    {"demo"},
    {"experiments"},
    {"cli"},
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}

# Third-party package -> where it may be imported, as path prefixes inside the package.
FENCES = {
    "triton": ("kernels/*/gpu*.py",),
    "numba": (
        "kernels/*/compiled.py",
        "kernels/hierarchical_loss/walk.py",
        "kernels/hierarchical_loss/prefetch.py",
        "kernels/hierarchical_loss/vectors.py",
    ),
    "transformer_lens": ("hosts/lens.py", "based/bridge.py"),
    "nnsight": ("hosts/nnsight.py",),
    "sae_lens": (),
    "matplotlib": ("viz/*.py",),
    "typer": ("cli/*.py",),
}
HEAVY = [
    "torch._dynamo",
    *FENCES,
    "transformers",
    "datasets",
    "pandas",
    "huggingface_hub",
]


def imports(source: str) -> list[tuple[str, int]]:
    """Every module a source imports, by a statement or through a function that does it, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out from the package's name"
            # A public name of the package stands for the module it comes from.
            public = [
                sae_lens_ext._PUBLIC[alias.name]
                for alias in node.names
                if alias.name in sae_lens_ext._PUBLIC
            ]
            modules = (
                [f"sae_lens_ext.{name}" for name in public]
                if node.module == "sae_lens_ext" and public
                else [node.module]
            )
            found += [(module, node.lineno) for module in modules]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and node.args
        ):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in ("require", "import_module", "__import__") and isinstance(
                node.args[0], ast.Constant
            ):
                found.append((str(node.args[0].value), node.lineno))
    return found


def violations(path: str, source: str) -> list[str]:
    """What one module imports and should not."""
    here = path.split("/")[0].removesuffix(".py")
    wrong = []
    for module, line in imports(source):
        first, *rest = module.split(".")
        if (
            first == "sae_lens_ext"
            and rest
            and here in RANK
            and rest[0] != here
            and RANK.get(rest[0], -1) >= RANK[here]
        ):
            wrong.append(f"{path}:{line} imports {module}, which is not below it")
        if first in FENCES and not any(
            Path(path).match(pattern) for pattern in FENCES[first]
        ):
            wrong.append(
                f"{path}:{line} imports {module}, which belongs in {FENCES[first] or 'no module at all'}"
            )
    return wrong


def _modules():
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.stem in RANK
    ]


def test_every_folder_has_a_row():
    folders = {
        path.name
        for path in PACKAGE.iterdir()
        if path.is_dir() and (path / "__init__.py").exists()
    }
    assert folders <= set(RANK)


@pytest.mark.parametrize(
    "path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down_and_stay_inside_their_fences(path):
    wrong = violations(str(path.relative_to(PACKAGE)), path.read_text(encoding="utf-8"))
    assert not wrong


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/x.py", "from sae_lens_ext.sae import SAE"),
        ("viz/x.py", "def f():\n    from sae_lens_ext.cli.app import app"),
        ("sae/x.py", "import sae_lens_ext.based"),
        ("hosts/torch.py", "import transformer_lens"),
        ("training/x.py", "plt = require('matplotlib.pyplot', 'A picture')"),
        ("kernels/topk_encode/cpu.py", "import triton.language as tl"),
        ("formats/saelens.py", "from sae_lens import SAE"),
        ("kernels/x.py", "from sae_lens_ext import SAE"),
        (
            "hosts/x.py",
            "import importlib\n\nlens = importlib.import_module('transformer_lens')",
        ),
    ],
)
def test_a_planted_import_is_caught(path, source):
    assert violations(path, source)


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, sae_lens_ext, sae_lens_ext.kernels, sae_lens_ext.sae; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_importing_the_package_alone_does_not_even_load_torch():
    code = "import sys, sae_lens_ext; print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )
