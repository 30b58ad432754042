"""How far a prediction is from that of a reference run."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.circuits.metrics.base import Reference, TokenMetric, TokenScore
from sae_lens_ext.errors import NonFinite, ShapeMismatch
from sae_lens_ext.hosts import Host

KLReference = Literal["clean", "corrupted"] | Float[Tensor, "*batch d_vocab"]
"""The run, or the logits, of the distribution to compare with."""


@dataclass(frozen=True, eq=False)
class KLDivergence(TokenMetric):
    """The metric that ``kl`` makes.

    Attributes:
        reference: the name of a run, or logits ``[batch, d_vocab]``.
        position: in the text of every row.
    """

    reference: KLReference = "clean"
    position: int = -1

    def bound(self, host: Host, n_rows: int, reference: Reference) -> TokenScore:
        """See ``TokenMetric.bound``."""
        if isinstance(self.reference, Tensor):
            logits = self.reference
        else:
            logits = reference(self.reference)
        _check(logits, n_rows, host.d_vocab)
        target = _log_probs(logits.detach())

        def score(logits: Tensor) -> Tensor:
            log_ratio = target.to(logits.device) - _log_probs(logits)
            return torch.linalg.vecdot(target.exp().to(log_ratio), log_ratio)

        return score

    def __repr__(self) -> str:
        """The name of the run, or that the reference is logits."""
        reference = self.reference if isinstance(self.reference, str) else "logits"
        return f"KLDivergence({reference!r}, position={self.position})"

    def described(self, row: int) -> str:
        """See ``TokenMetric.described``.

        >>> kl("corrupted", position=3).described(row=0)
        "kl('corrupted', position=3)"
        """
        reference = "logits"
        if isinstance(self.reference, str):
            reference = repr(self.reference)
        place = "" if self.position == -1 else f", position={self.position}"
        return f"kl({reference}{place})"

    def is_flat_at_clean(self) -> bool:
        """The divergence of a run from itself has its minimum there."""
        return isinstance(self.reference, str) and self.reference == "clean"


def kl(reference: KLReference = "clean", *, position: int = -1) -> KLDivergence:
    """The KL divergence of a row's prediction from that of a reference, in nats.

    It is the sum of p (log p - log q) with p the reference and q the run. At the clean
    run, its divergence from itself is 0 and has no gradient: with ``"clean"``, use the
    methods ``"integrated_gradients"`` or ``"ablation"``.

    Args:
        reference: ``"clean"`` or ``"corrupted"``, for the prediction of that run, or
            logits ``[batch, d_vocab]`` or ``[d_vocab]``.
        position: as in ``logit_difference``.

    Raises:
        InvalidArgument: another name, or a position that is not an integer.
        ShapeMismatch: logits of another shape.
    """
    position = arguments.integer(position, "position")
    checked: Any = reference
    if not isinstance(reference, Tensor):
        checked = arguments.choice(reference, "reference", ("clean", "corrupted"))
    elif reference.ndim not in (1, 2) or not reference.is_floating_point():
        raise ShapeMismatch(
            "reference must be logits [batch, d_vocab] or [d_vocab]; got a "
            f"{reference.dtype} tensor {list(reference.shape)}"
        )
    return KLDivergence(checked, position)


def _check(logits: Tensor, n_rows: int, d_vocab: int | None) -> None:
    table = logits.reshape(-1, logits.shape[-1])
    if len(table) not in (1, n_rows) or d_vocab not in (None, table.shape[1]):
        raise ShapeMismatch(
            f"reference is {list(logits.shape)}, and the predictions are "
            f"{[n_rows, d_vocab]} (batch, d_vocab)"
        )
    if not torch.isfinite(logits).all():
        raise NonFinite(
            "the logits of the reference hold NaN or infinity, so a divergence from "
            "them is not a number"
        )


def _log_probs(logits: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(dim=-1)
