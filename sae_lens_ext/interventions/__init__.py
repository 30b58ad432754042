"""Interventions on activations while a model runs: splices, edits, sweeps over k."""

from sae_lens_ext.interventions.dial import KRule, until_fvu
from sae_lens_ext.interventions.directions import difference_in_means
from sae_lens_ext.interventions.edits import (
    Ablate,
    AddDirection,
    Clamp,
    Edit,
    Patch,
    Scale,
    Steer,
    edits_from_json,
    edits_to_json,
)
from sae_lens_ext.interventions.guard import ChosenK
from sae_lens_ext.interventions.recording import Run
from sae_lens_ext.interventions.splice import Splice, splice
from sae_lens_ext.interventions.sweep import sweep_k
from sae_lens_ext.interventions.until_kl import until_kl

__all__ = [
    "Ablate",
    "AddDirection",
    "ChosenK",
    "Clamp",
    "Edit",
    "KRule",
    "Patch",
    "Run",
    "Scale",
    "Splice",
    "Steer",
    "difference_in_means",
    "edits_from_json",
    "edits_to_json",
    "splice",
    "sweep_k",
    "until_fvu",
    "until_kl",
]
