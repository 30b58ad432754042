"""Out of ``torch.autocast``, which would take sums that need float32 to half precision."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])


def without_autocast(function: _Function) -> _Function:
    """A function that computes in the dtypes it names, wherever it is called; its first argument is a tensor."""

    @functools.wraps(function)
    def run(first: Tensor, *others: Any, **options: Any) -> Any:
        device = first.device.type
        # A device such as "meta" has no autocast to leave.
        context = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else contextlib.nullcontext()
        with context:
            return function(first, *others, **options)

    return run  # pyright: ignore[reportReturnType] - the same signature
