"""The features whose inner products are the weights of ``quadratic_attention``.

The weight of a key k for a query q is a polynomial of their score s = scale * <q, k>,
and also an inner product of features of the two vectors:

    c0 + c1 s + c2 s^2 = <phi(q), phi(k)>

With u = sqrt(scale) x, the features phi(x) are

    degree 0    sqrt(c0)
    degree 1    sqrt(c1) u_a          for every coordinate a
    degree 2    sqrt(c2) u_a^2        for every coordinate a
                sqrt(2 c2) u_a u_b    once for every pair of different coordinates

A degree whose coefficient is 0 has no features.

Pairs are ordered by distance, counted modulo d: first (a, a) for every a, then
(a, a + 1), then (a, a + 2), up to a distance of half of d. In this order the pairs of
one distance are the product of x with a shifted x, and no table of indices is needed.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument

Coefficients = tuple[float, float, float]
"""c0, c1 and c2."""


def checked_coefficients(c: object) -> Coefficients:
    """``c`` as three floats.

    Raises:
        InvalidArgument: not three numbers, one of them negative, or all of them 0.
    """
    numbers = []
    # A tuple of types, because torch.compile of torch 2.8 cannot trace a union.
    if isinstance(c, (tuple, list)):
        numbers = [arguments.as_real(number) for number in c]

    is_valid = (
        len(numbers) == 3
        and all(0 <= number < math.inf for number in numbers)
        and any(numbers)
    )
    if not is_valid:
        raise InvalidArgument(
            "c must be three non-negative numbers c0, c1, c2, at least one of them not "
            f"0; got {c!r}"
        )
    c0, c1, c2 = numbers
    return c0, c1, c2


def n_pairs(d: int) -> int:
    """The number of pairs of ``d`` coordinates, each with itself included."""
    return d * (d + 1) // 2


def n_features(d: int, c: Coefficients) -> int:
    """The number of features of a vector of width ``d``.

    >>> n_features(16, (1.0, 1.0, 0.5))  # Based
    153
    >>> n_features(16, (0.0, 0.0, 1.0))  # ReBased
    136
    """
    c0, c1, c2 = c
    # By ternaries, because torch 2.8 cannot multiply a symbolic size by a truth value.
    degree_0 = 1 if c0 else 0
    degree_1 = d if c1 else 0
    degree_2 = n_pairs(d) if c2 else 0
    return degree_0 + degree_1 + degree_2


def feature_pairs(d: int) -> Int[Tensor, "pairs 2"]:
    """The two coordinates that each feature of degree 2 multiplies, in order.

    >>> feature_pairs(3).tolist()
    [[0, 0], [1, 1], [2, 2], [0, 1], [1, 2], [2, 0]]
    """
    n_distances = d // 2 + 1
    coordinates = torch.arange(d)
    distances = torch.arange(n_distances)

    # If d is even, the second half of the last distance would repeat the first.
    first = coordinates.repeat(n_distances)[: n_pairs(d)]
    distance = distances.repeat_interleave(d)[: n_pairs(d)]
    second = (first + distance) % d
    return torch.stack([first, second], dim=1)


def feature_map(
    x: Float[Tensor, "*batch d"], c: Coefficients, scale: float
) -> Float[Tensor, "*batch features"]:
    """Compute the features phi(x), in the dtype of ``x``.

    They are in the order of their degree, those of degree 2 in that of
    ``feature_pairs``.

    >>> q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])  # a score of 1
    >>> phi_q, phi_k = (feature_map(x, (1.0, 1.0, 0.5), 1.0) for x in (q, k))
    >>> round(float(phi_q @ phi_k), 4)  # 1 + 1 + 1/2
    2.5

    Args:
        x: queries or keys.
        c: the coefficients of the polynomial, see ``quadratic_attention``.
        scale: of the scores.

    Raises:
        InvalidArgument: a coefficient is negative, all are 0, or the scale is not a
            positive number.

    Source: Arora et al. 2024, "Simple linear attention language models balance the
    recall-throughput tradeoff" (Taylor features); Aksenov et al. 2024, "Linear
    Transformers with Learnable Kernel Functions are Better In-Context Models" (the
    square).
    """
    coefficients = checked_coefficients(c)
    checked_scale = arguments.finite(scale, "scale", above=0.0)
    return map_features(x, coefficients, checked_scale)


def map_features(x: Tensor, c: Coefficients, scale: float) -> Tensor:
    """``feature_map`` of a polynomial that has been checked."""
    c0, c1, c2 = c
    *batch, d = x.shape

    features = []
    if c0:
        constant = x.new_full((*batch, 1), math.sqrt(c0))
        features.append(constant)
    if c1:
        linear = x * math.sqrt(c1 * scale)
        features.append(linear)
    if c2:
        # One product of whole tensors for all pairs, distance by distance.
        products = x.unsqueeze(-2) * _shifted(x)
        products = products * _pair_factors(x, c2, scale)
        pairs = products.flatten(-2)[..., : n_pairs(d)]
        features.append(pairs)
    return torch.cat(features, dim=-1)


def _shifted(x: Tensor) -> Tensor:
    """``x`` rotated by every distance, [..., d // 2 + 1, d]: row s holds x_(a+s)."""
    d = x.shape[-1]
    n_distances = d // 2 + 1
    twice = torch.cat([x, x], dim=-1)

    # Windows of width d, each one coordinate further on than the one before.
    windows = twice.unfold(-1, d, 1)
    return windows[..., :n_distances, :]


def _pair_factors(x: Tensor, c2: float, scale: float) -> Tensor:
    """The factor of every x_a x_(a+s), [d // 2 + 1, d].

    It is 0 where the last row would repeat pairs, which are cut off.
    """
    d = x.shape[-1]
    n_distances = d // 2 + 1

    # Both orders of two different coordinates share a feature; a square has one order.
    pair_factor = math.sqrt(2 * c2) * scale
    square_factor = math.sqrt(c2) * scale

    factors = x.new_full((n_distances, d), pair_factor)
    factors[0] = square_factor
    flat_factors = factors.view(-1)
    flat_factors[n_pairs(d) :] = 0
    return factors
