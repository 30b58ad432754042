"""Functions with a jump, and the gradients that train its place all the same.

A threshold moves no activation but those that lie on it, so its true gradient is zero
almost everywhere. That of the expected loss is not: it is the density of activations at
the threshold, times what changes there. With a rectangle of some width around the
threshold as the kernel of a density estimate, one batch gives an estimate of it.

Source: Rajamanoharan et al. 2024, "Jumping Ahead: Improving Reconstruction Fidelity
with JumpReLU Sparse Autoencoders" (arXiv 2407.14435), equations 11 and 12.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def jump(
    pre: Float[Tensor, "*batch"], threshold: Float[Tensor, "*batch"], width: float
) -> Float[Tensor, "*batch"]:
    """``pre`` where it exceeds the threshold, else 0.

    The gradient of ``pre`` is the true one. That of the threshold is
    ``-(threshold / width)`` where ``pre`` is within half a width of it, else 0.
    """
    return _Jump.apply(pre, threshold, width)  # pyright: ignore[reportReturnType]


def step(
    pre: Float[Tensor, "*batch"], threshold: Float[Tensor, "*batch"], width: float
) -> Float[Tensor, "*batch"]:
    """1 where ``pre`` exceeds the threshold, else 0.

    ``pre`` has no gradient. That of the threshold is ``-1 / width`` where ``pre`` is
    within half a width of it, else 0.
    """
    return _Step.apply(pre, threshold, width)  # pyright: ignore[reportReturnType]


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        # NaN is kept, so that it does not vanish.
        return torch.where(pre <= threshold, 0, pre)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        grad_pre = torch.where(pre > threshold, grad, 0)
        slope = -threshold / ctx.width
        grad_threshold = torch.where(
            _is_near(pre, threshold, ctx.width), slope * grad, 0
        )
        return grad_pre, grad_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = _is_near(pre, threshold, ctx.width)
        return None, torch.where(near, -grad / ctx.width, 0), None


def _is_near(pre: Tensor, threshold: Tensor, width: float) -> Tensor:
    return (pre - threshold).abs() < width / 2
