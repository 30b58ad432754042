"""The logits of a model in the worlds of a sweep.

All worlds share the tokens and everything that happens before the first site.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import UnknownSite
from sae_lens_ext.hosts import (
    Host,
    RunRecord,
    Site,
    TokenBatch,
    as_batch,
    capture,
    has_hooks,
    next_token_logits,
    recorded,
    resume,
    skip_blocks,
    unembedding_input,
)
from sae_lens_ext.interventions.sites import Placement, check_order
from sae_lens_ext.interventions.sweep.activations import SiteActivations
from sae_lens_ext.interventions.sweep.worlds import (
    Bare,
    MeanAblated,
    Spliced,
    World,
    ZeroAblated,
)

# Shortcuts are taken only where they were seen to change no token's last hidden states
# by more than this share of their norm.
_TOLERANCE = 1e-3


class SweptModel:
    """A model whose run over some tokens goes on from its sites, in any world.

    Making one runs the model once, up to the last site. For every batch the bare model
    then runs whole, and the other worlds begin at the first site, with what the bare
    run handed on there. They run whole, too, where the bare model was seen to compute
    anything else that way, at any row or position.

    Attributes:
        n_skipped: how many blocks runs of worlds skip; 0 where they run whole.
        batch_size: rows of the tokens per batch.
        batches: the batches, as slices of rows.
        activations: the bare model's activations by site name.
    """

    def __init__(
        self,
        host: Host,
        tokens: TokenBatch | Int[Tensor, "batch pos"],
        placed: Mapping[str, Placement],
        masks: Mapping[str, Bool[Tensor, "batch pos"]],
        *,
        batch_size: int,
        ks: Sequence[int | None],
        extrapolate: bool,
    ) -> None:
        """Run the model up to the last site, and encode the activations at the sites.

        Args:
            host: the model.
            tokens: the tokens to run, padded on the right.
            placed: the SAEs and their sites, by name of the site.
            masks: the positions to splice at every site.
            batch_size: rows per batch.
            ks: the values of k of the worlds.
            extrapolate: whether k may exceed the k that an SAE was trained at.
        """
        self.batch_size = batch_size
        starts = range(0, len(tokens), batch_size)
        self.batches = [slice(start, start + batch_size) for start in starts]
        self._host = host
        self._tokens = as_batch(tokens)
        self._sites = {name: place.site for name, place in placed.items()}
        self._sources = {
            name: place.source
            for name, place in placed.items()
            if place.source is not None
        }

        # Only the activation at the first site does not depend on what other sites are
        # replaced by. Sites are captured in the order in which the model computes them.
        sites = {site for place in placed.values() for site in place.sites}
        captured = self._capture(sites)
        check_order(placed.values(), captured)
        names = {site: name for name, site in self._sites.items()}
        self._first = next(names[site] for site in captured if site in names)
        self.activations = {
            name: SiteActivations.of(place, captured, masks[name], ks, extrapolate)
            for name, place in placed.items()
        }

        # Blocks before the first site compute the same in every world.
        self.n_skipped = min(site.blocks_before for site in sites)
        # What the transcoders read in the run in progress, by name of their output.
        self._read: dict[str, Tensor] = {}
        # A hook may do something else to every row, so that worlds cannot be rows.
        self._can_stack = not has_hooks(host.model)
        self._is_stacking_checked = False
        # Of the batch in progress.
        self._rows: slice | None = None
        self._record = RunRecord()
        self._is_checked = False

    def logits(
        self,
        rows: slice,
        worlds: Sequence[World],
        scored: Int[Tensor, " scored"],
    ) -> Float[Tensor, "worlds batch scored d_vocab"]:
        """Next-token logits at the scored positions of some rows, in several worlds.

        The bare model runs whole. Other worlds run at once, as the same rows again in
        one larger batch, unless the rows of a batch were seen to depend on each other.

        Raises:
            UnknownSite: a run reaches one of the sites more than once.
        """
        are_all_bare = all(isinstance(world, Bare) for world in worlds)
        if are_all_bare or self._rows != rows:
            bare = self._bare_logits(rows, scored)
            if are_all_bare:
                return bare.expand(len(worlds), *bare.shape)

        self._check_shortcuts(rows, len(worlds))
        if self._can_stack:
            return self._logits_at_once(rows, worlds, scored)
        parts = [self._logits_at_once(rows, [world], scored) for world in worlds]
        return torch.cat(parts)

    def _bare_logits(
        self, rows: slice, scored: Int[Tensor, " scored"]
    ) -> Float[Tensor, "batch scored d_vocab"]:
        """Logits of a whole run of the bare model, which is recorded."""
        n_reached = dict.fromkeys(self._sites, 0)

        def count(name: str, _: Tensor) -> None:
            n_reached[name] += 1

        with ExitStack() as stack:
            record = stack.enter_context(recorded(self._host, self.n_skipped))
            for name, site in self._sites.items():
                undo = self._host.attach(site, partial(count, name))
                stack.callback(undo)
            logits = next_token_logits(self._host, self._tokens[rows], scored)

        for name, n_times in n_reached.items():
            if n_times > 1:
                raise UnknownSite(
                    f"{name} fires {n_times} times in one run of this model, and a "
                    "sweep replaces an activation that is computed once; choose a site "
                    "in a block that runs once"
                )
        self._record = record
        self._rows = rows
        self._is_checked = False
        return logits

    def _check_shortcuts(self, rows: slice, n_worlds: int) -> None:
        """Give up skipping blocks and stacking worlds where the bare model objects.

        Both are seen to be exact on these rows, at every position, or are not done.
        """
        if self._is_checked:
            return
        self._is_checked = True
        is_residual = self._sites[self._first].is_residual
        can_start = is_residual or self._record.residual is not None
        if not self._record.can_skip or not can_start:
            self.n_skipped = 0

        # Rows may depend on each other, which is a property of the model.
        if self._can_stack and n_worlds > 1 and not self._is_stacking_checked:
            self._is_stacking_checked = True
            if self._is_exact(rows, 2):
                return
            self._can_stack = False

        # Blocks may depend on more than the stream between them, on some tokens.
        if self.n_skipped and not self._is_exact(rows, 1):
            self.n_skipped = 0

    def _is_exact(self, rows: slice, n_copies: int) -> bool:
        """Whether copies of the bare model end up where its whole run did."""
        whole = self._record.unembedded
        with self._running(rows, [Bare()] * n_copies):
            tokens = self._tokens[rows].repeated(n_copies)
            copies = unembedding_input(self._host, tokens)
        if whole is None or copies is None:
            return False

        whole = whole.float()
        error = copies.float().unflatten(0, (n_copies, -1)) - whole
        tolerance = max(_TOLERANCE, 2 * torch.finfo(copies.dtype).eps)
        bound = tolerance * whole.norm(dim=-1)
        # Positions without text may hold NaN, also in the whole run.
        is_close = (error.norm(dim=-1) <= bound) | bound.isnan()
        return bool(is_close.all())

    def _logits_at_once(
        self,
        rows: slice,
        worlds: Sequence[World],
        scored: Int[Tensor, " scored"],
    ) -> Float[Tensor, "worlds batch scored d_vocab"]:
        """Logits of one run, in which every world is a copy of the rows."""
        n_worlds = len(worlds)
        tokens = self._tokens[rows].repeated(n_worlds)
        with self._running(rows, worlds):
            logits = next_token_logits(self._host, tokens, scored)
        return logits.unflatten(0, (n_worlds, -1))

    @contextmanager
    def _running(self, rows: slice, worlds: Sequence[World]) -> Iterator[None]:
        """While active, runs are of these rows in these worlds, from the first site."""
        n_worlds = len(worlds)
        replacements: dict[str, Callable[[Tensor], Tensor]] = {
            name: partial(self._replace_in_worlds, name, rows, worlds)
            for name in self._sites
        }

        with ExitStack() as stack:
            if self.n_skipped:
                if self._sites[self._first].is_residual:
                    # The activation here is the one that the skipped blocks hand on. A
                    # hook on it comes after all others, and leaves out what they did.
                    x = self.activations[self._first].x[rows]
                    start = replacements[self._first](x.repeat(n_worlds, 1, 1))
                    replacements[self._first] = lambda _: start
                    begin = skip_blocks
                else:
                    assert self._record.residual is not None
                    start = self._record.residual.repeat(n_worlds, 1, 1)
                    begin = resume
                skipping = begin(
                    self._host, self.n_skipped, start, self._record.outputs
                )
                stack.enter_context(skipping)

            # After that, because the hooks of skipped blocks are left out.
            for name, source in self._sources.items():
                stack.callback(self._host.attach(source, partial(self._keep, name)))
            for name, site in self._sites.items():
                undo = self._host.attach(site, replacements[name])
                stack.callback(undo)
            yield

    def _keep(self, name: str, source: Tensor) -> None:
        """Remember what a transcoder reads, until the run reaches its output."""
        self._read[name] = source

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
        # A part for every world; a chunk of too few rows would have fewer parts.
        parts = x.unflatten(0, (len(worlds), -1))
        read = self._read.pop(name, None)
        sources = [None] * len(worlds)
        if read is not None:
            sources = read.unflatten(0, (len(worlds), -1))
        replaced = [
            self._replace(name, rows, world, parts[index], sources[index])
            for index, world in enumerate(worlds)
        ]
        return torch.cat(replaced)

    def _replace(
        self,
        name: str,
        rows: slice,
        world: World,
        x: Tensor,
        source: Tensor | None,
    ) -> Tensor:
        """The activation to put in the place of ``x`` at one site in one world.

        ``source`` is what a transcoder that writes there has read.
        """
        site = self.activations[name]
        token_mask = site.mask[rows]
        mask = token_mask.unsqueeze(-1)
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
                    code = site.code_at(k)[rows]
                    source = None if site.source is None else site.source[rows]
                else:
                    encoded = x if source is None else source
                    code = site.encode(encoded, token_mask, k)
                recons = site.reconstruct(code, source)
                return recons.to(x).where(mask, x)
