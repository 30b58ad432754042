"""Which features of a run a prediction depends on, at every k.

=========== ======================================================================
effects     ``effects``: the effect of every feature and error on a metric
metrics/    what an effect is an effect on
result      ``Effects``: the table at any k, from one run
----------- ----------------------------------------------------------------------
prompts     clean and corrupted rows, and the positions of nodes
measurement a metric of the runs of a model
runs        runs that record activations, the metric, and its gradient
freezing/   attention patterns and norms held at their values in the clean run
analysis    the runs that every method begins with
integrated  the mean gradient between corrupted and clean activations
ablation    one node after the other set to its corrupted value
----------- ----------------------------------------------------------------------
encoded     what an SAE says of the activations at a site
projections what a feature would add to the metric, per unit of activation
nodes       effects of the nodes of one site at every k
table       the same as flat arrays, from which a table at any k is read
=========== ======================================================================
"""

from sae_lens_ext.circuits.ablation import MeasuredEffects
from sae_lens_ext.circuits.effects import effects
from sae_lens_ext.circuits.metrics import (
    KLDivergence,
    LogitDifference,
    TokenMetric,
    kl,
    logit_difference,
)
from sae_lens_ext.circuits.nodes import SiteEffects
from sae_lens_ext.circuits.result import Effects

__all__ = [
    "Effects",
    "KLDivergence",
    "LogitDifference",
    "MeasuredEffects",
    "SiteEffects",
    "TokenMetric",
    "effects",
    "kl",
    "logit_difference",
]
