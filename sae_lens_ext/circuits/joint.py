"""Integrated gradients while the nodes of all sites come back together.

On the path every node, at every site, has the share t of what it has in the run: a site
hands on x_0 + t (x - x_0), with x what the run has there, which earlier sites have
shaped, and x_0 the activation of which every node is ablated. At 0 no node is there, at
1 all of them are. In between a node counts for what it is worth where the nodes that
cause it, and those that read it, are there in part. So the effects of all nodes of all
sites add up to the whole change: those of different sites do not overlap.

The derivative of the metric by the share of one node is the gradient at its site times
what the node writes. The path does not depend on k, so that, as for the other methods,
effects at every k come from the same runs.

Source: Sundararajan et al. 2017 (integrated gradients), here by the gates of nodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.encoded import Encoded
from sae_lens_ext.circuits.nodes import SiteEffects, baseline, site_effects
from sae_lens_ext.circuits.quadrature import gauss_points
from sae_lens_ext.circuits.runs import gradient_run, replaced_logits
from sae_lens_ext.hosts import Site
from sae_lens_ext.interventions.sites import Placement

Moves = Mapping[Site, Callable[[Tensor, float], Tensor]]
"""By site, what makes the activation on the path of that which the run has, and of the
share of every node.
"""

ALL_SITES = "all sites"
"""By what the completeness gap of this method is called."""


def joint_effects(
    analysis: Analysis, runs: Runs, steps: int
) -> tuple[dict[str, SiteEffects], dict[str, Float[Tensor, "*rows"]]]:
    """The effects at each site, and the completeness gap of them all.

    Args:
        analysis: the model, the rows and the metric.
        runs: its runs.
        steps: points on the path.
    """
    path = _FeaturePath(analysis, runs)
    parts: dict[str, list[SiteEffects]] = {name: [] for name in analysis.placed}
    for share, weight in gauss_points(steps):
        gradients = gradients_at(analysis, path.moves, share)
        for name, place in analysis.placed.items():
            assert place.sae is not None
            part = site_effects(
                place.sae,
                analysis.masks[name],
                path.encoded[name],
                runs.corrupted_codes[name],
                weight * gradients[place.site].double(),
                is_whole=analysis.ks[name] is None,
            )
            parts[name].append(part)

    sites = {
        name: _added(runs.clean_codes[name], of_site) for name, of_site in parts.items()
    }
    logits = replaced_logits(
        analysis.host,
        analysis.prompts.clean,
        {site: _at_start(move) for site, move in path.moves.items()},
        analysis.measurement,
        during=analysis.freezing.replaying(),
    )
    change = runs.clean.values - analysis.measurement.values(logits)
    by_row = [effects.totals.sum(dim=1).to(change.device) for effects in sites.values()]
    total = torch.stack(by_row).sum(dim=0)
    return sites, {ALL_SITES: (total if change.ndim else total.sum()) - change}


def gradients_at(
    analysis: Analysis, moves: Moves, share: float
) -> dict[Site, Float[Tensor, "batch pos d"]]:
    """The gradient of the metric at every site, at one point of the path.

    Args:
        analysis: the model, the rows and the metric.
        moves: of every site.
        share: of every node, from 0 to 1.
    """

    def moved(site: Site, x: Tensor) -> Tensor:
        return moves[site](x, share)

    run = gradient_run(
        analysis.host,
        analysis.prompts.clean,
        moves,
        analysis.measurement,
        moved,
        during=analysis.freezing.replaying(),
    )
    return run.gradients


def moved_to(
    x: Float[Tensor, "batch pos d"],
    x_0: Float[Tensor, "batch pos d"],
    mask: Bool[Tensor, "batch pos"],
    share: float,
) -> Float[Tensor, "batch pos d"]:
    """x_0 + share (x - x_0) at the positions of a mask, and x elsewhere."""
    wide = x_0.to(x.device)
    step = (x.to(wide.dtype) - wide).where(mask.to(x.device).unsqueeze(-1), 0)
    # In this form nothing changes where all nodes are there.
    return (x.to(wide.dtype) - (1 - share) * step).to(x.dtype)


@dataclass(frozen=True, eq=False)
class _FeaturePath:
    """The path of features and errors.

    Attributes:
        analysis: the model, the SAEs and the rows.
        runs: its runs.
        encoded: by the name of the site, what the SAE says in the last run.
    """

    analysis: Analysis
    runs: Runs
    encoded: dict[str, Encoded] = field(default_factory=dict)
    _sources: dict[Site, Tensor] = field(default_factory=dict)

    @property
    def moves(self) -> Moves:
        """What happens at every site."""
        writers = {
            place.site: (name, place) for name, place in self.analysis.placed.items()
        }

        def move_at(site: Site) -> Callable[[Tensor, float], Tensor]:
            def move(x: Tensor, share: float) -> Tensor:
                if site in writers:
                    x = self._moved(*writers[site], x, share)
                # What a transcoder reads is what the nodes at the same site leave.
                self._sources[site] = x.detach()
                return x

            return move

        return {site: move_at(site) for site in self.analysis.sites}

    def _moved(self, name: str, place: Placement, x: Tensor, share: float) -> Tensor:
        activations = {place.site: x.detach()}
        if place.source is not None:
            activations[place.source] = self._sources[place.source]
        mask = self.analysis.masks[name]
        encoded = Encoded.of(
            place,
            activations,
            mask,
            self.analysis.ks[name],
            extrapolate=self.analysis.extrapolate,
        )
        self.encoded[name] = encoded
        x_0 = baseline(encoded, self.runs.corrupted_codes[name])
        return moved_to(x, x_0, mask, share)


def _at_start(move: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: move(x, 0.0)


def _added(clean: Encoded, parts: Sequence[SiteEffects]) -> SiteEffects:
    """The effects at a site from those of all points of the path.

    Nodes of the clean code are there at every k, as for other methods; what they write
    on the path is in the codes of its points.
    """
    width = max(clean.code.k, *(part.k for part in parts))
    parts = [part.padded(width) for part in parts]
    code = clean.padded(width).code
    first = parts[0]
    taken = [
        part.corrupted_features for part in parts if part.corrupted_features is not None
    ]
    return replace(
        first,
        code=code,
        features=torch.zeros_like(first.features),
        totals=torch.stack([part.totals for part in parts]).sum(dim=0),
        corrupted_features=torch.stack(taken).sum(dim=0) if taken else None,
        between=tuple((part.code, part.features) for part in parts),
    )
