"""The worlds of a sweep, and the model's logits in each of them.

A world says what replaces the activation at every site. All worlds share the tokens and
everything that happens before the first site.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.hosts import (
    Host,
    Site,
    TokenBatch,
    as_batch,
    capture,
    next_token_logits,
    resume,
)
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.interventions.sweep.activations import SiteActivations
from sae_lens_ext.sae import SAE

# Blocks are skipped only in a model where skipping them was seen to change no logit by
# more than this.
_RESUME_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Bare:
    """The model as it stands: activations are left alone."""


@dataclass(frozen=True)
class MeanAblated:
    """Every site is replaced by its mean activation."""


@dataclass(frozen=True)
class ZeroAblated:
    """Every site is replaced by zeros."""


@dataclass(frozen=True)
class Spliced:
    """Every site is replaced by its reconstruction from ``k`` features per token."""

    k: int


World = Bare | MeanAblated | ZeroAblated | Spliced


class SweptModel:
    """A model whose run over some tokens goes on from its sites, in any world.

    Making one runs the model once, up to the last site. The blocks before the first
    site are not run again, unless skipping them was seen to change the logits.

    Attributes:
        batch_size: rows of the tokens per batch.
        batches: the batches, as slices of rows.
        activations: the bare model's activations by site name.
    """

    def __init__(
        self,
        host: Host,
        tokens: TokenBatch | Int[Tensor, "batch pos"],
        sites: Mapping[str, Site],
        saes: Mapping[str, SAE],
        masks: Mapping[str, Bool[Tensor, "batch pos"]],
        *,
        batch_size: int,
        k: int,
        extrapolate: bool,
    ) -> None:
        """Run the model up to the last site, and encode the activations at the sites.

        Args:
            host: the model.
            tokens: the tokens to run, padded on the right.
            sites: the sites by name.
            saes: the SAE of every site.
            masks: the positions to splice at every site.
            batch_size: rows per batch.
            k: the largest k of any world.
            extrapolate: whether k may exceed the k that an SAE was trained at.
        """
        self.batch_size = batch_size
        starts = range(0, len(tokens), batch_size)
        self.batches = [slice(start, start + batch_size) for start in starts]
        self._host = host
        self._tokens = as_batch(tokens)
        self._sites = sites

        # Blocks before the first site compute the same in every world.
        self._n_skipped = min(site.blocks_before for site in sites.values())
        captured_sites = set(sites.values())
        start_site = None
        if self._n_skipped:
            last_skipped = self._n_skipped - 1
            start_site = host.site(f"blocks.{last_skipped}.hook_resid_post")
            captured_sites.add(start_site)

        captured = self._capture(captured_sites)
        for name, site in sites.items():
            check_activation(name, captured[site], saes[name])
        self._start = None
        if start_site is not None:
            self._start = captured[start_site]

        # Only the activation at the first site does not depend on what other sites are
        # replaced by. Sites are captured in the order in which the model computes them.
        names = {site: name for name, site in sites.items()}
        self._first = next(names[site] for site in captured if site in names)

        self.activations = {
            name: SiteActivations(
                saes[name],
                captured[site],
                masks[name],
                k,
                extrapolate=extrapolate,
            )
            for name, site in sites.items()
        }
        # Tried out, because blocks may depend on more than the stream between them.
        if self._n_skipped and not self._skipping_is_exact():
            self._n_skipped = 0

    def logits(
        self,
        rows: slice,
        worlds: Sequence[World],
        scored: Int[Tensor, " scored"],
    ) -> Float[Tensor, "worlds batch scored d_vocab"]:
        """Next-token logits at the scored positions of some rows, in several worlds.

        All worlds run at once, as the same rows again in one larger batch.
        """
        n_worlds = len(worlds)
        are_all_bare = all(isinstance(world, Bare) for world in worlds)
        start = None
        if self._start is not None:
            start = self._start[rows]
            start = start.repeat(n_worlds, 1, 1)

        with ExitStack() as stack:
            for name, site in self._sites.items():
                replace = partial(self._replace_in_worlds, name, rows, worlds)
                is_first = name == self._first
                if is_first and site.is_residual and self._n_skipped:
                    # The activation here is the one that the skipped blocks hand on.
                    x = self.activations[name].x[rows]
                    x = x.repeat(n_worlds, 1, 1)
                    start = replace(x)
                elif not are_all_bare:
                    undo = self._host.attach(site, replace)
                    stack.callback(undo)

            if self._n_skipped and start is not None:
                resumed = resume(self._host, self._n_skipped, start)
                stack.enter_context(resumed)

            tokens = self._tokens[rows]
            tokens = tokens.repeated(n_worlds)
            logits = next_token_logits(self._host, tokens, scored)
        return logits.unflatten(0, (n_worlds, -1))

    def _capture(self, sites: set[Site]) -> dict[Site, Tensor]:
        """The activations at ``sites``, in the order the model computes them in."""
        parts = []
        for rows in self.batches:
            tokens = self._tokens[rows]
            part = capture(self._host, tokens, sites)
            parts.append(part)

        activations = {}
        for site in parts[0]:
            activations[site] = torch.cat([part[site] for part in parts])
        return activations

    def _replace_in_worlds(
        self,
        name: str,
        rows: slice,
        worlds: Sequence[World],
        x: Tensor,
    ) -> Tensor:
        """The activation at one site in all worlds, stacked along the batch."""
        parts = x.chunk(len(worlds))
        replaced = [
            self._replace(name, rows, world, part)
            for world, part in zip(worlds, parts, strict=True)
        ]
        return torch.cat(replaced)

    def _replace(
        self,
        name: str,
        rows: slice,
        world: World,
        x: Tensor,
    ) -> Tensor:
        """The activation to put in the place of ``x`` at one site in one world."""
        site = self.activations[name]
        mask = site.mask[rows]
        mask = mask.unsqueeze(-1)
        match world:
            case Bare():
                return x
            case ZeroAblated():
                return x.where(~mask, 0)
            case MeanAblated():
                mean = site.mean.to(x.dtype)
                return mean.where(mask, x)
            case Spliced(k):
                # What reaches a later site depends on the replacement at the earlier
                # ones, so it is encoded again.
                if name == self._first:
                    code = site.code[rows]
                    code = code.prefix(k)
                else:
                    masked = x.where(mask, 0)
                    code = site.encode(masked, k)
                recons = site.sae.decode(code)
                return recons.to(x).where(mask, x)

    def _skipping_is_exact(self) -> bool:
        """Whether the last logits of the first row are the same in a whole run."""
        row = slice(0, 1)
        n_positions = int(self._tokens.lengths[0])
        # The last position depends on all the others.
        last = torch.tensor([n_positions - 1])
        (from_sites,) = self.logits(row, [Bare()], last)
        whole = next_token_logits(self._host, self._tokens[row], last)

        difference = whole - from_sites
        return bool(difference.abs().max() <= _RESUME_TOLERANCE)
