"""Effects at every site by the gradient of a method."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.integrated import Path, along_path
from sae_lens_ext.circuits.joint import joint_effects
from sae_lens_ext.circuits.nodes import SiteEffects, baseline

STEPS = {"integrated_gradients": 8, "joint": 8}
"""Gradients along the path of the methods that have one."""

Gaps = Mapping[str, Float[Tensor, "*rows"]]


def effects_by_site(
    analysis: Analysis, runs: Runs, method: str, steps: int | None = None
) -> tuple[dict[str, SiteEffects], Gaps | None]:
    """The effects at each site, and for integrated gradients the completeness gaps.

    Args:
        analysis: the model, the rows and the metric.
        runs: its runs; those for ``"attribution"`` have gradients.
        method: ``"attribution"``, ``"integrated_gradients"`` or ``"joint"``.
        steps: points on the path of the latter two; None for the default.
    """
    if steps is None:
        steps = STEPS.get(method, 1)
    if method == "joint":
        return joint_effects(analysis, runs, steps)
    if method == "attribution":
        sites = {
            name: analysis.effects_at(name, runs, runs.clean.gradients[place.site])
            for name, place in analysis.placed.items()
        }
        return sites, None

    sites = {}
    gaps = {}
    for name, place in analysis.placed.items():
        x = runs.clean.activations[place.site]
        x_0 = baseline(runs.clean_codes[name], runs.corrupted_codes[name])
        path = Path(x, x_0, analysis.masks[name].to(x.device))

        along = along_path(analysis, place.site, path, runs.clean.values, steps)
        sites[name] = analysis.effects_at(name, runs, along.gradient)
        gaps[name] = _gap(sites[name].totals, along.change)
    return sites, gaps


def _gap(totals: Tensor, change: Tensor) -> Tensor:
    """What the effects add up to beyond the measured change of the metric."""
    by_row = totals.sum(dim=1).to(change.device)
    total = by_row if change.ndim else by_row.sum()
    return total - change
