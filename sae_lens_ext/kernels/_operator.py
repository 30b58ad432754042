"""Torch custom operators, with shapes for fake tensors and with gradients.

An operator is one step for ``torch.compile``. Operators live in ``torch.ops`` alone and
are looked up by name when they are called: a module that holds an operator cannot be
sent to an nnsight server.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def register(
    name: str,
    forward: Callable[..., Any],
    *,
    shapes: Callable[..., Any],
    keep: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    schema: str | None = None,
) -> None:
    """Register the operator ``torch.ops.sae_lens_ext.NAME``.

    Args:
        name: of the operator.
        forward: the computation, annotated as ``torch.library.custom_op`` requires.
        shapes: returns empty tensors of the shapes, strides and dtypes of ``forward``'s
            results.
        keep: ``setup_context`` of the gradient.
        backward: the gradient. It calls operators itself, because torch.compile traces
            it.
        schema: of arguments and results. None reads it from the annotations, in which
            torch 2.6 does not understand lists.
    """
    operator = torch.library.custom_op(
        f"sae_lens_ext::{name}", forward, mutates_args=(), schema=schema
    )
    operator.register_fake(shapes)
    if backward is not None:
        operator.register_autograd(backward, setup_context=keep)


def call(name: str, *arguments: Any) -> Any:
    """Run the operator ``name``."""
    return getattr(torch.ops.sae_lens_ext, name)(*arguments)


def optional(
    tensors: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """Replace results that were not needed by None.

    An operator has to return a tensor for each result, and returns an empty one there.
    """
    return [
        tensor if is_needed else None
        for tensor, is_needed in zip(tensors, needs, strict=True)
    ]
