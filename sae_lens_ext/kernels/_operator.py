"""Torch custom operators: one step for torch.compile, shapes for stand-in tensors, and gradients.

They are kept in ``torch.ops`` alone, where they are called: a module that holds an operator cannot be sent to an nnsight server.
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
    """Make ``torch.ops.sae_lens_ext.NAME``.

    Args:
        name: of the operator.
        forward: what it computes, annotated as ``torch.library.custom_op`` wants it.
        shapes: empty tensors of the shapes, strides and dtypes that ``forward`` returns.
        keep: ``setup_context`` of its gradient.
        backward: its gradient, made of operators itself, because torch.compile looks into it.
        schema: of its arguments and results; None reads it off the annotations, of which torch 2.6 knows no lists.
    """
    operator = torch.library.custom_op(
        f"sae_lens_ext::{name}", forward, mutates_args=(), schema=schema
    )
    operator.register_fake(shapes)
    if backward is not None:
        operator.register_autograd(backward, setup_context=keep)


def optional(
    tensors: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """What an operator returned, with None in the place of what was not needed: it has to return tensors, and returns empty ones."""
    return [
        tensor if is_needed else None
        for tensor, is_needed in zip(tensors, needs, strict=True)
    ]


def call(name: str, *arguments: Any) -> Any:
    """Run an operator."""
    return getattr(torch.ops.sae_lens_ext, name)(*arguments)
