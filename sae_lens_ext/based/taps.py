"""Places in a model where an activation can be read and replaced.

A tap is a module that returns what it is given, so every tool that hooks modules finds it: torch's hooks, nnsight, and, once the
model is in a ``TransformerBridge``, TransformerLens, which puts its own hook points in their places.
"""

from torch import Tensor, nn


class Tap(nn.Identity):
    """Returns its input."""


def is_watched(tap: nn.Module) -> bool:
    """Whether somebody has hooked it, so that what it stands for must be computed."""
    return bool(tap._forward_hooks or tap._forward_pre_hooks or tap._backward_hooks or tap._backward_pre_hooks)


def through(tap: nn.Module, tensor: Tensor) -> tuple[Tensor, bool]:
    """What comes out of a tap, and whether it is another value than went in."""
    version = None if tensor.is_inference() else tensor._version
    found = tap(tensor)
    same = found is tensor or (found.data_ptr() == tensor.data_ptr() and found.shape == tensor.shape and found.stride() == tensor.stride())
    return found, not same or (version is not None and tensor._version != version)
