"""Second derivatives, by way of a kernel's definition.

The fast backward passes are not differentiable themselves.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_by_definition(
    definition: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grad_outputs: Sequence[Tensor],
) -> list[Tensor | None]:
    """Compute gradients of ``definition(*inputs)`` that can be differentiated again.

    Args:
        definition: the plain version of a kernel. It must not use ``grad_outputs``,
            which often depend on the inputs themselves.
        inputs: its arguments.
        needed: whether the gradient of each input is needed.
        grad_outputs: the gradient of each of its results.

    Returns:
        One gradient per input, None where it is not needed.
    """
    with torch.enable_grad():
        # Aliases, because an input can depend on another, as a code does on tied
        # weights: the gradient of the latter would contain the way through the former.
        aliases = [
            tensor if tensor is None else tensor.view_as(tensor) for tensor in inputs
        ]
        leaves = [
            tensor
            for tensor, is_needed in zip(aliases, needed, strict=True)
            if tensor is not None and is_needed
        ]
        gradients = iter(
            torch.autograd.grad(
                definition(*aliases),
                leaves,
                grad_outputs,
                create_graph=True,
                allow_unused=True,
            )
        )
    return [next(gradients) if is_needed else None for is_needed in needed]
