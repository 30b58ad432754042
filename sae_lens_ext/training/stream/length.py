"""How long a stream is: in passes over its source, in tokens, or both."""

from typing import NamedTuple

from sae_lens_ext import _arguments as arguments


class Length(NamedTuple):
    """When a stream ends."""

    epochs: int | None
    """Passes over the source; None for as many as ``n_tokens`` takes."""
    n_tokens: int | None
    """Tokens after which it ends."""

    @classmethod
    def checked(cls, epochs: int | None, n_tokens: int | None) -> "Length":
        """What a user asked for: one pass, where nothing is.

        Raises:
            InvalidArgument: a number below 1.
        """
        if epochs is not None:
            epochs = arguments.positive_int(epochs, "epochs")
        if n_tokens is not None:
            n_tokens = arguments.positive_int(n_tokens, "n_tokens")
        if epochs is None and n_tokens is None:
            epochs = 1
        return cls(epochs, n_tokens)

    def has_epoch(self, epoch: int) -> bool:
        """Whether there is a pass of this number, counted from 0."""
        return self.epochs is None or epoch < self.epochs

    def left(self, n_before: int) -> int | None:
        """How many tokens may come after this many; None for no bound."""
        return None if self.n_tokens is None else max(0, self.n_tokens - n_before)

    def total(self, per_epoch: int | None) -> int | None:
        """How many tokens the stream gives; None where that is not known.

        Args:
            per_epoch: tokens of one pass, if they are known.
        """
        if self.epochs is None:
            return self.n_tokens
        if per_epoch is None:
            return None
        n_tokens = self.epochs * per_epoch
        return n_tokens if self.n_tokens is None else min(n_tokens, self.n_tokens)
