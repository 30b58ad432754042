"""Places in a model where an activation can be read and replaced.

A tap is a module that returns what it is given, so every tool that hooks modules finds it: torch's hooks, nnsight, and, once the
model is in a ``TransformerBridge``, TransformerLens, which puts its own hook points in their places.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument


class Tap(nn.Identity):
    """Returns its input."""


def is_watched(tap: nn.Module) -> bool:
    """Whether somebody has hooked it, so that what it stands for must be computed."""
    return bool(
        tap._forward_hooks
        or tap._forward_pre_hooks
        or tap._backward_hooks
        or tap._backward_pre_hooks
    )


def through(tap: nn.Module, tensor: Tensor) -> tuple[Tensor, bool]:
    """What comes out of a tap, and whether it is another value than went in.

    Raises:
        InvalidArgument: a hook returned something else than a tensor.
    """
    # A tensor of inference mode does not count what is written into it.
    before = tensor.clone() if tensor.is_inference() and is_watched(tap) else None
    version = None if tensor.is_inference() else tensor._version
    found: Any = tap(tensor)
    if not isinstance(found, Tensor):
        raise InvalidArgument(
            f"a hook returns a tensor in place of the one {list(tensor.shape)} it was given, or None; got {found!r}"
        )
    if not _is_same_place(found, tensor):
        return found, True
    if before is not None:
        return found, not torch.equal(before, found)
    return found, version is not None and tensor._version != version


def _is_same_place(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in memory. A backward hook makes a view, whose strides may differ along axes of one."""
    if one is other:
        return True
    strides = (
        zip(one.shape, one.stride(), other.stride(), strict=True)
        if one.shape == other.shape
        else [(2, 0, 1)]
    )
    return one.data_ptr() == other.data_ptr() and all(
        n <= 1 or a == b for n, a, b in strides
    )
