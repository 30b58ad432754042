"""How a model does with an SAE spliced in, at every k.

1. Run the tokens up to the last site once and keep the activations there.
2. Encode them once at the largest k; every smaller k is a prefix. Fidelity (FVU, L0) is measured here.
3. For every k, and for the three ends (bare, mean-ablated, zero-ablated), run only the blocks after the first site, and unembed
   only the positions that are scored.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext._arguments import as_integer
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, InvalidK
from sae_lens_ext.hosts import (
    Host,
    Site,
    capture,
    host_for,
    next_token_logits,
    resume,
    token_rows,
)
from sae_lens_ext.interventions.positions import (
    Positions,
    SplicedPositions,
    checked_slice,
)
from sae_lens_ext.interventions.sites import checked_sites, saes_by_site
from sae_lens_ext.interventions.sweep.scores import BareScores, rows_that_fit
from sae_lens_ext.sae import FVU, SAE, SparseCode

# A token this many times the median norm is an outlier: a handful of them can carry most of the squared error.
_OUTLIER_NORM = 3.0
# Nats per token; ends that are closer than this differ by rounding, and a share of their distance would be noise.
_SMALLEST_DISTANCE = 1e-4
# Blocks are skipped only in a model where skipping them was seen to change no logit by more than this.
_RESUME_TOLERANCE = 1e-3


def sweep_k(
    model: Any,
    tokens: Any,
    sae: SAE | Mapping[str, SAE],
    ks: Iterable[int] | None = None,
    *,
    positions: Positions = None,
    score: slice | Tensor | Sequence[int] | None = None,
    extrapolate: bool = False,
    batch_size: int | None = None,
    memory_mb: int = 256,
    progress: bool = True,
) -> Any:
    """A pandas DataFrame with one row per k: how well the SAE reconstructs, and how well the model does with it spliced in.

    ========================= ============================================================================================
    column                    meaning
    ========================= ============================================================================================
    ``k``                     features kept per token
    ``l0``                    features active per token: less than k where pre-activations ran out of positive ones
    ``fvu``                   fraction of variance unexplained at the site, over the positions that are spliced
    ``ce``                    next-token cross-entropy with the reconstruction spliced in, nats
    ``ce_recovered``          (ce_mean - ce) / (ce_mean - ce_bare): 1 is the bare model, 0 the site replaced by its mean; NaN
                              where ablating the site changes less than 0.0001 nats
    ``ce_recovered_zero``     the same with the site replaced by zeros as the lower end, as the literature has it; it flatters
    ``kl``                    KL divergence from the bare model's next-token distribution to the spliced one's, nats
    ========================= ============================================================================================

    The ends are in ``frame.attrs``: ``ce_bare``, ``ce_mean``, ``ce_zero``; with them ``sites``, ``n_spliced`` and ``n_scored``
    (tokens), and, because a few tokens with enormous norms can dominate the error, ``n_outliers`` (norm above 3 times the
    median) and ``fvu_without_outliers`` (by k). With several sites, ``l0`` and ``fvu`` are means over them, measured on the
    bare model's activations, and ``fvu_by_site`` has each one's. The bare model is the model as it stands: splices and hooks
    that are active take part.

    Args:
        model: as in ``splice``.
        tokens: token ids, ``[batch, pos]``, without padding; or a text, or texts of one length, which the model tokenises.
            Shares are of what the site is worth on these tokens, so a sentence is too little: give thousands of tokens.
        sae: as in ``splice``.
        ks: values of k; None means 1, 2, 4, ... up to what the SAE was trained at.
        positions: where to splice, as in ``splice``.
        score: which positions' predictions to score, among those that have a next token: a slice of them, indices from 0 on, or a
            boolean mask ``[pos]``; None means every one.
            Predictions of a special token are never scored. The unembedding costs more than all blocks in a small model, so
            scoring every fourth position saves most of the time.
        extrapolate: allow a k above what the SAE was trained at.
        batch_size: rows of ``tokens`` per run; None means as many as ``memory_mb`` allows.
        memory_mb: bound on the logits of one run. What is left of it with ``batch_size`` rows is used to run several values of k
            at once, as rows of one batch.
        progress: whether to show a progress bar.

    Raises:
        InvalidArgument: tokens that are not ``[batch, pos]``, or nothing left to splice or to score.
        InvalidK, UnknownSite, ShapeMismatch, NonFinite: as in ``splice``.
    """
    pandas, tqdm = (
        require("pandas", "sweep_k"),
        require("tqdm.auto", "Showing progress").tqdm,
    )
    host, saes = host_for(model).plain(), saes_by_site(sae)
    sites = checked_sites(host, saes)
    where = {
        name: SplicedPositions.of(host, one, positions) for name, one in saes.items()
    }
    ks = _checked_ks(ks, saes, extrapolate)
    tokens = token_rows(host, tokens)
    if tokens.shape[1] < 2:
        raise InvalidArgument(
            "a single position has no next token to predict; give rows of at least two positions"
        )
    for name, size in (
        ("batch_size", 1 if batch_size is None else batch_size),
        ("memory_mb", memory_mb),
    ):
        if (as_integer(size) or 0) < 1:
            raise InvalidArgument(
                f"{name} must be a whole number of at least 1; got {size!r}"
            )
    scored = _scored_positions(tokens, score)
    targets = tokens[:, scored + 1]
    counts = ~torch.isin(
        targets,
        torch.tensor(
            sorted(host.special_token_ids()), dtype=targets.dtype, device=targets.device
        ),
    )
    if not counts.any():
        raise InvalidArgument(
            "nothing to score: every next token at the scored positions is a special token"
        )
    masks = {name: one.mask_of(tokens) for name, one in where.items()}
    if not all(mask.any() for mask in masks.values()):
        raise InvalidArgument("nothing to splice: positions chooses no token of these")
    with torch.no_grad():
        n_rows = rows_that_fit(host, scored, memory_mb)
        runs = Runs(
            host,
            tokens,
            sites,
            saes,
            masks,
            min(batch_size or n_rows, len(tokens)),
            max(ks),
            extrapolate,
        )
        conditions: list[str | int] = ["mean", "zero", *ks]
        n_worlds = max(1, n_rows // runs.batch_size)
        ce = dict.fromkeys(["bare", *conditions], 0.0)
        kl = dict.fromkeys(conditions, 0.0)
        with tqdm(
            total=len(runs.batches) * (1 + len(conditions)),
            desc="sweep",
            unit="run",
            disable=not progress,
        ) as bar:
            for rows in runs.batches:
                bare = BareScores(
                    runs.logits(rows, [None], scored)[0], targets[rows], counts[rows]
                )
                ce["bare"] += bare.ce
                bar.update()
                for at_once in (
                    conditions[start : start + n_worlds]
                    for start in range(0, len(conditions), n_worlds)
                ):
                    for condition, logits in zip(
                        at_once, runs.logits(rows, at_once, scored), strict=True
                    ):
                        loss, divergence = bare.compare(logits)
                        ce[condition] += loss
                        kl[condition] += divergence
                    bar.update(len(at_once))
        fidelity = {k: runs.fidelity(k) for k in ks}
    n_scored = int(counts.sum())
    ce = {condition: total / n_scored for condition, total in ce.items()}
    rows = [
        {
            "k": k,
            "l0": fidelity[k].l0,
            "fvu": fidelity[k].fvu,
            "ce": ce[k],
            "ce_recovered": _recovered(ce["bare"], ce[k], ce["mean"]),
            "ce_recovered_zero": _recovered(ce["bare"], ce[k], ce["zero"]),
            "kl": kl[k] / n_scored,
        }
        for k in ks
    ]
    frame = pandas.DataFrame(rows)
    frame.attrs = {
        **{f"ce_{end}": ce[end] for end in ("bare", "mean", "zero")},
        "sites": list(sites),
        "n_scored": n_scored,
        "n_spliced": runs.n_spliced,
        "n_outliers": runs.n_outliers,
        "fvu_without_outliers": {k: fidelity[k].fvu_without_outliers for k in ks},
        "fvu_by_site": {k: fidelity[k].fvu_by_site for k in ks},
    }
    return frame


def _recovered(bare: float, spliced: float, ablated: float) -> float:
    return (
        (ablated - spliced) / (ablated - bare)
        if abs(ablated - bare) > _SMALLEST_DISTANCE
        else float("nan")
    )


@dataclass(frozen=True)
class _Fidelity:
    l0: float
    fvu: float
    fvu_without_outliers: float
    fvu_by_site: dict[str, float]


class Runs:
    """The tokens' activations at every site, their codes, and runs of the model that start from them."""

    def __init__(
        self,
        host: Host,
        tokens: Int[Tensor, "batch pos"],
        sites: Mapping[str, Site],
        saes: Mapping[str, SAE],
        masks: Mapping[str, Bool[Tensor, "batch pos"]],
        batch_size: int,
        k: int,
        extrapolate: bool,
    ) -> None:
        """Run the model up to the last site, and encode what is there."""
        self.batch_size, self._masks = batch_size, masks
        self._host, self._tokens, self._sites, self._saes, self._extrapolate = (
            host,
            tokens,
            sites,
            saes,
            extrapolate,
        )
        self.batches = [
            slice(start, start + batch_size)
            for start in range(0, len(tokens), batch_size)
        ]
        self._n_skipped = min(site.blocks_before for site in sites.values())
        start_site = (
            host.site(f"blocks.{self._n_skipped - 1}.hook_resid_post")
            if self._n_skipped
            else None
        )
        wanted = {*sites.values(), *([start_site] if start_site else [])}
        parts = [capture(host, tokens[rows], wanted) for rows in self.batches]
        at = {site: torch.cat([part[site] for part in parts]) for site in parts[0]}
        self._start = at[start_site] if start_site else None
        self._activations = {name: at[site] for name, site in sites.items()}
        # Only what happens at the first site does not depend on what is spliced elsewhere.
        self._first = next(
            name for site in at for name, other in sites.items() if other == site
        )
        self._codes = {
            name: self._encode(name, x.where(self._masks[name].unsqueeze(-1), 0), k)
            for name, x in self._activations.items()
        }
        self._means = {
            name: x[self._masks[name]].mean(0) for name, x in self._activations.items()
        }
        self.n_spliced = int(sum(mask.sum() for mask in self._masks.values()))
        self._inliers = {name: self._inlier_mask(name) for name in sites}
        self.n_outliers = self.n_spliced - int(
            sum(mask.sum() for mask in self._inliers.values())
        )
        if self._n_skipped and not self._skipping_is_exact():
            self._n_skipped = 0

    def logits(
        self,
        rows: slice,
        conditions: Sequence[str | int | None],
        scored: Int[Tensor, " scored"],
    ) -> Float[Tensor, "worlds batch scored d_vocab"]:
        """Logits with every site replaced: by "mean", by "zero", by the reconstruction at a k, or not at all (None).

        All conditions run at once, each a world of its own: the same rows again, in one larger batch.
        """

        def replaced(name: str, x: Tensor) -> Tensor:
            worlds = x.chunk(len(conditions))
            return torch.cat(
                [
                    self._replaced(name, world, rows, condition)
                    for world, condition in zip(worlds, conditions, strict=True)
                ]
            )

        with ExitStack() as stack:
            start = (
                None
                if self._start is None
                else self._start[rows].repeat(len(conditions), 1, 1)
            )
            for name, site in self._sites.items():
                if name == self._first and site.is_residual and self._n_skipped:
                    # Here the activation at the site is what the skipped blocks hand on.
                    start = replaced(
                        name,
                        self._activations[name][rows].repeat(len(conditions), 1, 1),
                    )
                elif any(condition is not None for condition in conditions):
                    stack.callback(
                        self._host.attach(site, lambda x, name=name: replaced(name, x))
                    )
            if self._n_skipped and start is not None:
                stack.enter_context(resume(self._host, self._n_skipped, start))
            logits = next_token_logits(
                self._host, self._tokens[rows].repeat(len(conditions), 1), scored
            )
            return logits.unflatten(0, (len(conditions), -1))

    def fidelity(self, k: int) -> _Fidelity:
        """L0 and FVU at this k on the bare model's activations; means over sites."""
        active, by_site, inliers_only = [], {}, []
        for name, sae in self._saes.items():
            code = self._codes[name].prefix(k)
            recons = sae.decode(code)
            everything, inliers = FVU(), FVU()
            everything.update(
                self._activations[name][self._masks[name]], recons[self._masks[name]]
            )
            inliers.update(
                self._activations[name][self._inliers[name]],
                recons[self._inliers[name]],
            )
            active.append(code.l0()[self._masks[name]].double().mean().item())
            by_site[name] = everything.value()
            inliers_only.append(inliers.value())
        return _Fidelity(
            mean(active), mean(by_site.values()), mean(inliers_only), by_site
        )

    def _replaced(
        self, name: str, x: Tensor, rows: slice, condition: str | int | None
    ) -> Tensor:
        if condition is None:
            return x
        mask = self._masks[name][rows].unsqueeze(-1)
        if condition == "zero":
            return x.where(~mask, 0)
        if condition == "mean":
            return self._means[name].to(x.dtype).where(mask, x)
        assert isinstance(condition, int)
        is_known = name == self._first
        code = (
            self._codes[name][rows].prefix(condition)
            if is_known
            else self._encode(name, x.where(mask, 0), condition)
        )
        return self._saes[name].decode(code).to(x).where(mask, x)

    def _encode(self, name: str, x: Tensor, k: int) -> SparseCode:
        sae = self._saes[name]
        return sae.encode(x.to(sae.W_enc.device), k, extrapolate=self._extrapolate).to(
            x.device
        )

    def _inlier_mask(self, name: str) -> Bool[Tensor, "batch pos"]:
        norms = self._activations[name].float().norm(dim=-1)
        return self._masks[name] & (
            norms <= _OUTLIER_NORM * norms[self._masks[name]].median()
        )

    def _skipping_is_exact(self) -> bool:
        row, last = slice(0, 1), torch.tensor([self._tokens.shape[1] - 1])
        (skipped,) = self.logits(row, [None], last)
        return bool(
            (next_token_logits(self._host, self._tokens[row], last) - skipped)
            .abs()
            .max()
            <= _RESUME_TOLERANCE
        )


def _checked_ks(
    ks: Iterable[int] | None, saes: Mapping[str, SAE], extrapolate: bool
) -> list[int]:
    smallest = min(sae.config.k for sae in saes.values())
    if ks is None:
        return sorted(
            {2**power for power in range(smallest.bit_length()) if 2**power <= smallest}
            | {smallest}
        )
    try:
        ks = list(ks)
    except TypeError:
        raise InvalidK(f"ks must be a list of values of k; got {ks!r}") from None
    if not ks:
        raise InvalidK("a sweep needs at least one k; got none")
    for sae in saes.values():
        ks = [sae.config.checked_k(k, extrapolate=extrapolate) for k in ks]
    return list(dict.fromkeys(ks))


def _scored_positions(
    tokens: Tensor, score: slice | Tensor | Sequence[int] | None
) -> Int[Tensor, " scored"]:
    last = tokens.shape[1] - 2
    predicting = torch.arange(last + 1, device=tokens.device)
    if score is None:
        return predicting
    if isinstance(score, slice):
        chosen = predicting[checked_slice(score, "score")]
    else:
        try:
            chosen = torch.as_tensor(score, device=tokens.device)
        except (TypeError, ValueError, RuntimeError):
            raise InvalidArgument(
                f"score must be a slice, positions, or a boolean mask; got {score!r}"
            ) from None
        if (
            chosen.dtype == torch.bool
            and chosen.ndim == 1
            and len(chosen) in (last + 1, last + 2)
        ):
            chosen = predicting[chosen[: last + 1]]
        elif (
            chosen.dtype == torch.bool
            or chosen.is_floating_point()
            or chosen.ndim != 1
            or not bool(((chosen >= 0) & (chosen <= last)).all())
        ):
            raise InvalidArgument(
                f"score must hold positions from 0 to {last}, which have a next token; got {score}"
            )
    if not len(chosen):
        raise InvalidArgument(
            f"nothing to score: {score} chooses none of the {len(predicting)} positions that have a next token"
        )
    return chosen.long()
