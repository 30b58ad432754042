"""What an effect is an effect on: numbers computed from the logits of a run."""

from sae_lens_ext.circuits.metrics.base import (
    Reference,
    TokenMetric,
    description,
    is_flat_at_clean,
)
from sae_lens_ext.circuits.metrics.kl import KLDivergence, kl
from sae_lens_ext.circuits.metrics.logit_difference import (
    LogitDifference,
    logit_difference,
)

__all__ = [
    "KLDivergence",
    "LogitDifference",
    "Reference",
    "TokenMetric",
    "description",
    "is_flat_at_clean",
    "kl",
    "logit_difference",
]
