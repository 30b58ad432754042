"""The HierarchicalTopK loss: how badly each prefix of a code reconstructs, averaged.

With the features of a token sorted by strength, the prefix of length j is the code of a
TopK SAE with k = j. Asking every prefix to be a good reconstruction trains one SAE that
is good at every k. The README beside this file derives the gradients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._types import Backend
from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_decoder, check_features, check_target
from sae_lens_ext.kernels.hierarchical_loss import cpu, reference
from sae_lens_ext.kernels.hierarchical_loss.levels import (
    checked_levels,
    checked_weights,
)
from sae_lens_ext.kernels.hierarchical_loss.task import Task


class HierarchicalParts(NamedTuple):
    """The loss and its parts."""

    loss: Float[Tensor, ""]
    """The result of ``hierarchical_loss``; differentiable, unlike the other parts."""
    per_level: Float[Tensor, " levels"]
    """The mean square of the error at each level, in the order of ``levels``."""
    reconstruction: Float[Tensor, "*batch d_model"]
    """The reconstruction from all k features."""


def hierarchical_loss(
    values: Float[Tensor, "*batch k"],
    indices: Int[Tensor, "*batch k"],
    W_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    target: Float[Tensor, "*batch d_model"],
    levels: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    backend: Backend | None = None,
    *,
    deterministic: bool | None = None,
) -> Float[Tensor, ""]:
    """Compute the mean squared error of reconstructions from prefixes of a code.

    The mean of ``(reconstruction from the first j features - target) ** 2`` over
    tokens, coordinates and (weighted) levels j.

    >>> import torch
    >>> values, indices = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]])
    >>> decoder = torch.eye(2), torch.zeros(2)
    >>> target = torch.tensor([[2.0, 1.0]])

    Level 1 misses the 1.0, and level 2 nothing, so that the loss is (0.5 + 0) / 2. With
    the last level alone it is that of a TopK SAE.

    >>> hierarchical_loss(values, indices, *decoder, target).item()
    0.25
    >>> hierarchical_loss(values, indices, *decoder, target, levels=[2]).item()
    0.0

    The loss is float32, or float64 for inputs of that dtype: a sum of squares does not
    fit into half precision. Gradients have the dtypes of their tensors.

    The order of the features matters and is the caller's: pass them strongest first, as
    ``topk_encode`` returns them.

    Differentiable in ``values``, ``W_dec``, ``b_dec`` and ``target``; second
    derivatives go through the definition. The fast backends compute the gradients
    during the forward pass, because the backward pass can only multiply them by one
    scalar, and hold nothing of size ``[batch, k, d_model]``.

    Args:
        values: feature activations, in the order in which levels count them.
        indices: their features.
        W_dec: decoder rows.
        b_dec: decoder bias, the reconstruction without any feature.
        target: what to reconstruct.
        levels: the prefix lengths that count, each from 1 to k, without repeats; None
            means all of 1 to k.
        weights: one non-negative weight per level, in the order of ``levels``; None
            weighs all alike. Only ratios matter.
        backend: ``"reference"``, ``"cpu"`` or ``"gpu"``; None picks by device.
        deterministic: whether the same inputs must give the same bits every time.
            Without it the GPU adds up the gradient of ``W_dec`` in the order in which
            its threads arrive, which is faster; the CPU gives the same bits anyway.
            None follows ``torch.use_deterministic_algorithms``.

    Raises:
        InvalidK: a level is not an integer from 1 to k, or k is 0.
        InvalidArgument: the tensors are not floating-point tensors of one dtype on one
            device, levels are repeated, weights do not fit them, the backend is
            unknown, the call is under ``torch.vmap``, or an index is not a feature. (On
            a GPU, which would have to wait for that check, the loss is NaN instead.)
        ShapeMismatch: the tensors do not fit together, or there are no tokens.
        BackendError: the requested backend cannot run here.

    Source: Balagansky, Aksenov et al. 2025, "Train One Sparse Autoencoder Across
    Multiple Sparsity Budgets to Preserve Interpretability and Accuracy" (arXiv
    2505.24473).
    """
    loss, _, _ = _compute(
        values,
        indices,
        W_dec,
        b_dec,
        target,
        levels,
        weights,
        backend,
        deterministic,
        details=False,
    )
    return loss


def hierarchical_loss_parts(
    values: Float[Tensor, "*batch k"],
    indices: Int[Tensor, "*batch k"],
    W_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    target: Float[Tensor, "*batch d_model"],
    levels: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    backend: Backend | None = None,
    *,
    deterministic: bool | None = None,
) -> HierarchicalParts:
    """Compute ``hierarchical_loss``, with each level's error and the reconstruction.

    They cost no second decode, and serve logging and losses on the residual (such as
    AuxK of Gao et al. 2024). They are in float32 or wider, as the loss is, and carry no
    gradient. Arguments and errors are those of ``hierarchical_loss``.

    >>> import torch
    >>> values, indices = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]])
    >>> decoder = torch.eye(2), torch.zeros(2)
    >>> target = torch.tensor([[2.0, 1.0]])
    >>> parts = hierarchical_loss_parts(values, indices, *decoder, target)
    >>> parts.per_level.tolist(), parts.reconstruction.tolist()
    ([0.5, 0.0], [[2.0, 1.0]])
    """
    loss, per_level, reconstruction = _compute(
        values,
        indices,
        W_dec,
        b_dec,
        target,
        levels,
        weights,
        backend,
        deterministic,
        details=True,
    )

    reconstruction = reconstruction.detach().view(target.shape)
    return HierarchicalParts(loss, per_level.detach(), reconstruction)


def _compute(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    levels: Sequence[int] | None,
    weights: Sequence[float] | None,
    backend: Backend | None,
    deterministic: bool | None,
    *,
    details: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the arguments, and run a backend.

    Returns:
        The loss, the error per level and the reconstruction ``[n, d_model]``; the
        latter two are only meaningful with ``details``.
    """
    check_decoder(values, indices, W_dec, b_dec)
    check_target(target, values, W_dec)
    if values.numel() == 0:
        raise ShapeMismatch(
            f"the loss needs at least one token; got values {list(values.shape)}"
        )

    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    k = values.shape[-1]
    counted = checked_levels(levels, k)
    has_grad = torch.is_grad_enabled()
    task = Task(
        levels=counted,
        weights=checked_weights(weights, len(counted)),
        needs=[
            has_grad and tensor.requires_grad
            for tensor in (values, W_dec, b_dec, target)
        ],
        details=details,
        deterministic=arguments.flag(deterministic, "deterministic"),
    )

    tensors = (
        values.reshape(-1, k),
        indices.reshape(-1, k).long(),
        W_dec,
        b_dec,
        target.reshape(-1, W_dec.shape[1]),
    )
    resolved = resolve(backend, values, W_dec, b_dec, target)
    if resolved == "gpu":
        # Loads Triton, so only when needed.
        from sae_lens_ext.kernels.hierarchical_loss import gpu

        results = gpu.hierarchical_loss(*tensors, task)
        return results.loss, results.per_level, results.reconstruction
    if resolved == "cpu":
        results = cpu.hierarchical_loss(*tensors, task)
        return results.loss, results.per_level, results.reconstruction

    check_features(tensors[1], W_dec)
    return reference.hierarchical_parts(*tensors, task.levels, task.weights)
