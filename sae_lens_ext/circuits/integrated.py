"""Integrated gradients between the corrupted and the clean activation at a site.

The path is that of the activation itself, so it is the same at every k, and so is the
mean of the gradient along it. The effects of all nodes then add up to the measured
change of the metric, as exactly as the points on the path resolve it.

Source: Sundararajan et al. 2017; Marks et al. 2024 (feature circuits), whose ten
equally spaced points are replaced by those of Gauss and Legendre.
"""

from collections.abc import Iterator

import numpy
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis
from sae_lens_ext.circuits.runs import gradient_run, replaced_logits
from sae_lens_ext.hosts import Site


class Path:
    """Activations at one site, from the corrupted to the clean ones."""

    def __init__(
        self,
        clean: Float[Tensor, "batch pos d"],
        baseline: Float[Tensor, "batch pos d"],
        mask: Bool[Tensor, "batch pos"],
    ) -> None:
        """A path from ``baseline`` at the positions of a mask.

        Args:
            clean: the activations of the clean run.
            baseline: those where the path begins.
            mask: where the activations change; elsewhere they stay the clean ones.
        """
        self._clean = clean
        wide = baseline.to(clean.device)
        step = (clean.to(wide.dtype) - wide).where(mask.unsqueeze(-1), 0)
        self._step = step

    def at(self, share: float) -> Float[Tensor, "batch pos d"]:
        """The activations at 0, the beginning, to 1, the clean run."""
        moved = self._clean.to(self._step.dtype) - (1 - share) * self._step
        return moved.to(self._clean.dtype)


def mean_gradient(
    analysis: Analysis, site: Site, path: Path, steps: int
) -> Float[Tensor, "batch pos d"]:
    """The mean gradient of the metric along a path, by Gauss-Legendre quadrature.

    Args:
        analysis: the model, the rows and the metric.
        site: whose activations follow the path.
        path: the path.
        steps: the number of points on it.
    """
    total = None
    for share, weight in points(steps):
        activation = path.at(share)
        run = gradient_run(
            analysis.host,
            analysis.prompts.clean,
            [site],
            analysis.measurement,
            lambda *_, activation=activation: activation,
            during=analysis.freezing.replaying(),
        )
        term = weight * run.gradients[site].double()
        total = term if total is None else total + term
    assert total is not None
    return total


def metric_at_start(
    analysis: Analysis, site: Site, path: Path
) -> Float[Tensor, "*rows"]:
    """The metric of a run in which a site has the activations where its path begins."""
    start = path.at(0.0)
    logits = replaced_logits(
        analysis.host,
        analysis.prompts.clean,
        {site: lambda _: start},
        analysis.measurement,
        during=analysis.freezing.replaying(),
    )
    return analysis.measurement.values(logits)


def points(steps: int) -> Iterator[tuple[float, float]]:
    """Points from 0 to 1, and weights that add up to 1."""
    points, weights = numpy.polynomial.legendre.leggauss(steps)
    for point, weight in zip(points, weights, strict=True):
        yield float(point + 1) / 2, float(weight) / 2
