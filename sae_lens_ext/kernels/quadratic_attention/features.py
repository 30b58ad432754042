"""The quadratic kernel as a product of features: c0 + c1 s + c2 s^2 with s = scale * q.k is phi(q).phi(k).

With u = sqrt(scale) x the features of x are sqrt(c0); sqrt(c1) u_a for every a; sqrt(c2) u_a^2 for every a, and sqrt(2 c2) u_a u_b
once for every pair of different a and b. Features of a constant that is 0 are left out.

Pairs are in the order of their distance: first (a, a) for every a, then (a, a + 1), (a, a + 2), ..., counted around modulo d, up to
half of d. In that order each distance is one product of x with itself shifted, with no table of indices.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext._arguments import as_real
from sae_lens_ext.errors import InvalidArgument

Coefficients = tuple[float, float, float]
"""c0, c1 and c2."""


def checked_coefficients(c: object) -> Coefficients:
    """``c`` as floats; refuse what is not three numbers, none below 0 and not all 0."""
    # torch.compile of torch 2.8 knows no union of types.
    numbers = (
        [as_real(one) for one in c]
        if isinstance(c, tuple) or isinstance(c, list)
        else []
    )
    if (
        len(numbers) != 3
        or not all(0 <= one < math.inf for one in numbers)
        or not any(numbers)
    ):
        raise InvalidArgument(
            f"c must be three numbers c0, c1, c2, none below 0 and not all 0; got {c!r}"
        )
    c0, c1, c2 = numbers
    return c0, c1, c2


def checked_scale(scale: object) -> float:
    """``scale`` as a float; refuse what is no number above 0."""
    # Compared, not asked whether it is finite, which torch.compile cannot do for a number that changes from call to call.
    if not 0 < as_real(scale) < math.inf:
        raise InvalidArgument(
            f"scale must be a number above 0; got {scale!r}; for another scale of every query, multiply q by a tensor"
        )
    return as_real(scale)


def n_features(d: int, c: Coefficients) -> int:
    """How many features a vector of ``d`` numbers has; 153 for Based and 136 for ReBased at d = 16."""
    c0, c1, c2 = c
    # torch 2.8 cannot multiply a size that is not known yet by a truth value.
    return (1 if c0 else 0) + (d if c1 else 0) + (d * (d + 1) // 2 if c2 else 0)


def feature_pairs(d: int) -> Int[Tensor, "pairs 2"]:
    """Which two coordinates each feature of degree 2 multiplies, in the order of ``feature_map``.

    >>> feature_pairs(3).tolist()
    [[0, 0], [1, 1], [2, 2], [0, 1], [1, 2], [2, 0]]
    """
    first = torch.arange(d).repeat(d // 2 + 1)[: d * (d + 1) // 2]
    distance = torch.arange(d // 2 + 1).repeat_interleave(d)[: len(first)]
    return torch.stack([first, (first + distance) % d], dim=1)


def feature_map(
    x: Float[Tensor, "*batch d"], c: Coefficients, scale: float
) -> Float[Tensor, "*batch features"]:
    """phi(x): the features of degree 0, of degree 1 and of degree 2, the last in the order of ``feature_pairs``; in the dtype of x.

    >>> q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    >>> product = feature_map(q, (1.0, 1.0, 0.5), 1.0) @ feature_map(k, (1.0, 1.0, 0.5), 1.0)
    >>> round(float(product), 4)  # s = 1: 1 + 1 + 1/2
    2.5

    Raises:
        InvalidArgument: coefficients or a scale that define no kernel.

    Source: Arora et al. 2024, "Simple linear attention language models balance the recall-throughput tradeoff" (Taylor features);
    Aksenov et al. 2024, "Linear Transformers with Learnable Kernel Functions are Better In-Context Models" (the square).
    """
    (c0, c1, c2), scale = checked_coefficients(c), checked_scale(scale)
    parts = []
    if c0:
        parts.append(x.new_full((*x.shape[:-1], 1), math.sqrt(c0)))
    if c1:
        parts.append(x * math.sqrt(c1 * scale))
    if c2:
        products = (x.unsqueeze(-2) * shifted(x) * pair_weights(x, c2, scale)).flatten(
            -2
        )
        parts.append(products[..., : x.shape[-1] * (x.shape[-1] + 1) // 2])
    return torch.cat(parts, dim=-1)


def shifted(x: Tensor) -> Tensor:
    """[..., d // 2 + 1, d]: row s is x, moved round by s."""
    d = x.shape[-1]
    return torch.cat([x, x], dim=-1).unfold(-1, d, 1)[..., : d // 2 + 1, :]


def pair_weights(x: Tensor, c2: float, scale: float) -> Tensor:
    """[d // 2 + 1, d]: the factor of x_a x_(a+s). Half of the last row would name pairs again if d is even; it is cut off or 0."""
    d = x.shape[-1]
    weights = x.new_full((d // 2 + 1, d), math.sqrt(2 * c2) * scale)
    weights[0] = math.sqrt(c2) * scale
    weights.view(-1)[d * (d + 1) // 2 :] = 0
    return weights
