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
        """Keep what comparing needs: the bare probabilities and their entropy."""
        self._targets, self._counts = targets, counts
        log_probs = logits.float().log_softmax(dim=-1)
        self.ce = self._sum(-log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1))
        self._probs = log_probs.exp()
        self._negative_entropy = torch.linalg.vecdot(self._probs, log_probs)

    def compare(self, logits: Float[Tensor, "batch scored d_vocab"]) -> tuple[float, float]:
        """(cross-entropy, KL divergence from the bare distribution), each summed."""
        logits = logits.float()
        log_normaliser = logits.logsumexp(dim=-1)
        ce = log_normaliser - logits.gather(-1, self._targets.unsqueeze(-1)).squeeze(-1)
        # KL(p || q) = sum p log p - sum p (logit - log Z), without a second [batch, scored, d_vocab] tensor.
        kl = self._negative_entropy - torch.linalg.vecdot(self._probs, logits) + log_normaliser
        return self._sum(ce), self._sum(kl)

    def _sum(self, per_token: Float[Tensor, "batch scored"]) -> float:
        return per_token[self._counts].double().sum().item()
