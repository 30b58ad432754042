"""The interface of every stream of activations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


class SiteStatistics(NamedTuple):
    """Constants of one site, estimated from a stream's first tokens."""

    mean: Float[Tensor, " d_model"]
    """The mean of each coordinate."""
    scale: Float[Tensor, ""]
    """The factor that gives centred activations a mean square of 1 per coordinate."""
    largest_norm: Float[Tensor, ""]
    """The norm that outliers are shrunk to; infinite where none are."""


class StreamState(NamedTuple):
    """Where a stream stands, to go on from there bit for bit."""

    facts: Mapping[str, Any]
    """Numbers and names; JSON values."""
    tensors: Mapping[str, Tensor]
    """What is too large for JSON: the tokens that wait in a buffer, random states."""


@runtime_checkable
class ActivationStream(Protocol):
    """Activations of one or several sites, token by token, in a fixed order.

    Two streams that are made alike give the same batches, and so does one that was
    restored to the state of the other. Training with a metric of errors needs one more
    method: see ``RemembersFirst``. A stream with a thread of its own has another: see
    ``Pausable``.

    Attributes:
        sites: the names of the sites.
        model_name: name of the model, if it is known.
        excludes_special_tokens: whether special tokens are left out.
    """

    sites: tuple[str, ...]
    model_name: str | None
    excludes_special_tokens: bool

    @property
    def n_tokens(self) -> int | None:
        """How many tokens the whole stream gives; None where that is not known."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """What has happened to tokens so far, by name.

        ``"given"``; ``"special"``, left out; ``"outliers"``, shrunk, where a token
        counts at every site at which it is an outlier.
        """
        ...

    def width(self, site: str) -> int:
        """The width of the activations of a site."""
        ...

    def statistics(self) -> Mapping[str, SiteStatistics]:
        """The constants of every site, from the stream's first tokens.

        The first call may have to compute them; they are part of the state then.

        Raises:
            NonFinite: activations contain NaN or infinity.
            InvalidArgument: there are no activations, or they are all equal.
        """
        ...

    def next_batch(self, n_tokens: int) -> Mapping[str, Float[Tensor, "token d"]]:
        """The next tokens, shuffled, outliers shrunk; the same ones at every site.

        Fewer than ``n_tokens`` at the end of the stream, and then none. They are on the
        stream's device and in its dtype, float32 or bfloat16 as a rule.

        Raises:
            NonFinite: activations contain NaN or infinity; the error names the site.
        """
        ...

    def state(self) -> StreamState:
        """Where the stream stands."""
        ...

    def restore(self, state: StreamState) -> None:
        """Go on from a state of a stream that was made alike.

        Raises:
            FormatError: it is the state of another stream.
        """
        ...


@runtime_checkable
class RemembersFirst(Protocol):
    """A stream that can still give the tokens that its constants are of."""

    def first_tokens(self, site: str) -> Float[Tensor, "token d"]:
        """The tokens that ``statistics`` is of, outliers shrunk, in any order.

        Called before the first batch. They are given in batches all the same.

        Raises:
            InvalidArgument: they are not there any more.
        """
        ...


@runtime_checkable
class Pausable(Protocol):
    """A stream that may run its model in a thread of its own.

    ``train`` pauses it before the model is used for something else: for held-out
    tokens, for a measure, and when the training ends.
    """

    def pause(self) -> None:
        """Return when the model is not running.

        It does not run again before the next batch is asked for.
        """
        ...


def pause(stream: Any) -> None:
    """Let no thread of a stream run its model before the next batch is asked for.

    Nothing happens to what has no thread: other streams, or tensors.
    """
    if isinstance(stream, Pausable):
        stream.pause()


@contextmanager
def pausing(stream: ActivationStream) -> Iterator[None]:
    """Pause a stream at the end of a block, however it ends."""
    try:
        yield
    finally:
        pause(stream)
