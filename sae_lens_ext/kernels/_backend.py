"""Which implementation of a kernel runs."""

import importlib.util
import os
import sys
from typing import get_args

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue] - it has no types
from torch.autograd import forward_ad

from sae_lens_ext._types import Backend
from sae_lens_ext.errors import BackendError, InvalidArgument

# On the CPU the Triton kernels run in an interpreter, which is for tests alone.
_FASTEST_FIRST: tuple[Backend, ...] = ("cpu", "gpu", "reference")
# Asked for here, because torch.compile cannot ask.
_NAMES = get_args(Backend)
_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def resolve(requested: Backend | None, *tensors: Tensor) -> Backend:
    """The backend for these tensors: the one that was asked for, or refused; otherwise the fastest that runs there.

    Raises:
        InvalidArgument: ``requested`` is not the name of a backend, or ``torch.vmap`` is at work.
        BackendError: ``requested`` cannot run there.
    """
    if requested is not None and requested not in _NAMES:
        raise InvalidArgument(
            f"backend must be None or one of {', '.join(_NAMES)}; got {requested!r}"
        )
    if any(is_batched(tensor) for tensor in tensors):
        raise InvalidArgument(
            "the kernels cannot be run under vmap; their tensors take any leading batch shape, so pass the whole batch at once"
        )
    reasons = {
        "reference": None,
        "cpu": _why_no_cpu(tensors[0]),
        "gpu": _why_no_gpu(tensors[0]),
    }
    if any(_is_transformed(tensor) for tensor in tensors):
        reasons["cpu"] = reasons["gpu"] = (
            "it has no derivatives for torch.func and forward mode"
        )
    if requested is None:
        return next(backend for backend in _FASTEST_FIRST if not reasons[backend])
    if reasons[requested]:
        raise BackendError(
            f"backend={requested!r} was asked for, but {reasons[requested]}; leave backend out to run what there is"
        )
    return requested


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor is one that ``torch.vmap`` hands out, whose numbers cannot be looked at."""
    while not torch.compiler.is_compiling() and functorch.is_functorch_wrapped_tensor(
        tensor
    ):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def _is_transformed(tensor: Tensor) -> bool:
    # Operators pass neither on: the derivative would be 0, and nothing would say so.
    if torch.compiler.is_compiling():
        # Where tensors cannot be asked: whether torch.func is at work at all.
        return functorch.maybe_current_level() is not None
    return (
        functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None
    )


def _why_no_cpu(tensor: Tensor) -> str | None:
    if tensor.device.type != "cpu":
        return f"the tensors are on {tensor.device}"
    # What was sent to an nnsight server by value runs without the rest of this package: no operators there.
    return None if _can_import("sae_lens_ext") else "this package is not installed"


def _why_no_gpu(tensor: Tensor) -> str | None:
    # Triton's interpreter, which its own variable turns on, runs on tensors in main memory.
    if tensor.device.type != "cuda" and not (
        tensor.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    ):
        return f"the tensors are on {tensor.device}"
    if tensor.dtype not in _GPU_DTYPES:
        return f"the tensors are {tensor.dtype}, and it takes float32, bfloat16 and float16"
    missing = [
        package for package in ("triton", "sae_lens_ext") if not _can_import(package)
    ]
    return f"the package {missing[0]} is not installed" if missing else None


def has_numba() -> bool:
    """Whether the compiled loops of the CPU backend can run."""
    return _can_import("numba")


def _can_import(package: str) -> bool:
    # Not kept: a function with a cache cannot be sent to an nnsight server with what calls it.
    return package in sys.modules or importlib.util.find_spec(package) is not None
