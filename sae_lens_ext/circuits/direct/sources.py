"""What all earlier nodes give to each target, at every k.

A target takes the place of a metric: with the gradient of what it reads by the
activation at an earlier site, its edges from there are the effects of ``nodes``, and
prefix sums over rank as well.

Several targets, each with a row of its own, share one run and one backward pass, so
memory is that of a small batch, whatever their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.circuits.analysis import Analysis, Runs
from sae_lens_ext.circuits.direct.cuts import TOKENS, Cuts, gradients_at
from sae_lens_ext.circuits.direct.seeds import SiteReader, seeded
from sae_lens_ext.circuits.direct.targets import METRIC, Target
from sae_lens_ext.circuits.nodes import site_effects
from sae_lens_ext.circuits.table import Columns, SiteTable

Array = numpy.ndarray


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the nodes of one site, or the tokens, give to some targets.

    Attributes:
        source: name of the site, or ``TOKENS``.
        targets: numbers of the targets.
        table: the features and errors of the site, with a row for every target; None
            for tokens.
        tokens: what each token gives, with a row for every target; None for others.
    """

    source: str
    targets: Array
    table: SiteTable | None = None
    tokens: Float[Tensor, "targets pos"] | None = None

    def at(self, k: int) -> Columns:
        """What each node at k gives to each target, as in ``SiteTable.at``.

        ``row`` is the number of the target.
        """
        if self.table is not None:
            columns = self.table.at(k)
            return {**columns, "row": self.targets[columns["row"]]}

        assert self.tokens is not None
        values = self.tokens.cpu().numpy()
        row, position = values.nonzero()
        none = numpy.full_like(row, -1)
        return {
            "row": self.targets[row],
            "position": position,
            "feature": none,
            "rank": none,
            "effect": values[row, position],
        }


def contributions(
    analysis: Analysis,
    runs: Runs,
    cuts: Cuts,
    readers: dict[str, SiteReader],
    targets: Sequence[Target],
    batch_size: int,
) -> list[Contributions]:
    """What every node gives to each target.

    Args:
        analysis: the model, the SAEs in it, and the rows.
        runs: its runs, with gradients.
        cuts: runs with the nodes of every site held.
        readers: by name of the site.
        targets: the metric of every row first, and then nodes in the order in which a
            run reaches them.
        batch_size: targets that share a run.
    """
    n_rows = len(analysis.prompts.clean)
    gradients = cuts.metric_gradients()
    parts = _parts(analysis, runs, cuts, gradients, targets[:n_rows], 0)

    for start in range(n_rows, len(targets), batch_size):
        chunk = targets[start : start + batch_size]
        depth = max(
            cuts.depth(target.site, of_error=target.is_error) for target in chunk
        )
        rows = torch.tensor([target.row for target in chunk])
        run = cuts.run(rows, depth)
        outputs, seeds = seeded(run, chunk, readers)
        gradients = gradients_at(run.held, outputs, seeds)
        parts += _parts(analysis, runs, cuts, gradients, chunk, start)
    return parts


def _parts(
    analysis: Analysis,
    runs: Runs,
    cuts: Cuts,
    gradients: dict[str, Float[Tensor, "targets pos d_out"]],
    targets: Sequence[Target],
    start: int,
) -> list[Contributions]:
    """Contributions to targets, by the gradients of what they read.

    Args:
        analysis: the model, the SAEs in it, and the rows.
        runs: its runs.
        cuts: tells which sources come before a target.
        gradients: by name of the source, a row for every target.
        targets: the targets.
        start: the number of the first of them.
    """
    parts = []
    for source, gradient in gradients.items():
        later = [
            number
            for number, target in enumerate(targets)
            if target.site == METRIC
            or cuts.is_upstream(source, target.site, of_error=target.is_error)
        ]
        if not later:
            continue
        rows = torch.tensor([targets[number].row for number in later])
        numbers = numpy.array(later) + start
        gradient = gradient[torch.tensor(later, device=gradient.device)]
        if source == TOKENS:
            tokens = token_effects(analysis, runs, gradient, rows)
            parts.append(Contributions(source, numbers, tokens=tokens))
            continue

        sae = analysis.placed[source].sae
        assert sae is not None
        corrupted = runs.corrupted_codes[source]
        effects = site_effects(
            sae,
            analysis.masks[source][rows.to(analysis.masks[source].device)],
            runs.clean_codes[source].of_rows(rows),
            None if corrupted is None else corrupted.of_rows(rows),
            gradient,
            is_whole=analysis.ks[source] is None,
        )
        parts.append(Contributions(source, numbers, SiteTable.of(effects)))
    return parts


def token_effects(
    analysis: Analysis,
    runs: Runs,
    gradient: Float[Tensor, "targets pos d"],
    rows: Int[Tensor, " targets"],
) -> Float[Tensor, "targets pos"]:
    """What the embedding of each token gives, to first order; zeros at padding.

    Args:
        analysis: the model and the rows.
        runs: its runs.
        gradient: by the embeddings.
        rows: the row of each target.
    """
    assert analysis.embedding is not None
    difference = runs.clean.activations[analysis.embedding]
    wide = torch.promote_types(difference.dtype, torch.float32)
    difference = difference.to(wide)
    if runs.corrupted is not None:
        corrupted = runs.corrupted.activations[analysis.embedding]
        difference = difference - corrupted.to(wide)

    of_rows = difference[rows.to(difference.device)]
    effects = torch.linalg.vecdot(of_rows, gradient.to(of_rows))
    mask = analysis.prompts.clean.mask[rows].to(effects.device)
    return effects.where(mask, 0)
