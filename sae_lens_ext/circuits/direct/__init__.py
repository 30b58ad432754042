"""Direct effects of nodes on later nodes: those that pass no node in between.

======= ==========================================================================
targets the nodes that edges lead to
cuts    runs in which the nodes of every site are held
seeds   what a target reads of the activation at its site, as a gradient
sources what all earlier nodes give to each target, at every k
======= ==========================================================================
"""

from sae_lens_ext.circuits.direct.cuts import TOKENS, Cuts
from sae_lens_ext.circuits.direct.seeds import SiteReader
from sae_lens_ext.circuits.direct.sources import (
    Contributions,
    contributions,
    token_effects,
)
from sae_lens_ext.circuits.direct.targets import METRIC, Target, targets_of

__all__ = [
    "METRIC",
    "TOKENS",
    "Contributions",
    "Cuts",
    "SiteReader",
    "Target",
    "contributions",
    "targets_of",
    "token_effects",
]
