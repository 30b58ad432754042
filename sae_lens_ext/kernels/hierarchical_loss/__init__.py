"""The HierarchicalTopK loss: how badly every prefix of a token's features reconstructs it, averaged.

With the features of a token sorted by strength, the prefix of length j is what a TopK SAE with k = j would use. Asking every
prefix to be a good reconstruction trains one SAE that is good at every k. The README beside this file derives the gradients.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext._numbers import whole_numbers
from sae_lens_ext._types import Backend
from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_decoder, check_target
from sae_lens_ext.kernels.hierarchical_loss import cpu, reference


def hierarchical_loss(
    values: Float[Tensor, "*batch k"],
    indices: Int[Tensor, "*batch k"],
    W_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    target: Float[Tensor, "*batch d_model"],
    levels: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    backend: Backend | None = None,
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

    Raises:
        InvalidK: a level is not a whole number from 1 to k.
        InvalidArgument: repeated levels, or weights that do not fit them.
        ShapeMismatch: the tensors do not fit together, or there is no token.
        BackendError: the backend that was asked for cannot run here.

    Source: Balagansky, Aksenov et al. 2025, "Train One Sparse Autoencoder Across Multiple Sparsity Budgets to Preserve
    Interpretability and Accuracy" (arXiv 2505.24473).
    """
    check_decoder(values, indices, W_dec, b_dec)
    k, d_model = values.shape[-1], W_dec.shape[1]
    if target.shape != (*values.shape[:-1], d_model):
        raise ShapeMismatch(
            f"target must be [..., d_model] = {[*values.shape[:-1], d_model]}, one row per token of values; got {list(target.shape)}"
        )
    check_target(target, W_dec)
    if values.numel() == 0:
        raise ShapeMismatch(f"the loss of no token is not defined; got values {list(values.shape)}")
    rank_weights = _rank_weights(k, levels, weights)
    implementation = cpu if resolve(backend, values.device) == "cpu" else reference
    return implementation.hierarchical_loss(
        values.reshape(-1, k), indices.reshape(-1, k).long(), W_dec, b_dec, target.reshape(-1, d_model), rank_weights
    )


def _rank_weights(k: int, levels: Sequence[int] | None, weights: Sequence[float] | None) -> list[float]:
    """One weight per prefix length 1..k, summing to 1; zero for the lengths that do not count."""
    numbers = tuple(range(1, k + 1)) if levels is None else whole_numbers(levels)
    if numbers is None or any(not 1 <= level <= k for level in numbers):
        got = levels if numbers is None else list(numbers)
        raise InvalidK(f"each level must be a whole number from 1 to k={k}, the number of features per token; got {got}")
    if not numbers or len(set(numbers)) != len(numbers):
        raise InvalidArgument(f"levels must name at least one prefix length and none twice; got {list(numbers)}")
    try:
        shares = [1.0] * len(numbers) if weights is None else [float(weight) for weight in weights]
    except (TypeError, ValueError):
        raise InvalidArgument(f"weights must be numbers, one per level; got {weights!r}") from None
    if len(shares) != len(numbers):
        raise InvalidArgument(f"weights must hold one number per level: {len(numbers)} levels, {len(shares)} weights")
    if not all(math.isfinite(share) and share >= 0 for share in shares) or max(shares) <= 0:
        raise InvalidArgument(f"weights must be finite, none below 0, and not all 0; got {shares}")
    # By the largest first, because the sum of large numbers can be infinite.
    shares = [share / max(shares) for share in shares]
    result = [0.0] * k
    for level, share in zip(numbers, shares, strict=True):
        result[level - 1] = share / sum(shares)
    return result
