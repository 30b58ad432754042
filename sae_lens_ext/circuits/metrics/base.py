"""Metrics of the prediction at one position of every row."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.hosts import Host

TokenScore = Callable[[Float[Tensor, "batch d_vocab"]], Float[Tensor, " batch"]]
"""Takes the logits of one position per row, and returns a number per row."""

Reference = Callable[[str], Float[Tensor, "batch d_vocab"]]
"""Gives the logits at the same positions in the ``"clean"`` or ``"corrupted"`` run."""


class TokenMetric(ABC):
    """A metric of the prediction at one position of every row's text.

    Because it reads no other logits, the unembedding is not computed elsewhere.

    Attributes:
        position: in the text of every row; -1 is its last token.
    """

    position: int

    @abstractmethod
    def bound(self, host: Host, n_rows: int, reference: Reference) -> TokenScore:
        """The metric for the rows of a batch.

        Raises:
            InvalidArgument: it does not fit the model or the rows.
            ShapeMismatch: it has values for another number of rows.
        """
        ...

    @abstractmethod
    def described(self, row: int) -> str:
        """The metric of a row in words: the call that makes it."""
        ...

    def is_flat_at_clean(self) -> bool:
        """Whether the gradient at the clean run is zero by definition."""
        return False


def is_flat_at_clean(metric: object) -> bool:
    """Whether the gradient of any metric at the clean run is zero by definition."""
    return isinstance(metric, TokenMetric) and metric.is_flat_at_clean()


def description(metric: object, row: int) -> str:
    """The metric of a row in words: the call that makes it, or a function's name.

    >>> description(len, row=0)
    'len'
    """
    if isinstance(metric, TokenMetric):
        return metric.described(row)
    return getattr(metric, "__name__", type(metric).__name__)
