"""Out of ``torch.autocast``, which would take sums that need float32 to half precision."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, what is computed on the device is computed in the dtypes it names."""
    # A device such as "meta" has no autocast to leave.
    is_there = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if is_there else contextlib.nullcontext()


def without_autocast(function: _Function) -> _Function:
    """A function that computes in the dtypes it names, wherever it is called; its first argument is a tensor."""

    @functools.wraps(function)
    def run(first: Tensor, *others: Any, **options: Any) -> Any:
        with no_autocast(first.device):
            return function(first, *others, **options)

    return run  # pyright: ignore[reportReturnType] - the same signature
