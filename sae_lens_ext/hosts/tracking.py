"""The run in progress: what it reads, where its columns stand, and its settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import Tensor

from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.caches import CacheMemory, Seen, caches_in
from sae_lens_ext.hosts.calls import CallFacts
from sae_lens_ext.hosts.recomputation import RunsByInput, in_backward
from sae_lens_ext.hosts.text_positions import (
    TextPositions,
    check_padding,
    text_positions,
)


class _OwnRun:
    """A run that this package makes itself, of a batch that it padded on the right."""

    def __init__(self, batch: TokenBatch) -> None:
        self.batch = batch
        self.is_over = False


# By thread. (A context variable would say the same, and could not be sent to an nnsight
# server with a splice.)
_OWN_RUNS: dict[int, _OwnRun] = {}


@contextmanager
def own_run(batch: TokenBatch) -> Iterator[None]:
    """While active, runs are of this batch, also where the model takes no mask."""
    thread = get_ident()
    around = _OWN_RUNS.get(thread)
    run = _OwnRun(batch)
    _OWN_RUNS[thread] = run
    try:
        yield
    finally:
        if around is None:
            del _OWN_RUNS[thread]
        else:
            _OWN_RUNS[thread] = around
        # A run that was stopped on purpose reports no end.
        run.is_over = True


class Pass:
    """One run: what it was called with, and the settings that it uses from end to end.

    A backward pass that repeats a part of the run uses the same.

    Attributes:
        settings: what ``PassTracker``'s ``snapshot`` returned when the run began.
        tokens: its token ids, ``[batch, pos]``; in cached generation those of the
            current step. None if the model was not called with tokens.
    """

    def __init__(self, settings: Any, memory: CacheMemory[Seen]) -> None:
        """A run that begins now; ``memory`` knows the caches of earlier ones."""
        self.settings = settings
        self._facts = CallFacts()
        self._memory = memory
        self._own_run = _OWN_RUNS.get(get_ident())
        self.tokens: Tensor | None = None
        self._made: list[Any] = []
        self._texts: dict[tuple[int, int], TextPositions] = {}

    @property
    def is_over(self) -> bool:
        """Whether the run is known to have ended without a report of its end."""
        return self._own_run is not None and self._own_run.is_over

    def read(self, arguments: Mapping[str, Any]) -> None:
        """Take in the arguments of a module that the run calls, by name."""
        self._facts.read(arguments)
        self._texts.clear()

    def text(self, batch: int, length: int) -> TextPositions:
        """The positions in their texts of the columns of an activation.

        Raises:
            InvalidArgument: the text of a row is interrupted by padding.
        """
        if (batch, length) not in self._texts:
            check_padding(self._facts)
            self._texts[batch, length] = self._positions(batch, length)
        return self._texts[batch, length]

    def made(self, output: Any) -> None:
        """A model inside the one that runs returned this."""
        self._made += caches_in(output)

    def remember_caches(self, output: Any) -> list[Any]:
        """Keep how much of the text the caches hold that this run used or made.

        Returns those caches.
        """
        caches = [*caches_in(output), *self._made]
        # Not to be kept alive with the run, which a backward pass may repeat.
        self._made = []
        if self._facts.cache is not None:
            caches.append(self._facts.cache)
        shape = self._facts.shape
        if shape is None and self.tokens is not None:
            shape = (self.tokens.shape[0], self.tokens.shape[1])
        if not caches or shape is None:
            return caches

        text = self._positions(*shape)
        lengths = text.lengths.amax(dim=1)
        seen = self._memory.recall(self._facts.cache)
        if seen is not None and len(seen.lengths) == len(lengths):
            # A row that only got padding is as long as it was.
            lengths = lengths.maximum(seen.lengths.to(lengths.device))
        for cache in caches:
            self._memory.remember(cache, Seen(text.start + shape[1], lengths))
        return caches

    def _positions(self, batch: int, length: int) -> TextPositions:
        facts = self._facts
        own = self._own_run
        if facts.attention_mask is None and own is not None:
            mask = own.batch.mask
            if mask.shape == (batch, length):
                facts = CallFacts(attention_mask=mask, shape=facts.shape)
        return text_positions(facts, batch, length, self._memory.recall(facts.cache))


class PassTracker:
    """Follows the runs of a model; a function at a site asks it for the current one.

    Its methods are what a host reports by ``Host.watch``.
    """

    def __init__(
        self,
        snapshot: Callable[[], Any],
        at_start: Callable[[], object] = lambda: None,
        at_end: Callable[[], object] = lambda: None,
        memory: CacheMemory[Seen] | None = None,
        at_caches: Callable[[list[Any]], object] = lambda _: None,
    ) -> None:
        """Follow runs.

        Args:
            snapshot: returns the settings that a run which begins now is to use.
            at_start: called when a run begins.
            at_end: called when a whole run is over.
            memory: of the caches of earlier runs.
            at_caches: called when a whole run is over, with the caches that it used or
                made.
        """
        self._snapshot = snapshot
        self._at_start = at_start
        self._at_end = at_end
        self._memory = memory or CacheMemory()
        self._at_caches = at_caches
        self._run: Pass | None = None
        self._is_repeated = False
        self._runs: RunsByInput[Pass] = RunsByInput()

    @property
    def is_repeating(self) -> bool:
        """Whether a backward pass repeats a part of an earlier run."""
        if self._in_progress() is not None:
            return self._is_repeated
        return self._runs.repeated is not None

    def current(self) -> Pass:
        """The run in progress.

        Where a part of the model is called by itself, that is a run of which nothing is
        known.
        """
        run = self._in_progress() or self._runs.repeated
        return run or Pass(self._snapshot(), self._memory)

    def begin(self, tensors: Sequence[Tensor] = ()) -> None:
        """A run begins, of a module that is called with these tensors."""
        if in_backward():
            recalled = [self._runs.recall(tensor, self) for tensor in tensors]
            self._run = next((run for run in recalled if run is not None), None)
            self._is_repeated = self._run is not None
            if self._is_repeated:
                return

        self._is_repeated = False
        self._runs.forget_the_dead()
        self._run = Pass(self._snapshot(), self._memory)
        for tensor in tensors:
            self._runs.record(tensor, self._run)
        self._at_start()

    def read(self, arguments: Mapping[str, Any]) -> None:
        """The run in progress calls a module with these arguments."""
        if self._run is not None and not self._is_repeated:
            self._run.read(arguments)

    def keep(self, tokens: Tensor) -> None:
        """The run in progress reads these token ids."""
        if self._run is not None and not self._is_repeated:
            self._run.tokens = tokens

    def enter(self, module: object, tensor: Tensor, *, is_running: bool) -> None:
        """A block, or a module in one, reads an activation.

        Args:
            module: the module.
            tensor: the activation.
            is_running: whether a call of the whole model is in progress.
        """
        if not is_running:
            # Its end was not reported, as when it was interrupted.
            self._run = None
        run = self._in_progress()
        if run is not None:
            self._runs.record(tensor, run)
        elif in_backward():
            self._runs.recall(tensor, module)

    def made(self, output: Any) -> None:
        """A model inside the one that runs returned this."""
        if self._run is not None and not self._is_repeated:
            self._run.made(output)

    def end(self, whole: bool, output: Any = None) -> None:
        """The run is over; ``whole`` is False if it was cut short."""
        run = self._run
        # The beginning of the next run may go unseen, as when a part of the model is
        # called, and nothing of this run applies to it.
        self._run = None
        if not whole or run is None or self._is_repeated:
            return
        self._at_caches(run.remember_caches(output))
        self._at_end()

    def _in_progress(self) -> Pass | None:
        is_over = self._run is not None and self._run.is_over
        return None if is_over else self._run
