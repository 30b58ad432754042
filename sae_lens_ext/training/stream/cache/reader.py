"""Activations from a cache on disk, also while it is being written.

A pass goes through the shards window by window: some consecutive shards, whose tokens
are given in random order. The first pass takes the shards as they were written, because
they may not all be there yet; later ones in an order of their own. All of that follows
from seed, pass and window, so the place of a token does not depend on how fast the
cache was written, and a state is a few numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.training.collecting import site_names
from sae_lens_ext.training.stream.base import SiteStatistics, StreamState
from sae_lens_ext.training.stream.cache.folder import ActivationCache
from sae_lens_ext.training.stream.cache.index import Shard
from sae_lens_ext.training.stream.cache.shards import announce
from sae_lens_ext.training.stream.lazy import LazyBatch, Piece
from sae_lens_ext.training.stream.length import Length
from sae_lens_ext.training.stream.states import check_identity

# What tells the order of shards from that of tokens.
_SHARDS = 0
_TOKENS = 1


class CacheStream:
    """Activations of one or several sites of a cache.

    ::

        stream = CacheStream("my_cache", "blocks.5.hook_resid_post", epochs=2)

    Files are mapped into memory, and each is compared with its digest before it is used
    first. While another process writes the cache, the first pass waits for it.

    Attributes:
        sites: see ``ActivationStream``.
        model_name: see ``ActivationStream``.
        excludes_special_tokens: see ``ActivationStream``.
        cache: the folder.
    """

    def __init__(
        self,
        cache: ActivationCache | str | Path,
        sites: Sequence[str] | str | None = None,
        *,
        epochs: int | None = None,
        n_tokens: int | None = None,
        seed: int = 0,
        window: int = 8,
        unfinished: bool = False,
    ) -> None:
        """Open the cache; waits for its first shard if it is being written.

        Args:
            cache: the folder of the cache.
            sites: one or several of its sites; None for all.
            epochs: passes over the cache. By default one; or, where ``n_tokens`` is
                given, as many as that takes.
            n_tokens: tokens after which the stream ends.
            seed: the seed of the order.
            window: shards whose tokens are mixed.
            unfinished: whether to read what is there now of a cache that is not
                complete, and not to wait for more.

        Raises:
            FormatError: not a cache, a damaged one, or one that is not complete and
                that no process writes.
            InvalidArgument: an invalid option, or a site that the cache does not have.
        """
        if not isinstance(cache, ActivationCache):
            cache = ActivationCache(cache)
        self.cache = cache
        self.sites = cache.sites if sites is None else site_names(sites)
        for site in self.sites:
            self._check_site(site, cache.sites, "the cache")
        self.model_name = cache.model_name
        self.excludes_special_tokens = cache.excludes_special_tokens
        self._length = Length.checked(epochs, n_tokens)
        self._seed = arguments.integer(seed, "seed", at_least=0)
        self._window_size = arguments.positive_int(window, "window")
        self._shards: Sequence[Shard] | None = None
        if cache.is_complete or arguments.flag(unfinished, "unfinished"):
            self._shards = cache.shards
        if self._shards is None:
            # Now, and not only when the last of its shards is read.
            cache.check_growing()
        self._n_given = 0
        self._move(0, 0, 0)

    @property
    def n_tokens(self) -> int | None:
        """See ``ActivationStream.n_tokens``; known once the cache is complete."""
        shards = self._all_shards()
        if shards is None:
            return self._length.total(None)
        return self._length.total(sum(shard.n_tokens for shard in shards))

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``ActivationStream.counts``; those of the collection count once."""
        return {"given": self._n_given, **self.cache.counts}

    def width(self, site: str) -> int:
        """See ``ActivationStream.width``."""
        self._check_site(site, self.sites, "this stream")
        return self.cache.widths[site]

    def statistics(self) -> Mapping[str, SiteStatistics]:
        """See ``ActivationStream.statistics``: those of the first shard."""
        statistics = self.cache.statistics()
        return {site: statistics[site] for site in self.sites}

    def first_tokens(self, site: str) -> Float[Tensor, "token d"]:
        """See ``RemembersFirst.first_tokens``: those of the first shard.

        Raises:
            FormatError: the shard is damaged.
        """
        self._check_site(site, self.sites, "this stream")
        return self.cache.open_shard(self.cache.shards[0], [site])[site]

    def next_batch(self, n_tokens: int) -> LazyBatch:
        """See ``ActivationStream.next_batch``; in the dtype of the cache, on the CPU.

        Raises:
            FormatError: a shard is damaged; the error names it.
        """
        missing = arguments.positive_int(n_tokens, "n_tokens")
        left = self._length.left(self._n_given)
        if left is not None:
            missing = min(missing, left)

        pieces = []
        while missing and self._open():
            assert self._opened is not None
            rows = self._order[self._position : self._position + missing]
            pieces.append(Piece(rows, self._opened.tokens))
            self._position += len(rows)
            self._n_given += len(rows)
            missing -= len(rows)
        return LazyBatch(self.sites, pieces or [Piece(self._order[:0], self._none)])

    def state(self) -> StreamState:
        """See ``ActivationStream.state``; a few numbers."""
        facts = {
            "kind": type(self).__name__,
            "identity": self._identity(),
            "epoch": self._epoch,
            "window": self._window,
            "position": self._position,
            "given": self._n_given,
        }
        return StreamState(facts, {})

    def restore(self, state: StreamState) -> None:
        """See ``ActivationStream.restore``."""
        facts = state.facts
        check_identity(facts, type(self).__name__, self._identity())
        try:
            self._move(facts["epoch"], facts["window"], facts["position"])
            self._n_given = facts["given"]
        except KeyError as error:
            raise FormatError(
                f"the state of the stream has no {error.args[0]!r}; begin anew"
            ) from error

    def _identity(self) -> dict[str, Any]:
        return {
            "sites": list(self.sites),
            "seed": self._seed,
            "window": self._window_size,
            "first_shard": self.cache.shards[0].sha256,
        }

    def _move(self, epoch: int, window: int, position: int) -> None:
        """Go to a place; its shards are opened when they are read."""
        self._epoch = epoch
        self._window = window
        self._position = position
        self._opened: _Window | None = None
        self._order: Int[Tensor, " token"] = torch.empty(0, dtype=torch.int64)

    def _open(self) -> bool:
        """Open the window of the next token; False at the end of the stream."""
        if self._opened is not None and self._position == len(self._order):
            self._move(self._epoch, self._window + 1, 0)
        if self._opened is not None:
            return True

        shards = self._shards_of_window()
        if not shards:
            if not self._length.has_epoch(self._epoch + 1):
                return False
            self._move(self._epoch + 1, 0, 0)
            shards = self._shards_of_window()
        for shard in shards:
            announce(self.cache.folder / shard.name)
        opened = [self.cache.open_shard(shard, self.sites) for shard in shards]
        lengths = [shard.n_tokens for shard in shards]
        self._opened = _Window(opened, lengths)
        place = [self._seed, _TOKENS, self._epoch, self._window]
        order = np.random.default_rng(place).permutation(sum(lengths))
        self._order = torch.from_numpy(order)
        return True

    def _shards_of_window(self) -> Sequence[Shard]:
        """The shards that are mixed; none behind the end of a pass."""
        start = self._window * self._window_size
        end = start + self._window_size
        shards = self._all_shards()
        if shards is None:
            self.cache.wait_for(end)
            shards = self._all_shards() or self.cache.shards
        if self._epoch == 0:
            return shards[start:end]
        place = [self._seed, _SHARDS, self._epoch]
        order = np.random.default_rng(place).permutation(len(shards))
        return [shards[number] for number in order[start:end]]

    def _all_shards(self) -> Sequence[Shard] | None:
        """The shards of a pass; None as long as there may come more."""
        if self._shards is None and self.cache.is_complete:
            self._shards = self.cache.shards
        return self._shards

    def _none(self, rows: Int[Tensor, " token"]) -> dict[str, Tensor]:
        """Activations of no token."""
        dtype = self.cache.dtype
        return {
            site: torch.empty(len(rows), self.width(site), dtype=dtype)
            for site in self.sites
        }

    def _check_site(self, site: str, sites: Sequence[str], subject: str) -> None:
        if site not in sites:
            raise InvalidArgument(
                f"{subject} has the sites {', '.join(sites)}; got {site!r}"
            )


class _Window:
    """Some shards whose tokens are mixed.

    A batch keeps the window that its tokens are in.
    """

    def __init__(
        self, shards: Sequence[dict[str, Tensor]], lengths: Sequence[int]
    ) -> None:
        self._shards = shards
        self._ends = torch.tensor(lengths).cumsum(0)

    def tokens(self, rows: Int[Tensor, " token"]) -> dict[str, Tensor]:
        """Tokens by their numbers in the window."""
        number_of_shard = torch.bucketize(rows, self._ends, right=True)
        values = {
            site: part.new_empty(len(rows), part.shape[1])
            for site, part in self._shards[0].items()
        }
        starts = [0, *self._ends.tolist()]
        for number, tensors in enumerate(self._shards):
            places = (number_of_shard == number).nonzero().flatten()
            local = rows[places] - starts[number]
            for site, part in tensors.items():
                values[site].index_copy_(0, places, part.index_select(0, local))
        return values
