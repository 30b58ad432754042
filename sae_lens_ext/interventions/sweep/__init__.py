"""Sweeps over k: a model's predictions with SAEs spliced in, at every k.

A sweep puts the model into several worlds: a world at every k, and the bare,
mean-ablated and zero-ablated ends that they are compared with. ``sweep_k`` makes the
table; ``SweptModel`` makes the logits of each world, and ``BareScores`` compares them
with the bare model's.
"""

from sae_lens_ext.interventions.sweep.scores import BareScores, rows_that_fit
from sae_lens_ext.interventions.sweep.swept_model import SweptModel
from sae_lens_ext.interventions.sweep.table import sweep_k
from sae_lens_ext.interventions.sweep.worlds import (
    Bare,
    MeanAblated,
    Spliced,
    World,
    ZeroAblated,
)

__all__ = [
    "Bare",
    "BareScores",
    "MeanAblated",
    "Spliced",
    "SweptModel",
    "World",
    "ZeroAblated",
    "rows_that_fit",
    "sweep_k",
]
