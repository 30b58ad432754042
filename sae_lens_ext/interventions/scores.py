"""Cross-entropy and KL divergence of next-token logits, against a bare run that is held once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.hosts import Host

# Logits of one batch, in bytes: 262,144 words in float32 are a megabyte per scored position, and a few copies live at once.
_LOGIT_BYTES = 256 << 20


def logits_per_batch(host: Host, scored: Int[Tensor, " scored"]) -> int:
    """How many rows fit into the memory set aside for logits."""
    d_vocab = int(host.model.cfg.d_vocab)
    return max(1, _LOGIT_BYTES // (4 * d_vocab * len(scored)))


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

    def compare(self, logits: Float[Tensor, "batch scored d_vocab"]) -> tuple[float, float]:
        """(cross-entropy, KL divergence from the bare distribution), each summed."""
        log_probs = logits.float().log_softmax(dim=-1)
        ce = self._cross_entropy(log_probs)
        # The difference first: summing p log p and p log q apart would cancel, and err by more than small divergences.
        return ce, self._sum(torch.linalg.vecdot(self._probs, log_probs.neg_().add_(self._log_probs)))

    def _cross_entropy(self, log_probs: Float[Tensor, "batch scored d_vocab"]) -> float:
        return self._sum(-log_probs.gather(-1, self._targets.unsqueeze(-1)).squeeze(-1))

    def _sum(self, per_token: Float[Tensor, "batch scored"]) -> float:
        return per_token[self._counts].double().sum().item()
