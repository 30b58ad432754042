"""Reconstruction errors measured by what they do to the model's predictions.

The squared error of a reconstruction counts all directions alike, and the model does
not. After block 9 of Gemma 3 270M, more than half of the variance lies along one
direction, to which the predictions are over a hundred times less sensitive than on
average: an SAE that minimises the squared error spends features on what the model
hardly reads.

An error e at one token changes the next-token distributions, there and after it, by a
KL divergence of e F e^T / 2 to second order, with F the Fisher information of these
distributions with respect to the activation. ``fisher_metric`` estimates the mean of F
over tokens, as a metric to train with.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument, NonFinite, UnknownSite
from sae_lens_ext.hosts import TokenBatch, by_position
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.training.cleaning import largest_norm, shrink_outliers
from sae_lens_ext.training.collecting import Collector
from sae_lens_ext.training.metric import ErrorMetric


def fisher_metric(
    model: Any,
    tokens: Any,
    hook_name: str,
    *,
    share: float = 0.5,
    positions: Positions = None,
    batch_size: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> ErrorMetric:
    """A metric that counts errors by what they do to the model's predictions.

    It is G = (1 - share) I + share c F, with F the Fisher information and c such that
    the activations have the same variance by F as by I. F alone, estimated from few
    tokens, would count some directions as nothing.

    F is the mean of g g^T, with g the gradient by the activation at one token of the
    log-probability of tokens that are drawn from the model's own distributions there
    and after it. Some ten times ``d_model`` tokens are enough. They cost a forward and
    a backward pass of the model each.

    Args:
        model: as in ``splice``.
        tokens: rows of token ids (see ``pack``), or tokens in any other form that
            ``token_batch`` takes: some of the text that the SAE is trained on.
        hook_name: the site.
        share: the share of F, above 0 and below 1.
        positions: the tokens whose activations count, as in ``splice``; by default
            those that are not special.
        batch_size: rows per pass.
        seed: of the drawn tokens.
        progress: whether to show a progress bar.

    Raises:
        UnknownSite: the model has no such site, or reaches it several times in a run.
        InvalidArgument: no token is left, the predictions do not depend on the site, or
            an option is invalid.
        NonFinite: an activation, or a gradient, holds NaN or infinity.

    Source: Amari 1998 (Natural Gradient Works Efficiently in Learning), for the metric;
        drawn tokens make it the Fisher information itself and not the empirical one
        (Kunstner et al. 2019).
    """
    share = arguments.finite(share, "share", above=0, below=1)
    arguments.positive_int(batch_size, "batch_size")
    seed = arguments.integer(seed, "seed", at_least=0)

    values = []
    gradients = []
    # Also where the user is in inference mode.
    with torch.inference_mode(False):
        rows = _Gradients(model, hook_name, positions, seed)
        for x, gradient in rows.of(tokens, batch_size, progress):
            values.append(x)
            gradients.append(gradient)
    if not values:
        raise InvalidArgument("there are no tokens to take the metric from")

    x = torch.cat(values)
    gradient = torch.cat(gradients)
    if not len(x):
        raise InvalidArgument(
            "no token of these counts: special tokens are left out, or positions "
            "chooses none; give rows of text"
        )
    if not (torch.isfinite(x).all() and torch.isfinite(gradient).all()):
        raise NonFinite(
            f"an activation at {hook_name}, or the gradient by it, is NaN or infinite; "
            "check the model's weights and dtype"
        )
    # One outlier may have a hundred times the square of all others.
    x, _ = shrink_outliers(x, largest_norm(x))
    centred = x - x.mean(0)
    fisher = gradient.T @ gradient / len(gradient)
    by_fisher = (centred @ fisher).mul_(centred).sum()
    if not by_fisher > 0:
        raise InvalidArgument(
            f"the model's predictions do not depend on {hook_name}, or all activations "
            "there are alike"
        )
    factor = share * centred.square().sum() / by_fisher
    identity = torch.eye(x.shape[1], dtype=torch.float64)
    about = f"Fisher information with a share of {share:g}, from {len(x)} tokens"
    matrix = (1 - share) * identity + factor * fisher
    return ErrorMetric(matrix, x.mean(0), hook_name, about)


class _Gradients:
    """Activations at one site, and gradients by them, in float64 on the CPU."""

    def __init__(
        self, model: Any, hook_name: str, positions: Positions, seed: int
    ) -> None:
        self._collector = Collector(model, hook_name, positions)
        self._host = self._collector.host
        self._site = self._host.site(hook_name)
        self._seed = seed

    def of(
        self, tokens: Any, batch_size: int, progress: bool
    ) -> Iterator[tuple[Float[Tensor, "token d"], Float[Tensor, "token d"]]]:
        """Those of the tokens that count, some rows at a time."""
        tqdm = require("tqdm.auto", "Showing progress").tqdm
        batch = self._collector.batch(tokens)
        mask = self._collector.mask_of(batch)
        generator = torch.Generator().manual_seed(self._seed)
        bar = tqdm(
            total=batch.n_tokens,
            desc="Fisher information",
            unit="token",
            disable=not progress,
        )
        with bar:
            for start in range(0, len(batch), batch_size):
                part = slice(start, start + batch_size)
                rows = batch[part]
                row_mask = by_position(mask[part], rows.mask)
                yield self._of_rows(rows.right_padded(), row_mask, generator)
                bar.update(rows.n_tokens)

    def _of_rows(
        self,
        rows: TokenBatch,
        mask: Bool[Tensor, "batch pos"],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        leaves = []

        def probe(x: Tensor) -> Tensor:
            check_activation(self._site.name, x)
            leaf = x.detach().clone().requires_grad_()
            leaves.append(leaf)
            # Another copy, because a later module may write into the tensor.
            return leaf.clone()

        undo = self._host.attach(self._site, probe)
        try:
            with torch.enable_grad():
                logits = self._host.logits(rows)
        finally:
            undo()

        if len(leaves) != 1:
            raise UnknownSite(
                f"{self._site.name} fires {len(leaves)} times in one run of this "
                "model, and a metric is of an activation that is computed once"
            )
        (leaf,) = leaves
        gradient = torch.zeros_like(leaf)
        if logits.requires_grad:
            scores = _scores(logits.detach(), rows.mask, generator)
            (found,) = torch.autograd.grad(logits, leaf, scores, allow_unused=True)
            gradient = gradient if found is None else found
        mask = mask.to(leaf.device)
        return leaf.detach()[mask].double().cpu(), gradient[mask].double().cpu()


def _scores(
    logits: Float[Tensor, "batch pos d_vocab"],
    is_text: Bool[Tensor, "batch pos"],
    generator: torch.Generator,
) -> Float[Tensor, "batch pos d_vocab"]:
    """The gradient, by the logits, of the log-probability of tokens drawn from them."""
    scores = logits.float().softmax(dim=-1)
    # Drawn by inverting the cumulative sum: the CPU's random numbers give the same
    # tokens on any device.
    uniform = torch.rand(scores.shape[:2], generator=generator).to(scores)
    cumulative = scores.cumsum(dim=-1)
    drawn = torch.searchsorted(
        cumulative, (uniform * cumulative[..., -1]).unsqueeze(-1)
    ).clamp_max(scores.shape[-1] - 1)
    scores = scores.neg_().scatter_add(-1, drawn, torch.ones_like(uniform)[..., None])
    scores[~is_text.to(scores.device)] = 0
    return scores.to(logits.dtype)
