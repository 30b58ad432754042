"""Points and weights for a mean over a path from 0 to 1.

The metric of a model often changes within a short part of a path and hardly elsewhere,
as a softmax does between two answers. Few points of Gauss and Legendre miss that part.
``concentrated_points`` lie close together there: they are Gauss-Legendre points in s of
t = c + w sinh(s), which is dense about c within a width w.

Source: Johnston and Elliott 2005 (the sinh transformation, for nearly singular
integrals); Bhat and Raychowdhury 2023 (points of integrated gradients placed by the
change of the output).
"""

from collections.abc import Iterator

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

N_PARTS = 8
"""Equal parts of the path, at whose ends the metric is looked at."""

# This share of the points is placed by length and the rest by the change of the metric,
# so that there are points where it does not change, too.
_BY_LENGTH = 0.25


def gauss_points(steps: int) -> Iterator[tuple[float, float]]:
    """Points of Gauss and Legendre from 0 to 1, and weights that add up to 1.

    Args:
        steps: how many.
    """
    points, weights = numpy.polynomial.legendre.leggauss(steps)
    for point, weight in zip(points, weights, strict=True):
        yield float(point + 1) / 2, float(weight) / 2


def concentrated_points(
    values: Float[Tensor, "*rows ends"], steps: int
) -> Iterator[tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]]:
    """Points from 0 to 1 that are dense where values change, and their weights.

    Args:
        values: at the ends of equal parts of the path, for every row, which has points
            of its own.
        steps: how many points.

    Yields:
        The points and the weights of all rows, in float64. The weights of a row add up
        to 1.
    """
    done = _share_done(values.double())
    centre = _reached(done, 0.5)
    width = (_reached(done, 0.75) - _reached(done, 0.25)) / 2
    first = torch.asinh(-centre / width)
    last = torch.asinh((1 - centre) / width)

    points = []
    weights = []
    for share, weight in gauss_points(steps):
        s = first + share * (last - first)
        points.append(centre + width * torch.sinh(s))
        weights.append(weight * torch.cosh(s))
    total = torch.stack(weights).sum(0)
    for point, weight in zip(points, weights, strict=True):
        yield point, weight / total


def _share_done(values: Tensor) -> Float[Tensor, "*rows ends"]:
    """From 0 to 1: a part by the length of the path, the rest by what has changed."""
    length = torch.linspace(0, 1, values.shape[-1], dtype=values.dtype)
    length = length.to(values.device).expand_as(values)
    changed = values.diff().abs().cumsum(-1)
    changed = torch.cat([torch.zeros_like(values[..., :1]), changed], dim=-1)
    whole = changed[..., -1:]
    share = torch.where(whole > 0, changed / whole, length)
    return _BY_LENGTH * length + (1 - _BY_LENGTH) * share


def _reached(done: Float[Tensor, "*rows ends"], level: float) -> Float[Tensor, "*rows"]:
    """Where on the path a share is reached; within a part, the share is a line."""
    after = (done < level).sum(-1, keepdim=True)
    below = done.gather(-1, after - 1)
    above = done.gather(-1, after)
    position = (after - 1) + (level - below) / (above - below)
    return position.squeeze(-1) / (done.shape[-1] - 1)
