"""Leave ``torch.autocast``, under which sums that need float32 lose precision."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which operations on ``device`` keep the dtypes of their tensors."""
    # Tested by name: torch.compile of torch 2.8 cannot trace the question whether a
    # device has autocast.
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def without_autocast(function: _Function) -> _Function:
    """Decorate a function of a tensor, its first argument, to run without autocast."""

    @functools.wraps(function)
    def run(first: Tensor, *others: Any, **options: Any) -> Any:
        with no_autocast(first.device):
            return function(first, *others, **options)

    return run  # pyright: ignore[reportReturnType] - the same signature
