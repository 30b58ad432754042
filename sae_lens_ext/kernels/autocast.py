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
    # Named, because torch.compile of torch 2.8 cannot ask a device whether it has an autocast to leave.
    return (
        contextlib.nullcontext()
        if device.type == "meta"
        else torch.autocast(device.type, enabled=False)
    )


def without_autocast(function: _Function) -> _Function:
    """A function that computes in the dtypes it names, wherever it is called; its first argument is a tensor."""

    @functools.wraps(function)
    def run(first: Tensor, *others: Any, **options: Any) -> Any:
        with no_autocast(first.device):
            return function(first, *others, **options)

    return run  # pyright: ignore[reportReturnType] - the same signature
