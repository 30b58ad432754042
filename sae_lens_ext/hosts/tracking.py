"""Which tokens and positions the forward pass in progress covers."""

from collections.abc import Callable

from torch import Tensor


class PassTracker:
    """Knows the token ids and the positions of the run in progress, so that a function at a site can choose among them.

    Attributes:
        tokens: ids of the run in progress, ``[batch, pos]``; in cached generation those of the current step. None when the
            model was not given tokens.
        start: how many positions came before this run's, in a cache.
    """

    def __init__(
        self, at_start: Callable[[], object], at_end: Callable[[], object]
    ) -> None:
        """Know nothing yet; ``at_start`` is called whenever a run begins, ``at_end`` when it is whole."""
        self.tokens: Tensor | None = None
        self.start = 0
        self._at_start, self._at_end = at_start, at_end

    def begin(self, start: int) -> None:
        """A run begins, behind ``start`` positions in a cache."""
        # Otherwise a run that starts from activations would be masked by the tokens of the run before it.
        self.tokens, self.start = None, start
        self._at_start()

    def keep(self, tokens: Tensor) -> None:
        """These are its tokens."""
        self.tokens = tokens

    def end(self, whole: bool) -> None:
        """The run is over; ``whole`` unless it was cut short."""
        # What is run next without its beginning being seen, such as a part of the model, has nothing of this run's.
        self.tokens, self.start = None, 0
        if whole:
            self._at_end()
