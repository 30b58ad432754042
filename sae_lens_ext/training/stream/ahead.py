"""Chunks made ahead of their use, in a thread, so that a GPU has work meanwhile.

The order of the chunks, and their bits, are those of the source: one thread makes them
one after the other, and each carries the state behind it. So what waits here is never
part of a state: after a restore it is made again.
"""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from sae_lens_ext.training.stream.chunks import Chunk, ChunkSource


class Ahead:
    """A source of chunks, of which some are made before they are asked for.

    Attributes:
        facts: see ``ChunkSource``.
        tokens_per_epoch: see ``ChunkSource``.
        device: where the chunks are computed, if that is known.
        source: where they come from.
        overlap: whether they are made in a thread.
    """

    def __init__(
        self, source: ChunkSource, device: torch.device | None, *, overlap: bool
    ) -> None:
        """Nothing is made yet.

        Args:
            source: where the chunks come from.
            device: where they are computed, if that is known.
            overlap: whether chunks are made in a thread. On a CPU they would only
                compete with their consumer for its cores.
        """
        self.facts = source.facts
        self.tokens_per_epoch = source.tokens_per_epoch
        self.device = device
        self.source = source
        self.overlap = overlap
        self._pool = None
        if overlap:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="activations")
        self._futures: deque[Future[Chunk | None]] = deque()
        self._n_ahead = 1
        self._is_at_end = False
        self._cuda_stream: Any = None

    def start(self, epoch: int) -> None:
        """See ``ChunkSource.start``."""
        self._drop()
        self.source.start(epoch)

    def restore(self, after: Mapping[str, Any]) -> None:
        """See ``ChunkSource.restore``."""
        self._drop()
        self.source.restore(after)

    def next_chunk(self) -> Chunk | None:
        """See ``ChunkSource.next_chunk``.

        Raises what the source raised.
        """
        if self._pool is None:
            return self.source.next_chunk()
        self.run()
        if not self._futures:
            return None
        future = self._futures.popleft()
        chunk = future.result()
        self._is_at_end = chunk is None
        self.run()
        if chunk is not None:
            self._take_over(chunk)
        return chunk

    def expect(self, n_tokens: int, per_chunk: int) -> None:
        """Keep as many chunks ready as this many tokens take."""
        self._n_ahead = max(1, -(-n_tokens // max(1, per_chunk)))

    def run(self) -> None:
        """Let the thread make chunks until enough are ready."""
        while (
            self._pool is not None
            and not self._is_at_end
            and len(self._futures) < self._n_ahead
        ):
            self._futures.append(self._pool.submit(self._make))

    def pause(self) -> None:
        """Return when the thread is idle; it is until the next chunk is taken."""
        wait(self._futures)

    def close(self) -> None:
        """End the thread."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown()

    def _drop(self) -> None:
        """Forget what was made ahead, before the source is moved."""
        for future in self._futures:
            future.cancel()
        wait(self._futures)
        self._futures.clear()
        self._is_at_end = False

    def _make(self) -> Chunk | None:
        if self.device is None or self.device.type != "cuda":
            return self.source.next_chunk()

        # On the default stream the pass of the model would wait for the consumer's
        # kernels, and these for it.
        if self._cuda_stream is None:
            self._cuda_stream = torch.cuda.Stream(self.device)
            self._cuda_stream.wait_stream(torch.cuda.default_stream(self.device))
        with torch.cuda.stream(self._cuda_stream):
            chunk = self.source.next_chunk()
        self._cuda_stream.synchronize()
        return chunk

    def _take_over(self, chunk: Chunk) -> None:
        """Keep the thread's stream from reusing memory that is still being read."""
        if self._cuda_stream is None:
            return
        for values in chunk.values.values():
            if values.is_cuda:
                values.record_stream(torch.cuda.current_stream(values.device))
