"""Which implementation of a kernel runs."""

import importlib.util
from typing import get_args

import torch

from sae_lens_ext._types import Backend
from sae_lens_ext.errors import BackendError, InvalidArgument


def resolve(requested: Backend | None, device: torch.device) -> Backend:
    """The backend for tensors on ``device``: the one that was asked for, or refused; otherwise the fastest that runs there.

    Raises:
        InvalidArgument: ``requested`` is not the name of a backend.
        BackendError: ``requested`` cannot run on ``device``.
    """
    if requested is None:
        return "cpu" if device.type == "cpu" else "reference"
    if requested not in get_args(Backend):
        raise InvalidArgument(f"backend must be None or one of {', '.join(get_args(Backend))}; got {requested!r}")
    if requested == "gpu":
        raise BackendError("backend='gpu' has no kernel in this version; leave backend out to run the plain torch definition on a GPU")
    if requested == "cpu" and device.type != "cpu":
        raise BackendError(f"backend='cpu' was asked for, but the tensors are on {device}; leave backend out or move them to the CPU")
    return requested


def has_numba() -> bool:
    """Whether the compiled loops of the CPU backend can run."""
    # Not kept: a function with a cache cannot be sent to an nnsight server with what calls it.
    return importlib.util.find_spec("numba") is not None
