"""Which implementation of a kernel runs."""

import importlib.util
import os
import sys
from typing import get_args

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._types import Backend
from sae_lens_ext.errors import BackendError, InvalidArgument

# On the CPU the Triton kernels run in an interpreter, which is for tests alone.
_FASTEST_FIRST: tuple[Backend, ...] = ("cpu", "gpu", "reference")
# Read here, because torch.compile cannot trace get_args.
_NAMES = get_args(Backend)
_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def resolve(requested: Backend | None, *tensors: Tensor) -> Backend:
    """Return the backend that runs on these tensors.

    It is the requested one; without a request, the fastest that can run there.

    Raises:
        InvalidArgument: ``requested`` is not the name of a backend, or the tensors are
            those of ``torch.vmap``.
        BackendError: ``requested`` cannot run there.
    """
    if requested is not None:
        arguments.choice(requested, "backend", _NAMES)
    if any(is_batched(tensor) for tensor in tensors):
        raise InvalidArgument(
            "the kernels cannot be run under vmap; their tensors take any leading "
            "batch shape, so pass the whole batch at once"
        )

    obstacles = _obstacles(*tensors)
    if requested is None:
        return next(name for name in _FASTEST_FIRST if obstacles[name] is None)
    if obstacles[requested] is not None:
        raise BackendError(
            f"backend={requested!r} was asked for, but {obstacles[requested]}; "
            "leave backend out to choose automatically"
        )
    return requested


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor is one of ``torch.vmap``'s, whose numbers cannot be read."""
    while not torch.compiler.is_compiling() and functorch.is_functorch_wrapped_tensor(
        tensor
    ):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def has_numba() -> bool:
    """Whether the compiled loops of the CPU backend can run."""
    return _can_import("numba")


def is_fast_in_bfloat16() -> bool:
    """Whether the CPU computes products in bfloat16 faster than in float32.

    By matrix units (Intel's AMX), or by vector instructions for them (AVX512-BF16).
    """
    # Releases of torch that cannot tell do without.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    has_units = any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return has_units and torch.backends.mkldnn.is_available()


def _obstacles(*tensors: Tensor) -> dict[Backend, str | None]:
    """Why each backend cannot run on these tensors; None where it can."""
    obstacles: dict[Backend, str | None] = {
        "reference": None,
        "cpu": _cpu_obstacle(tensors[0]),
        "gpu": _gpu_obstacle(tensors[0]),
    }

    # An operator would silently return derivatives of 0 there.
    if any(_is_transformed(tensor) for tensor in tensors):
        reason = "it has no derivatives for torch.func and forward mode"
        obstacles["cpu"] = reason
        obstacles["gpu"] = reason
    return obstacles


def _is_transformed(tensor: Tensor) -> bool:
    """Whether ``torch.func`` or forward-mode differentiation follows a tensor."""
    # While torch.compile traces, tensors cannot be asked: is torch.func active at all?
    if torch.compiler.is_compiling():
        return functorch.maybe_current_level() is not None
    return (
        functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None
    )


def _cpu_obstacle(tensor: Tensor) -> str | None:
    if tensor.device.type != "cpu":
        return f"the tensors are on {tensor.device}"

    # Code that was sent to an nnsight server by value runs without the rest of this
    # package, and so without its operators.
    return None if _can_import("sae_lens_ext") else "this package is not installed"


def _gpu_obstacle(tensor: Tensor) -> str | None:
    # Triton's interpreter runs on tensors in main memory.
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    devices = ("cuda", "cpu") if is_interpreted else ("cuda",)
    if tensor.device.type not in devices:
        return f"the tensors are on {tensor.device}"

    if tensor.dtype not in _GPU_DTYPES:
        accepted = "float32, bfloat16 and float16"
        return f"the tensors are {tensor.dtype}, and it takes {accepted}"

    missing = [
        package for package in ("triton", "sae_lens_ext") if not _can_import(package)
    ]
    return f"the package {missing[0]} is not installed" if missing else None


def _can_import(package: str) -> bool:
    # Not cached: a function with a cache cannot be sent to an nnsight server.
    return package in sys.modules or importlib.util.find_spec(package) is not None
