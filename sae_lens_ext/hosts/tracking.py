"""Which tokens and positions the forward pass in progress covers."""

from collections.abc import Callable

from torch import Tensor


class PassTracker:
    """The token ids and the positions of the run in progress.

    A function at a site consults it to choose among the positions. Its methods are the
    callbacks of ``Host.watch``.

    Attributes:
        tokens: ids of the run in progress, ``[batch, pos]``; in cached generation those
            of the current step. None if the model was not called with tokens.
        start: how many positions came before this run's, in a cache.
    """

    def __init__(
        self, at_start: Callable[[], object], at_end: Callable[[], object]
    ) -> None:
        """Call ``at_start`` when a run begins, ``at_end`` when a whole one is over."""
        self.tokens: Tensor | None = None
        self.start = 0
        self._at_start = at_start
        self._at_end = at_end

    def begin(self, start: int) -> None:
        """A run begins, after ``start`` positions in a cache."""
        # Otherwise a run that starts from activations would be masked by the tokens of
        # the run before it.
        self.tokens = None
        self.start = start
        self._at_start()

    def keep(self, tokens: Tensor) -> None:
        """Remember the token ids of the run in progress."""
        self.tokens = tokens

    def end(self, whole: bool) -> None:
        """The run is over; ``whole`` is False if it was cut short."""
        # The beginning of the next run may go unseen, as when a part of the model is
        # called, and nothing of this run applies to it.
        self.tokens = None
        self.start = 0
        if whole:
            self._at_end()
