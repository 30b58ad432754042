"""The passes of a model, shared between the processes of a training.

Chunks are made in rounds, one by each process: all read the text, and each runs the
model on one of the chunks. Then they exchange activations, so that every process has
all chunks, in the order and with the states that one process alone would give them.
What is behind that, the buffer and its order, knows of no other process. So a stream
that is saved goes on with any number of them.

The model runs ahead where it did. Activations are exchanged when they are used, by the
thread that trains: exchanges have one order.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from sae_lens_ext.training.stream.ahead import Ahead
from sae_lens_ext.training.stream.chunks import Chunk, ModelChunks, Work


@runtime_checkable
class Processes(Protocol):
    """The processes that share a training, as far as a stream needs them.

    Attributes:
        rank: the number of this process.
        size: how many there are.
    """

    rank: int
    size: int

    def gather_rows(self, rows: Tensor, n_rows: Sequence[int]) -> Tensor:
        """The rows of all processes in one tensor, of which each has these many."""
        ...

    def counts(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of every process."""
        ...


class Round(NamedTuple):
    """A chunk for every process, as long as the text has some."""

    values: Mapping[str, Tensor]
    """The activations of this process's own chunk; none if there is no chunk for it."""
    works: Sequence[Work]
    """What all chunks are made of."""


class OwnChunks:
    """Rounds of chunks, of which this process computes its own.

    A ``ChunkSource``, but for what it gives.
    """

    def __init__(self, chunks: ModelChunks, rank: int, size: int) -> None:
        """Nothing runs yet.

        Args:
            chunks: all chunks.
            rank: of this process.
            size: how many processes there are.
        """
        self._chunks = chunks
        self._rank = rank
        self._size = size
        self.facts = chunks.facts
        self.tokens_per_epoch = chunks.tokens_per_epoch

    def start(self, epoch: int) -> None:
        """See ``ChunkSource.start``."""
        self._chunks.start(epoch)

    def restore(self, after: Mapping[str, Any]) -> None:
        """See ``ChunkSource.restore``."""
        self._chunks.restore(after)

    def next_chunk(self) -> Round | None:
        """The next round; None at the end of the pass."""
        works = []
        for _ in range(self._size):
            work = self._chunks.next_work()
            if work is None:
                break
            works.append(work)
        if not works:
            return None
        values: Mapping[str, Tensor] = {}
        if self._rank < len(works):
            values = self._chunks.computed(works[self._rank])
        return Round(values, works)


class SharedChunks:
    """Chunks that all processes have; the interface of ``Ahead``."""

    def __init__(
        self, rounds: Ahead, chunks: ModelChunks, processes: Processes
    ) -> None:
        """Nothing is exchanged yet.

        Args:
            rounds: of ``OwnChunks``.
            chunks: what these are of.
            processes: who shares them.
        """
        self._sites = chunks.sites
        self._dtype = chunks.dtype
        self._rounds = rounds
        self._processes = processes
        self._ready: deque[Chunk] = deque()
        # An empty tensor of every site, once the widths are known.
        self._like: dict[str, Tensor] = {}
        self.facts = rounds.facts
        self.tokens_per_epoch = rounds.tokens_per_epoch
        self.device = rounds.device

    def start(self, epoch: int) -> None:
        """See ``ChunkSource.start``."""
        self._ready.clear()
        self._rounds.start(epoch)

    def restore(self, after: Mapping[str, Any]) -> None:
        """See ``ChunkSource.restore``."""
        self._ready.clear()
        self._rounds.restore(after)

    def next_chunk(self) -> Chunk | None:
        """See ``ChunkSource.next_chunk``; all processes call it together."""
        if not self._ready:
            next_round: Any = self._rounds.next_chunk()
            if next_round is None:
                return None
            self._ready.extend(self._exchanged(next_round))
        return self._ready.popleft()

    def expect(self, n_tokens: int, per_chunk: int) -> None:
        """See ``Ahead.expect``."""
        self._rounds.expect(n_tokens, per_chunk * self._processes.size)

    def pause(self) -> None:
        """See ``Ahead.pause``."""
        self._rounds.pause()

    def close(self) -> None:
        """See ``Ahead.close``."""
        self._rounds.close()

    def _exchanged(self, own: Round) -> list[Chunk]:
        works = own.works
        n_tokens = [work.n_tokens for work in works]
        n_tokens += [0] * (self._processes.size - len(works))
        if not self._like:
            self._learn(own.values)
        values = own.values or self._like
        gathered = {
            site: self._processes.gather_rows(part, n_tokens).split(n_tokens)
            for site, part in values.items()
        }
        return [
            Chunk(
                {site: parts[number] for site, parts in gathered.items()},
                work.n_special,
                work.after,
            )
            for number, work in enumerate(works)
        ]

    def _learn(self, values: Mapping[str, Tensor]) -> None:
        """Keep an empty tensor of every site, of which the first process has some."""
        widths = [part.shape[1] for part in values.values()]
        first = self._processes.counts(widths or [0] * len(self._sites))[0]
        self._like = {
            site: torch.empty(0, width, dtype=self._dtype, device=self.device)
            for site, width in zip(self._sites, first, strict=True)
        }


def shared(chunks: Ahead, processes: Processes) -> SharedChunks:
    """The same chunks, made together with other processes.

    Args:
        chunks: of a model.
        processes: who shares the work.
    """
    source = chunks.source
    assert isinstance(source, ModelChunks)
    own: Any = OwnChunks(source, processes.rank, processes.size)
    rounds = Ahead(own, chunks.device, overlap=chunks.overlap)
    return SharedChunks(rounds, source, processes)
