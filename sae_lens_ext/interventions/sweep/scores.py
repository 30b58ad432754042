"""Cross-entropy and KL divergence of next-token logits, against a bare run that is held once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts import Host


def rows_that_fit(host: Host, scored: Int[Tensor, " scored"], memory_mb: int) -> int:
    """How many rows' logits fit into this much memory: in float32, 262,144 words are a megabyte for every scored position.

    Raises:
        UnsupportedHost: the model does not say how many words it knows.
    """
    if host.d_vocab is None:
        raise UnsupportedHost(
            f"cannot tell which module of a {type(host.model).__name__} makes the logits; give a language model"
        )
    return max(1, (memory_mb << 20) // (4 * host.d_vocab * len(scored)))


class BareScores:
    """The unchanged model's predictions, and how others compare with them; sums over the tokens that count, in nats.

    Attributes:
        ce: summed cross-entropy of the bare model.
    """

    def __init__(
        self,
        logits: Float[Tensor, "batch scored d_vocab"],
        targets: Int[Tensor, "batch scored"],
        counts: Bool[Tensor, "batch scored"],
    ) -> None:
        """Keep what comparing needs: the bare probabilities and their logarithms."""
        self._targets, self._counts = targets, counts
        self._log_probs = logits.float().log_softmax(dim=-1)
        self._probs = self._log_probs.exp()
        self.ce = self._cross_entropy(self._log_probs)

    def compare(
        self, logits: Float[Tensor, "batch scored d_vocab"]
    ) -> tuple[float, float]:
        """(cross-entropy, KL divergence from the bare distribution), each summed."""
        log_probs = logits.float().log_softmax(dim=-1)
        ce = self._cross_entropy(log_probs)
        # The difference first: summing p log p and p log q apart would cancel, and err by more than small divergences.
        return ce, self._sum(
            torch.linalg.vecdot(self._probs, log_probs.neg_().add_(self._log_probs))
        )

    def _cross_entropy(self, log_probs: Float[Tensor, "batch scored d_vocab"]) -> float:
        return self._sum(-log_probs.gather(-1, self._targets.unsqueeze(-1)).squeeze(-1))

    def _sum(self, per_token: Float[Tensor, "batch scored"]) -> float:
        return per_token[self._counts].double().sum().item()
