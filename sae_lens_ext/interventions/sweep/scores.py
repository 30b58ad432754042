"""Cross-entropy and KL divergence of logits, against those of the bare model."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts import Host


def rows_that_fit(host: Host, scored: Int[Tensor, " scored"], memory_mb: int) -> int:
    """The number of rows whose logits fit into this much memory, at least one.

    In float32, a vocabulary of 262,144 takes a megabyte for every scored position.

    Args:
        host: the model.
        scored: positions of a row whose logits are computed.
        memory_mb: the memory, in MiB.

    Raises:
        UnsupportedHost: the model does not say how large its vocabulary is.
    """
    if host.d_vocab is None:
        raise UnsupportedHost(
            f"cannot tell which module of a {type(host.model).__name__} makes the "
            "logits; give a language model"
        )

    n_bytes = memory_mb << 20
    # Four bytes per number in float32.
    bytes_per_position = 4 * host.d_vocab
    bytes_per_row = bytes_per_position * len(scored)
    return max(1, n_bytes // bytes_per_row)


class BareScores:
    """The bare model's predictions, and how those of other worlds compare with them.

    Scores are sums over the tokens that count, in nats.

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
        self._targets = targets
        self._counts = counts
        # In one step, so that a float32 copy of the logits is not held beside it.
        self._log_probs = logits.float().log_softmax(dim=-1)
        self._probs = self._log_probs.exp()
        self.ce = self._cross_entropy(self._log_probs)

    def compare(
        self, logits: Float[Tensor, "batch scored d_vocab"]
    ) -> tuple[float, float]:
        """Cross-entropy, and KL divergence from the bare distribution, each summed."""
        log_probs = logits.float().log_softmax(dim=-1)
        ce = self._cross_entropy(log_probs)

        # The difference first: summing p log p and p log q apart would cancel, and err
        # by more than small divergences. In place, because the tensor is the largest
        # here.
        log_ratio = log_probs.neg_().add_(self._log_probs)
        kl = torch.linalg.vecdot(self._probs, log_ratio)
        return ce, self._sum(kl)

    def _cross_entropy(self, log_probs: Float[Tensor, "batch scored d_vocab"]) -> float:
        targets = self._targets.unsqueeze(-1)
        target_log_probs = log_probs.gather(-1, targets)
        return self._sum(-target_log_probs.squeeze(-1))

    def _sum(self, per_token: Float[Tensor, "batch scored"]) -> float:
        counted = per_token[self._counts]
        # In float64, because a sweep sums over many thousands of tokens.
        total = counted.double().sum()
        return total.item()
