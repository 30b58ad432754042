"""Derivatives of derivatives, which the fast backward passes do not have: they go through the definition."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_by_definition(
    definition: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grad_output: Tensor,
) -> list[Tensor | None]:
    """Gradients of ``definition(*inputs)`` that can be differentiated again, None where they are not needed."""
    with torch.enable_grad():
        wanted = [
            tensor
            for tensor, is_needed in zip(inputs, needed, strict=True)
            if tensor is not None and is_needed
        ]
        found = iter(
            torch.autograd.grad(
                definition(*inputs),
                wanted,
                grad_output,
                create_graph=True,
                allow_unused=True,
            )
        )
    return [next(found) if is_needed else None for is_needed in needed]
