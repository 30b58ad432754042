"""Integrated gradients between the corrupted and the clean activation at a site.

The path is that of the activation itself, so it is the same at every k, and so is the
mean of the gradient along it. The effects of all nodes then add up to the measured
change of the metric, as exactly as the points on the path resolve it.

Source: Sundararajan et al. 2017; Marks et al. 2024 (feature circuits), whose ten
equally spaced points are replaced by those of ``quadrature``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis
from sae_lens_ext.circuits.quadrature import N_PARTS, concentrated_points
from sae_lens_ext.circuits.runs import gradient_run, replaced_logits
from sae_lens_ext.hosts import Site

Share = float | Float[Tensor, "*rows"]
"""One number, or one for every row."""

Point = tuple[Share, Share]
"""A share of the way, and its weight."""


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

    def at(self, share: Share) -> Float[Tensor, "batch pos d"]:
        """The activations at 0, the beginning, to 1, the clean run.

        Args:
            share: of the way.
        """
        left = _by_row(1 - torch.as_tensor(share), self._step)
        moved = self._clean.to(self._step.dtype) - left * self._step
        return moved.to(self._clean.dtype)


@dataclass(frozen=True, eq=False)
class AlongPath:
    """What integrated gradients need of one path.

    Attributes:
        gradient: the mean gradient of the metric along the path.
        change: of the metric, from the beginning of the path to its end.
    """

    gradient: Float[Tensor, "batch pos d"]
    change: Float[Tensor, "*rows"]


def along_path(
    analysis: Analysis,
    site: Site,
    path: Path,
    clean_values: Float[Tensor, "*rows"],
    steps: int,
) -> AlongPath:
    """Run the model along a path.

    Forward passes at equal distances say where the metric changes, and the gradient is
    taken at points that are dense there.

    Args:
        analysis: the model, the rows and the metric.
        site: whose activations follow the path.
        path: the path.
        clean_values: the metric at its end.
        steps: how many gradients to take.
    """
    values = [_metric_at(analysis, site, path, n / N_PARTS) for n in range(N_PARTS)]
    values = torch.stack([*values, clean_values], dim=-1)
    points = concentrated_points(values, steps)
    gradient = mean_gradient(analysis, site, path, points)
    return AlongPath(gradient, clean_values - values[..., 0])


def mean_gradient(
    analysis: Analysis, site: Site, path: Path, points: Iterable[Point]
) -> Float[Tensor, "batch pos d"]:
    """The mean gradient of the metric along a path, in float64.

    Args:
        analysis: the model, the rows and the metric.
        site: whose activations follow the path.
        path: the path.
        points: shares of the way and their weights, of all rows or of each.
    """
    total = None
    for share, weight in points:
        activation = path.at(share)
        run = gradient_run(
            analysis.host,
            analysis.prompts.clean,
            [site],
            analysis.measurement,
            lambda *_, activation=activation: activation,
            during=analysis.freezing.replaying(),
        )
        gradient = run.gradients[site].double()
        term = _by_row(torch.as_tensor(weight), gradient) * gradient
        total = term if total is None else total + term
    assert total is not None
    return total


def _metric_at(
    analysis: Analysis, site: Site, path: Path, share: float
) -> Float[Tensor, "*rows"]:
    """The metric of a run that has the activations of a point of the path at a site."""
    activation = path.at(share)
    logits = replaced_logits(
        analysis.host,
        analysis.prompts.clean,
        {site: lambda _: activation},
        analysis.measurement,
        during=analysis.freezing.replaying(),
    )
    return analysis.measurement.values(logits)


def _by_row(values: Tensor, like: Float[Tensor, "batch pos d"]) -> Tensor:
    """One number, or one per row, in the form that multiplies activations."""
    return values.to(like.device, like.dtype).reshape(-1, 1, 1)
