"""Fixtures for the checks of the Triton kernels.

The checks need torch, triton, einops, jaxtyping and pytest, and only those other files
of ``tests`` that they import, so that ``python -m benchmarks gpu`` can run them on a
rented GPU.
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
# The interpreter is not exact in half precision.
DTYPES = [torch.float32]
if not INTERPRETED:
    DTYPES += [torch.bfloat16, torch.float16]


@pytest.fixture(scope="session")
def device():
    """The GPU; or main memory, where Triton's interpreter runs the same kernels."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    """Every dtype that the device multiplies exactly enough."""
    return request.param


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fill new memory with NaN, or the smallest integer.

    An element that a kernel forgets to write does not look like zero then.
    """

    def poison(tensor):
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        if tensor.dtype == torch.bool:
            return tensor
        return tensor.fill_(torch.iinfo(tensor.dtype).min)

    def poisoning(original):
        return lambda *args, **kwargs: poison(original(*args, **kwargs))

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch.Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, poisoning(getattr(owner, name)))


@pytest.fixture
def sabotaged(tmp_path):
    """A module with one piece of its source changed, by (module, old, new)."""
    yield functools.partial(load_changed, folder=tmp_path)

    for name in [name for name in sys.modules if name.startswith("sabotaged_")]:
        del sys.modules[name]
