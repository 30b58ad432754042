"""What the checks of the Triton kernels share. They need torch, triton, einops, jaxtyping and pytest, and no other file of ``tests``
than those that are imported here, so that they can run on a rented GPU: ``python -m benchmarks gpu``.
"""

import functools
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from kernels.planted import load_changed

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(scope="session")
def device():
    """The GPU; or main memory, where Triton's interpreter runs the same kernels."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(
    params=[torch.float32]
    if INTERPRETED
    else [torch.float32, torch.bfloat16, torch.float16],
    ids=str,
)
def dtype(request):
    """Whatever the device multiplies; the interpreter is not asked for half precision, in which it is not exact."""
    return request.param


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """New memory holds NaN, or the smallest number there is: what a kernel forgets to write does not look like zero."""

    def poison(tensor):
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        return (
            tensor
            if tensor.dtype == torch.bool
            else tensor.fill_(torch.iinfo(tensor.dtype).min)
        )

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch.Tensor, "new_empty"),
    ):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, original=original, **k: poison(original(*a, **k))
        )


@pytest.fixture
def sabotaged(tmp_path):
    """A module with one piece of its source changed, by (module, old, new)."""
    yield functools.partial(load_changed, folder=tmp_path)

    for name in [name for name in sys.modules if name.startswith("sabotaged_")]:
        del sys.modules[name]
