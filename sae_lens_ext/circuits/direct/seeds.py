"""What a target reads of the activations at its site, as gradients.

A feature's pre-activation reads the activation by the feature's encoder column. What
the error adds to the metric is <e, g>, with g the gradient of the metric at the site
and e = x - (what the k features write), so it reads x by g, and what the SAE reads by

    - (sum over ranks r < k) <w_r, g> (encoder column of the feature of rank r)

with the gate held: the k features stay the same ones. Feature and error together read
what g reads, which is why the edges out of a node add up to its effect.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.direct.cuts import CutRun
from sae_lens_ext.circuits.direct.targets import Target
from sae_lens_ext.circuits.projections import (
    feature_gradients,
    preactivation_gradients,
)
from sae_lens_ext.sae import SAE


class SiteReader:
    """How the nodes of one site read activations."""

    def __init__(self, analysis: Analysis, runs: Runs, name: str) -> None:
        """Prepare the readings at a site.

        Args:
            analysis: the model and the SAEs in it.
            runs: its runs, with gradients.
            name: of the site.
        """
        place = analysis.placed[name]
        assert place.sae is not None
        self._sae: SAE = place.sae
        # A code of every active feature may be empty.
        self._clean = runs.clean_codes[name].padded(1)
        x = self._clean.x
        gradient = runs.clean.gradients[place.site].to(x.device)
        self._gradient = gradient.to(torch.promote_types(gradient.dtype, x.dtype))
        # The derivative of the metric by every value of the code.
        self._by_value = feature_gradients(self._sae, self._clean.code, self._gradient)

    def slope(self, target: Target) -> float:
        """The derivative of the metric by a feature's activation."""
        return float(self._by_value[target.row, target.position, target.rank])

    def activation(self, target: Target) -> float:
        """The activation of a feature in the clean run."""
        values = self._clean.code.values
        return float(values[target.row, target.position, target.rank])

    def of_input(self, target: Target) -> Float[Tensor, " d_in"]:
        """By what a target reads the activation that the SAE reads."""
        place = (target.row, target.position)
        code = self._clean.code[place]
        if not target.is_error:
            feature = torch.tensor(target.feature)
            return preactivation_gradients(self._sae, feature, code.statistics)

        code = code.at_most(target.k)
        columns = preactivation_gradients(self._sae, code.indices, code.statistics)
        # Inactive entries of a code name arbitrary features.
        is_active = code.values > 0
        weights = self._by_value[place][: code.k] * is_active
        return -(weights.to(columns.dtype) @ columns)

    def of_output(self, target: Target) -> Float[Tensor, " d_out"] | None:
        """By what a target reads the activation at the site itself, if it does."""
        if not target.is_error:
            return None
        return self._gradient[target.row, target.position]


def seeded(
    run: CutRun,
    targets: Sequence[Target],
    readers: dict[str, SiteReader],
) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of a run that has a row for every target, and what is read of them."""
    outputs: dict[int, Tensor] = {}
    seeds: dict[int, Tensor] = {}

    def add(output: Tensor, row: int, position: int, reading: Tensor) -> None:
        key = id(output)
        if key not in outputs:
            outputs[key] = output
            seeds[key] = torch.zeros_like(output)
        seeds[key][row, position] += reading.to(output.device, output.dtype)

    for row, target in enumerate(targets):
        reader = readers[target.site]
        read = run.reads(target.site)
        add(read, row, target.position, reader.of_input(target))

        of_output = reader.of_output(target)
        if of_output is not None:
            arrived = run.arrived[target.site]
            add(arrived, row, target.position, of_output)
    return list(outputs.values()), list(seeds.values())
