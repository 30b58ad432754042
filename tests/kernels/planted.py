"""Plant an error in a module's source, and check that the comparison notices."""

import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from harness import compare
from torch import Tensor

NUMBERS = itertools.count()
"""Numbers for names: an operator cannot be removed, so each error needs a new name."""


def load_changed(module: ModuleType, old: str, new: str, folder: Path) -> ModuleType:
    """Load a copy of ``module`` with ``old`` replaced by ``new`` in its source.

    The copy has another name, and so have the operators that it registers. ``old`` must
    occur exactly once.
    """
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"

    name = f"sabotaged_{next(NUMBERS)}"
    path = folder / f"{name}.py"
    changed = source.replace(old, new).replace('_gpu",', f'_{name}",')
    path.write_text(changed, encoding="utf-8")

    spec = importlib.util.spec_from_file_location(name, path)
    copy = importlib.util.module_from_spec(spec)
    # Triton looks for the source of its programs under the module's name.
    sys.modules[name] = copy
    spec.loader.exec_module(copy)
    return copy


def assert_comparison_fails(
    fast: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    inputs: dict[str, Tensor],
) -> None:
    """Compare as the tests of the kernels do, and expect the error to be noticed."""
    with pytest.raises(AssertionError, match="over budget"):
        compare(fast, plain, inputs, torch.float32)
