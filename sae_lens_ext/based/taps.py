"""Places in a model where an activation can be read and replaced.

A tap is a module that returns its input, so every tool that hooks modules reaches it:
torch's hooks, nnsight, and TransformerLens, whose hook points replace the taps once the
model is in a ``TransformerBridge``.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import holds_numbers


class Tap(nn.Identity):
    """A module that returns its input."""


def is_hooked(tap: nn.Module) -> bool:
    """Whether a tap has hooks, so that the activation behind it must be computed."""
    return bool(
        tap._forward_hooks
        or tap._forward_pre_hooks
        or tap._backward_hooks
        or tap._backward_pre_hooks
    )


def pass_through(tap: nn.Module, tensor: Tensor) -> tuple[Tensor, bool]:
    """The output of a tap, and whether its hooks changed the value.

    Raises:
        InvalidArgument: a hook returned something other than a tensor.
    """
    # Tensors of inference mode have no version counter that in-place edits would raise.
    counts_edits = not tensor.is_inference()
    version = tensor._version if counts_edits else None
    before = None
    if not counts_edits and is_hooked(tap) and holds_numbers(tensor):
        before = tensor.clone()

    output: Any = tap(tensor)
    if not isinstance(output, Tensor):
        raise InvalidArgument(
            "a hook must return None or a tensor to replace the one "
            f"{list(tensor.shape)} that it received; got {output!r}"
        )

    if not _share_memory(output, tensor):
        return output, True
    if before is not None:
        return output, not torch.equal(before, output)
    return output, version is not None and tensor._version != version


def _share_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same numbers in memory."""
    if first is second:
        return True
    # Tensors without numbers have no place in memory either.
    if first.shape != second.shape or not holds_numbers(first):
        return False
    if first.data_ptr() != second.data_ptr():
        return False
    # A backward hook makes a view, whose strides may differ along axes of size 1.
    strides = zip(first.shape, first.stride(), second.stride(), strict=True)
    return all(size <= 1 or a == b for size, a, b in strides)
