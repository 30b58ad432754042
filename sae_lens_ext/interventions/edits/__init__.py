"""Edits of features and activations in a splice, as frozen values.

They can be printed, compared and written as JSON, and act in the order of their list.
Edits of features read and write the code of each token, in units of the SAE's
activations; a feature that is not among the token's k strongest has activation 0.
``AddDirection`` acts on the activation itself.
"""

from sae_lens_ext.interventions.edits.base import Edit, FeatureEdit
from sae_lens_ext.interventions.edits.direction import AddDirection
from sae_lens_ext.interventions.edits.features import (
    Ablate,
    Clamp,
    Patch,
    Scale,
    Steer,
)
from sae_lens_ext.interventions.edits.serialization import (
    edits_from_json,
    edits_to_json,
)

__all__ = [
    "Ablate",
    "AddDirection",
    "Clamp",
    "Edit",
    "FeatureEdit",
    "Patch",
    "Scale",
    "Steer",
    "edits_from_json",
    "edits_to_json",
]
