"""A stream that shuffles chunks of activations as they are made.

1. Fill a buffer with the first chunks. From these tokens come the median norm, to which
   outliers are held, and then mean and scale.
2. Take tokens out of the buffer at random, and fill it again as soon as there is room
   for a chunk: at least half of it is always full.
3. At the end of a pass over the source, take out what is left; then begin the next
   pass. So every pass gives every token once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import FormatError, InvalidArgument, ShapeMismatch
from sae_lens_ext.training.cleaning import (
    largest_norm,
    mean_and_scale,
    shrink_outliers,
)
from sae_lens_ext.training.stream.ahead import Ahead
from sae_lens_ext.training.stream.base import SiteStatistics, StreamState
from sae_lens_ext.training.stream.buffer import ShuffleBuffer
from sae_lens_ext.training.stream.chunks import Chunk
from sae_lens_ext.training.stream.length import Length
from sae_lens_ext.training.stream.shared import SharedChunks
from sae_lens_ext.training.stream.states import (
    check_identity,
    statistics_as_tensors,
    statistics_of_tensors,
)

# Tokens at a time, when outliers of a whole buffer are shrunk.
_TOKENS_PER_PART = 1 << 14


class BufferedStream:
    """The stream behind ``ModelStream`` and ``IterableStream``; see there."""

    def __init__(
        self,
        chunks: Ahead,
        sites: tuple[str, ...],
        *,
        buffer_tokens: int,
        seed: int,
        length: Length,
        model_name: str | None,
        excludes_special_tokens: bool,
    ) -> None:
        """Nothing is made yet.

        Args:
            chunks: where the activations come from.
            sites: the names of the sites.
            buffer_tokens: tokens that the buffer holds.
            seed: the seed of the order.
            length: when the stream ends.
            model_name: name of the model, if it is known.
            excludes_special_tokens: whether special tokens are left out.
        """
        self.sites = sites
        self.model_name = model_name
        self.excludes_special_tokens = excludes_special_tokens
        self._chunks: Ahead | SharedChunks = chunks
        self._length = length
        self._seed = arguments.integer(seed, "seed", at_least=0)
        self._buffer_tokens = arguments.integer(
            buffer_tokens, "buffer_tokens", at_least=2
        )
        self._reset()

    def _reset(self) -> None:
        self._generator = torch.Generator().manual_seed(self._seed)
        self._buffer = ShuffleBuffer(self._buffer_tokens)
        self._statistics: dict[str, SiteStatistics] = {}
        self._limits: dict[str, Tensor] = {}
        # A chunk for which there is no room yet; no part of the state.
        self._waiting: Chunk | None = None
        self._is_started = False
        self._is_at_end_of_epoch = False
        self._after: Mapping[str, Any] | None = None
        self._epoch = 0
        self._per_chunk = 1
        self._n_in_epoch = 0
        self._n_read = 0
        self._n_given = 0
        self._n_special = 0
        # On the device, because reading a number would wait for all of its work.
        self._n_outliers: Any = 0

    @property
    def n_tokens(self) -> int | None:
        """See ``ActivationStream.n_tokens``."""
        return self._length.total(self._chunks.tokens_per_epoch)

    @property
    def counts(self) -> Mapping[str, int]:
        """See ``ActivationStream.counts``."""
        return {
            "given": self._n_given,
            "special": self._n_special,
            "outliers": int(self._n_outliers),
        }

    def width(self, site: str) -> int:
        """See ``ActivationStream.width``."""
        self._check_site(site)
        self._begin()
        return self._buffer.width(site)

    def statistics(self) -> Mapping[str, SiteStatistics]:
        """See ``ActivationStream.statistics``: of the tokens that fill the buffer."""
        self._begin()
        return dict(self._statistics)

    def first_tokens(self, site: str) -> Float[Tensor, "token d"]:
        """See ``RemembersFirst.first_tokens``: those that fill the buffer."""
        self._check_site(site)
        self._begin()
        if self._n_given:
            raise InvalidArgument(
                f"the stream has given {self._n_given} tokens already; give a new one"
            )
        return self._buffer.values[site]

    def next_batch(self, n_tokens: int) -> Mapping[str, Float[Tensor, "token d"]]:
        """See ``ActivationStream.next_batch``."""
        n_tokens = arguments.positive_int(n_tokens, "n_tokens")
        self._begin()
        self._chunks.expect(n_tokens, self._per_chunk)

        parts: list[dict[str, Tensor]] = []
        missing = n_tokens
        while missing:
            self._fill()
            n_taken = min(missing, self._n_available())
            if not n_taken and parts:
                break
            # An empty batch at the end has its widths too.
            parts.append(self._buffer.take(n_taken, self._generator))
            missing -= n_taken
            if not n_taken:
                break

        self._n_given += n_tokens - missing
        if len(parts) == 1:
            return parts[0]
        return {site: torch.cat([part[site] for part in parts]) for site in self.sites}

    def _use(self, chunks: Ahead | SharedChunks) -> None:
        """Get chunks from now on from another source of the same ones."""
        self._chunks = chunks
        self._waiting = None
        if self._is_started:
            self._move()

    def pause(self) -> None:
        """Return when the model is not running.

        It does not run again before the next batch is asked for, so it can be used for
        something else. Call this before, where the stream has a thread of its own.
        """
        self._chunks.pause()

    def close(self) -> None:
        """End the stream's thread, if it has one."""
        self._chunks.close()

    def state(self) -> StreamState:
        """See ``ActivationStream.state``."""
        facts = {
            "kind": type(self).__name__,
            "identity": self._identity(),
            "is_started": self._is_started,
            "after": self._after,
            "epoch": self._epoch,
            "in_epoch": self._n_in_epoch,
            "read": self._n_read,
            **self.counts,
        }
        tensors = {"generator": self._generator.get_state()}
        if self._is_started:
            tensors |= statistics_as_tensors(self._statistics)
            for site, values in self._buffer.values.items():
                tensors[f"buffer:{site}"] = values.clone()
        return StreamState(facts, tensors)

    def restore(self, state: StreamState) -> None:
        """See ``ActivationStream.restore``."""
        facts = state.facts
        check_identity(facts, type(self).__name__, self._identity())
        self._reset()
        try:
            self._generator.set_state(state.tensors["generator"].cpu())
            if not facts["is_started"]:
                return
            self._statistics = statistics_of_tensors(state.tensors, self.sites)
            buffered = {site: state.tensors[f"buffer:{site}"] for site in self.sites}
            self._after = facts["after"]
            self._epoch = facts["epoch"]
            self._n_in_epoch = facts["in_epoch"]
            self._n_read = facts["read"]
            self._n_given = facts["given"]
            self._n_special = facts["special"]
            self._n_outliers = facts["outliers"]
        except KeyError as error:
            raise FormatError(
                f"the state of the stream has no {error.args[0]!r}; begin anew"
            ) from error

        self._buffer.add(self._on_devices(buffered))
        self._limits = {
            site: constants.largest_norm for site, constants in self._statistics.items()
        }
        self._move()
        self._is_started = True

    def _on_devices(self, buffered: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens of a state where this stream keeps its buffer."""
        device = self._chunks.device
        return {
            site: values if device is None else values.to(device)
            for site, values in buffered.items()
        }

    def _move(self) -> None:
        """Bring the source to where the state says it is."""
        if self._after is None:
            self._chunks.start(self._epoch)
        else:
            self._chunks.restore(self._after)

    def _identity(self) -> dict[str, Any]:
        return {
            "sites": list(self.sites),
            "seed": self._seed,
            "buffer_tokens": self._buffer_tokens,
            "source": dict(self._chunks.facts),
        }

    def _check_site(self, site: str) -> None:
        if site not in self.sites:
            raise InvalidArgument(
                f"this stream has the sites {', '.join(self.sites)}; got {site!r}"
            )

    def _begin(self) -> None:
        """Fill the buffer for the first time, and estimate the constants."""
        if self._is_started:
            return
        self._move()
        self._fill()
        for site, values in self._buffer.values.items():
            limit = largest_norm(values)
            for part in values.split(_TOKENS_PER_PART):
                shrunk, n_outliers = shrink_outliers(part, limit)
                part.copy_(shrunk)
                self._n_outliers += n_outliers
            mean, scale = mean_and_scale(values)
            self._limits[site] = limit
            self._statistics[site] = SiteStatistics(
                mean.cpu(), scale.cpu(), limit.cpu()
            )
        self._is_started = True

    def _fill(self) -> None:
        """Read chunks as long as there is room for them."""
        while True:
            if self._is_at_end_of_epoch and not self._start_next_epoch():
                return
            if self._waiting is None:
                self._waiting = self._read()
            chunk = self._waiting
            if chunk is None:
                continue
            if len(self._buffer) + chunk.n_tokens > self._buffer.capacity:
                return
            self._add(chunk)
            self._waiting = None

    def _start_next_epoch(self) -> bool:
        """Begin another pass, once the tokens of the last one are given."""
        is_read = self._length.left(self._n_read) == 0
        if is_read or len(self._buffer) or not self._length.has_epoch(self._epoch + 1):
            return False
        self._epoch += 1
        self._n_in_epoch = 0
        self._after = None
        self._move()
        self._is_at_end_of_epoch = False
        return True

    def _read(self) -> Chunk | None:
        """The next chunk, as far as it is needed; None at the end of the pass."""
        left = self._length.left(self._n_read)
        chunk = None if left == 0 else self._chunks.next_chunk()
        if chunk is None:
            self._is_at_end_of_epoch = True
            if not self._n_in_epoch:
                raise InvalidArgument(
                    "there are no activations to train on: all tokens are left out, or "
                    "there are none"
                )
            return None
        if chunk.n_tokens * 2 > self._buffer.capacity:
            raise InvalidArgument(
                f"buffer_tokens={self._buffer.capacity} must be at least twice the "
                f"{chunk.n_tokens} tokens that come at a time; give a larger buffer, "
                "or smaller batches"
            )
        return chunk if left is None else chunk.cut(left)

    def _add(self, chunk: Chunk) -> None:
        """Put a chunk into the buffer, its outliers shrunk."""
        values = chunk.values
        if self._is_started:
            self._check_widths(values)
            values = {}
            for site, part in chunk.values.items():
                limit = self._limits[site].to(part.device)
                values[site], n_outliers = shrink_outliers(part, limit)
                self._n_outliers += n_outliers
        self._buffer.add(values)
        self._after = chunk.after
        self._per_chunk = chunk.n_tokens
        self._n_special += chunk.n_special
        self._n_in_epoch += chunk.n_tokens
        self._n_read += chunk.n_tokens

    def _check_widths(self, values: Mapping[str, Tensor]) -> None:
        for site, part in values.items():
            if part.shape[1] != self._buffer.width(site):
                raise ShapeMismatch(
                    f"the activations at {site} were {self._buffer.width(site)} wide, "
                    f"and now they are {part.shape[1]}"
                )

    def _n_available(self) -> int:
        """How many tokens may be taken before the buffer is filled again."""
        if self._is_at_end_of_epoch:
            return len(self._buffer)
        return len(self._buffer) - self._buffer.capacity // 2
