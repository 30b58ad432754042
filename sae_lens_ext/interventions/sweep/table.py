"""The table of a sweep: a model's predictions with SAEs spliced in, at every k.

1. Run the tokens up to the last site once and keep the activations there.
2. Encode them once at the largest k; every smaller k is a prefix. Fidelity (FVU, L0) is
   measured here.
3. For every k, and for the three ends (bare, mean-ablated, zero-ablated), run only the
   blocks after the first site, and unembed only the positions that are scored.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, InvalidK, NonFinite
from sae_lens_ext.hosts import by_position, host_for, token_rows
from sae_lens_ext.interventions.positions import Positions, SplicedPositions
from sae_lens_ext.interventions.sites import Placement, SAEs, placements
from sae_lens_ext.interventions.sweep.scores import BareScores, rows_that_fit
from sae_lens_ext.interventions.sweep.swept_model import SweptModel
from sae_lens_ext.interventions.sweep.targets import Score, Targets
from sae_lens_ext.interventions.sweep.worlds import (
    Bare,
    MeanAblated,
    Spliced,
    World,
    ZeroAblated,
)

# Nats per token; ends that are closer than this differ by rounding, and a share of
# their distance would be noise.
_SMALLEST_DISTANCE = 1e-4


def sweep_k(
    model: Any,
    tokens: Any,
    sae: SAEs,
    ks: Iterable[int | None] | None = None,
    *,
    positions: Positions = None,
    score: Score = None,
    extrapolate: bool = False,
    batch_size: int | None = None,
    memory_mb: int = 256,
    progress: bool = True,
) -> Any:
    """Measure the SAE's reconstruction, and the model's predictions, at every k.

    ===================== ==============================================================
    column                meaning
    ===================== ==============================================================
    ``k``                 features kept per token
    ``l0``                features active per token: less than k where pre-activations
                          ran out of positive ones
    ``fvu``               fraction of variance unexplained at the site, over the
                          positions that are spliced
    ``ce``                next-token cross-entropy with the reconstruction spliced in,
                          nats
    ``ce_recovered``      (ce_mean - ce) / (ce_mean - ce_bare): 1 is the bare model, 0
                          the site replaced by its mean; NaN where ablating the site
                          changes less than 0.0001 nats
    ``ce_recovered_zero`` the same with the site replaced by zeros as the lower end, as
                          the literature has it; it flatters
    ``kl``                KL divergence from the bare model's next-token distribution to
                          the spliced one's, nats
    ===================== ==============================================================

    The ends are in ``frame.attrs``: ``ce_bare``, ``ce_mean``, ``ce_zero``; with them
    ``sites``, ``n_spliced`` and ``n_scored`` (tokens), and, because a few tokens with
    enormous norms can dominate the error, ``n_outliers`` (norm above 3 times the
    median) and ``fvu_without_outliers`` (by k). With several sites, ``l0`` and ``fvu``
    are means over them, measured on the bare model's activations, and ``fvu_by_site``
    has the value of each. The bare model is the model as it stands: splices and hooks
    that are active take part.

    Args:
        model: as in ``splice``.
        tokens: tokens in any form that ``token_batch`` takes: texts of any lengths,
            lists of ids, a tokenizer's output. Padding is not spliced, counted or
            scored. Shares are of what the site is worth on these tokens, so a sentence
            is too little: give thousands of tokens.
        sae: as in ``splice``.
        ks: values of k; None among them is the SAE's own: the k that it was trained at,
            or every active feature, which has no number in the table. Instead of a
            list, None means 1, 2, 4, ... up to the k that the SAE was trained at.
        positions: where to splice, as in ``splice``.
        score: the positions of the text whose predictions to score, among those that
            have a next token: a slice of them, indices from 0 on, or a boolean mask
            ``[pos]``; None means all. Predictions of a special token are never scored.
            The unembedding costs more than all blocks in a small model, so scoring
            every fourth position saves most of the time.
        extrapolate: allow a k above what the SAE was trained at.
        batch_size: rows of ``tokens`` per run; None means as many as ``memory_mb``
            allows.
        memory_mb: bound on the logits of one run, in MiB. Memory that ``batch_size``
            rows leave is used to run several values of k at once, as rows of one batch.
        progress: whether to show a progress bar.

    Returns:
        A pandas DataFrame with one row per k.

    Raises:
        InvalidArgument: tokens that are not ``[batch, pos]``, or nothing left to splice
            or to score.
        InvalidK, UnknownSite, ShapeMismatch, NonFinite: as in ``splice``.
    """
    # Here, so that a missing package is reported before any work is done.
    require("pandas", "sweep_k")
    host = host_for(model).plain()
    placed = placements(host, sae)
    where = {
        name: SplicedPositions.of(host, place.sae, positions)
        for name, place in placed.items()
    }
    ks = _checked_ks(ks, placed, extrapolate)

    memory_mb = arguments.positive_int(memory_mb, "memory_mb")
    if batch_size is not None:
        batch_size = arguments.positive_int(batch_size, "batch_size")

    batch = token_rows(host, tokens)
    # From here on, columns are positions of the text.
    tokens = batch.right_padded()
    targets = Targets.of(host, tokens, score)
    masks = {
        name: by_position(spliced.mask_of(batch), batch.mask)
        for name, spliced in where.items()
    }
    has_spliced = all(mask.any() for mask in masks.values())
    if not has_spliced:
        raise InvalidArgument("nothing to splice: positions chooses no token of these")

    with torch.no_grad():
        n_rows = rows_that_fit(host, targets.positions, memory_mb)
        if batch_size is None:
            batch_size = n_rows
        batch_size = min(batch_size, len(tokens))
        swept = SweptModel(
            host,
            tokens,
            placed,
            masks,
            batch_size=batch_size,
            ks=ks,
            extrapolate=extrapolate,
        )
        scores = _score_worlds(swept, ks, targets, n_rows, progress)
        return _table(swept, ks, targets, scores)


@dataclass(frozen=True)
class _Scores:
    """Means over the scored tokens, in nats, by world."""

    ce: dict[World, float]
    kl: dict[World, float]

    def recovered(self, world: World, end: World) -> float:
        """How far a world is on the way from an end, 0, to the bare model, 1."""
        end_ce = self.ce[end]
        distance = end_ce - self.ce[Bare()]
        if abs(distance) <= _SMALLEST_DISTANCE:
            return float("nan")

        gain = end_ce - self.ce[world]
        return gain / distance


def _score_worlds(
    swept: SweptModel,
    ks: Sequence[int | None],
    targets: Targets,
    n_rows: int,
    progress: bool,
) -> _Scores:
    """Score every world, as many at once as ``n_rows`` rows of logits allow."""
    spliced = [Spliced(k) for k in ks]
    worlds: list[World] = [MeanAblated(), ZeroAblated(), *spliced]
    ce = dict.fromkeys([Bare(), *worlds], 0.0)
    kl = dict.fromkeys(worlds, 0.0)

    # Rows that a batch leaves of the memory hold the same rows in other worlds.
    n_at_once = max(1, n_rows // swept.batch_size)
    starts = range(0, len(worlds), n_at_once)
    groups = [worlds[start : start + n_at_once] for start in starts]

    tqdm = require("tqdm.auto", "Showing progress").tqdm
    n_worlds = 1 + len(worlds)
    n_runs = len(swept.batches) * n_worlds
    with tqdm(total=n_runs, desc="sweep", unit="run", disable=not progress) as bar:
        for rows in swept.batches:
            # The bare model's logits are held once; the other worlds compare with them.
            (logits,) = swept.logits(rows, [Bare()], targets.positions)
            tokens = targets.tokens[rows]
            counts = targets.counts[rows]
            bare = BareScores(logits, tokens, counts)
            ce[Bare()] += bare.ce
            bar.update()

            for group in groups:
                logits_by_world = swept.logits(rows, group, targets.positions)
                for world, logits in zip(group, logits_by_world, strict=True):
                    world_ce, world_kl = bare.compare(logits)
                    ce[world] += world_ce
                    kl[world] += world_kl
                bar.update(len(group))

    n_scored = targets.n_scored
    mean_ce = {world: total / n_scored for world, total in ce.items()}
    mean_kl = {world: total / n_scored for world, total in kl.items()}
    for world, number in mean_ce.items():
        if not math.isfinite(number):
            raise NonFinite(
                f"the cross-entropy of {_described(world)} is {number}: the logits "
                "hold NaN or infinity; check the weights and the dtype of the model "
                "and of the SAE"
            )
    return _Scores(mean_ce, mean_kl)


def _described(world: World) -> str:
    match world:
        case Bare():
            return "the bare model"
        case MeanAblated():
            return "the model with the site replaced by its mean"
        case ZeroAblated():
            return "the model with the site replaced by zeros"
        case Spliced(k):
            return f"the spliced model at k={k}"


def _table(
    swept: SweptModel,
    ks: Sequence[int | None],
    targets: Targets,
    scores: _Scores,
) -> Any:
    """The DataFrame of ``sweep_k``."""
    rows = []
    fvu_without_outliers = {}
    fvu_by_site = {}
    for k in ks:
        # Measured on the bare model's activations, so no other site has a part in it.
        fidelity = {name: site.fidelity(k) for name, site in swept.activations.items()}
        l0 = mean(site.l0 for site in fidelity.values())
        fvu_by_site[k] = {name: site.fvu for name, site in fidelity.items()}
        fvu = mean(fvu_by_site[k].values())
        inlier_fvus = [site.fvu_without_outliers for site in fidelity.values()]
        fvu_without_outliers[k] = mean(inlier_fvus)

        world = Spliced(k)
        row = {
            "k": k,
            "l0": l0,
            "fvu": fvu,
            "ce": scores.ce[world],
            "ce_recovered": scores.recovered(world, MeanAblated()),
            "ce_recovered_zero": scores.recovered(world, ZeroAblated()),
            "kl": scores.kl[world],
        }
        rows.append(row)

    sites = swept.activations.values()
    n_spliced = sum(site.n_spliced for site in sites)
    n_outliers = sum(site.n_outliers for site in sites)
    pandas = require("pandas", "sweep_k")
    frame = pandas.DataFrame(rows)
    # Integers also where one is missing.
    if None in ks:
        frame["k"] = frame["k"].astype("Int64")
    # In attrs, because these are facts of the sweep and not of one k.
    frame.attrs = {
        "ce_bare": scores.ce[Bare()],
        "ce_mean": scores.ce[MeanAblated()],
        "ce_zero": scores.ce[ZeroAblated()],
        "sites": list(swept.activations),
        "n_scored": targets.n_scored,
        "n_spliced": n_spliced,
        "n_outliers": n_outliers,
        "fvu_without_outliers": fvu_without_outliers,
        "fvu_by_site": fvu_by_site,
    }
    return frame


def _checked_ks(
    ks: Iterable[int | None] | None,
    placed: Mapping[str, Placement],
    extrapolate: bool,
) -> list[int | None]:
    """The values of k to sweep over, each once; by default the powers of two."""
    configs = [place.sae.config for place in placed.values() if place.sae is not None]
    if ks is None:
        largest = min(config.trained_k for config in configs)
        n_powers = largest.bit_length()
        powers = {2**power for power in range(n_powers)}
        return sorted(powers | {largest})

    try:
        ks = list(ks)
    except TypeError:
        raise InvalidK(
            f"ks must be a list of values of k; got {described(ks)}"
        ) from None
    if not ks:
        raise InvalidK("a sweep needs at least one k; got none")

    checked = []
    for k in ks:
        numbers = {config.checked_k(k, extrapolate=extrapolate) for config in configs}
        # None, where the SAEs do not share one default.
        checked.append(numbers.pop() if len(numbers) == 1 else None)
    # Each once, in the order in which they came.
    return list(dict.fromkeys(checked))
