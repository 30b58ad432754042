"""Second derivatives, by way of a kernel's definition.

The fast backward passes are not differentiable themselves.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_by_definition(
    definition: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grad_output: Tensor,
) -> list[Tensor | None]:
    """Compute gradients of ``definition(*inputs)`` that can be differentiated again.

    Args:
        definition: the plain version of a kernel.
        inputs: its arguments.
        needed: whether the gradient of each input is needed.
        grad_output: the gradient of its result.

    Returns:
        One gradient per input, None where it is not needed.
    """
    with torch.enable_grad():
        leaves = [
            tensor
            for tensor, is_needed in zip(inputs, needed, strict=True)
            if tensor is not None and is_needed
        ]
        gradients = iter(
            torch.autograd.grad(
                definition(*inputs),
                leaves,
                grad_output,
                create_graph=True,
                allow_unused=True,
            )
        )
    return [next(gradients) if is_needed else None for is_needed in needed]
