"""The HierarchicalTopK loss: how badly every prefix of a token's features reconstructs it, averaged.

With the features of a token sorted by strength, the prefix of length j is what a TopK SAE with k = j would use. Asking every
prefix to be a good reconstruction trains one SAE that is good at every k. The README beside this file derives the gradients.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext._arguments import as_integers
from sae_lens_ext._types import Backend
from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_decoder, check_features, check_target
from sae_lens_ext.kernels.hierarchical_loss import cpu, reference
from sae_lens_ext.kernels.hierarchical_loss.operator import Task, accumulator


class HierarchicalParts(NamedTuple):
    """The loss, and what it was made of."""

    loss: Float[Tensor, ""]
    """As ``hierarchical_loss`` returns it; differentiable, unlike the others."""
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
    """Mean over tokens, coordinates and (weighted) levels j of ``(reconstruction from the first j features - target) ** 2``.

    >>> import torch
    >>> W_dec, b_dec = torch.eye(2), torch.zeros(2)
    >>> values, indices, target = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[2.0, 1.0]])
    >>> hierarchical_loss(values, indices, W_dec, b_dec, target).item()  # level 1 misses the 1.0: (0.5 + 0) / 2
    0.25
    >>> hierarchical_loss(values, indices, W_dec, b_dec, target, levels=[2]).item()  # plain TopK
    0.0

    The order of the features matters and is the caller's: give them strongest first, as ``topk_encode`` does. Differentiable in
    ``values``, ``W_dec``, ``b_dec`` and ``target``; second derivatives go through the definition. The fast backends compute the
    gradients during the forward pass, because all that the backward pass can add is one scalar factor, and hold nothing of size
    ``[batch, k, d_model]``.

    Args:
        values: feature activations, in the order in which levels count them.
        indices: their features.
        W_dec: decoder rows.
        b_dec: decoder bias, the reconstruction from no feature at all.
        target: what to reconstruct.
        levels: the prefix lengths that count, each from 1 to k, without repeats; None means all of 1..k.
        weights: one non-negative weight per level, in the order of ``levels``; None weighs all alike. Only ratios matter.
        backend: ``"reference"``, ``"cpu"`` or ``"gpu"``; None picks by device.
        deterministic: whether the same inputs must give the same bits every time. Without it the GPU adds up the gradient of
            ``W_dec`` in whatever order its threads arrive, which is faster; the CPU gives the same bits anyway. None does as
            ``torch.use_deterministic_algorithms`` was told.

    Raises:
        InvalidK: a level is not a whole number from 1 to k, or k is 0.
        InvalidArgument: what should be tensors of one floating dtype on one device is not; repeated levels, weights that do not fit
            them; an unknown backend; ``torch.vmap``; or indices of features that do not exist. (On a GPU, where looking at indices
            would make it wait, such a feature makes the loss NaN instead.)
        ShapeMismatch: the tensors do not fit together, or there is no token.
        BackendError: the backend that was asked for cannot run here.

    Source: Balagansky, Aksenov et al. 2025, "Train One Sparse Autoencoder Across Multiple Sparsity Budgets to Preserve
    Interpretability and Accuracy" (arXiv 2505.24473).
    """
    return _computed(
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
    )[0]


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
    """``hierarchical_loss`` with the error of every level and the last reconstruction, which it computes on its way.

    For logging, and for losses on what is left over (such as AuxK of Gao et al. 2024), without a second decode. Those two are in
    float32 or wider and carry no gradient. Arguments and errors are those of ``hierarchical_loss``.

    >>> import torch
    >>> values, indices, target = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), torch.tensor([[2.0, 1.0]])
    >>> parts = hierarchical_loss_parts(values, indices, torch.eye(2), torch.zeros(2), target)
    >>> parts.per_level.tolist(), parts.reconstruction.tolist()
    ([0.5, 0.0], [[2.0, 1.0]])
    """
    found = _computed(
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
    per_level, reconstruction = (
        tensor.detach().to(accumulator(values, W_dec))
        for tensor in (found[1], found[2])
    )
    return HierarchicalParts(found[0], per_level, reconstruction.view(target.shape))


def _computed(
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
) -> Sequence[Tensor]:
    """Loss, error per level and reconstruction, and perhaps more; the latter two only if ``details``."""
    check_decoder(values, indices, W_dec, b_dec)
    k, d_model = values.shape[-1], W_dec.shape[1]
    check_target(target, values, W_dec)
    if values.numel() == 0:
        raise ShapeMismatch(
            f"the loss of no token is not defined; got values {list(values.shape)}"
        )
    if deterministic is not None and not isinstance(deterministic, bool):
        raise InvalidArgument(
            f"deterministic must be True, False or None; got {deterministic!r}"
        )
    task = Task(
        *_levels_and_weights(k, levels, weights),
        needs=[
            torch.is_grad_enabled() and tensor.requires_grad
            for tensor in (values, W_dec, b_dec, target)
        ],
        details=details,
        deterministic=torch.are_deterministic_algorithms_enabled()
        if deterministic is None
        else deterministic,
    )
    tensors = (
        values.reshape(-1, k),
        indices.reshape(-1, k).long(),
        W_dec,
        b_dec,
        target.reshape(-1, d_model),
    )
    chosen = resolve(backend, values, W_dec, b_dec, target)
    if chosen == "gpu":
        from sae_lens_ext.kernels.hierarchical_loss import (
            gpu,
        )  # loads Triton, so only when needed

        return gpu.hierarchical_loss(*tensors, task)
    if chosen == "cpu":
        return cpu.hierarchical_loss(*tensors, task)
    check_features(tensors[1], W_dec)
    return reference.hierarchical_parts(*tensors, task.levels, task.weights)


def _levels_and_weights(
    k: int, levels: Sequence[int] | None, weights: Sequence[float] | None
) -> tuple[list[int], list[float]]:
    """The prefix lengths that count, and their weights, which sum to 1."""
    numbers = tuple(range(1, k + 1)) if levels is None else as_integers(levels)
    if numbers is None or any(not 1 <= level <= k for level in numbers):
        got = levels if numbers is None else list(numbers)
        raise InvalidK(
            f"each level must be a whole number from 1 to k={k}, the number of features per token; got {got}"
        )
    if not numbers or len(set(numbers)) != len(numbers):
        raise InvalidArgument(
            f"levels must name at least one prefix length and none twice; got {list(numbers)}"
        )
    try:
        given = [1.0] * len(numbers) if weights is None else list(weights)
        if isinstance(weights, (str, dict, set)) or any(
            isinstance(weight, str) for weight in given
        ):
            raise TypeError
        shares = [float(weight) for weight in given]
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(
            f"weights must be numbers, one per level; got {weights!r}"
        ) from None
    if len(shares) != len(numbers):
        raise InvalidArgument(
            f"weights must hold one number per level: {len(numbers)} levels, {len(shares)} weights"
        )
    if (
        not all(math.isfinite(share) and share >= 0 for share in shares)
        or max(shares) <= 0
    ):
        raise InvalidArgument(
            f"weights must be finite, none below 0, and not all 0; got {shares}"
        )
    # By the largest first, because the sum of large numbers can be infinite.
    shares = [share / max(shares) for share in shares]
    total = sum(shares)
    return list(numbers), [share / total for share in shares]
