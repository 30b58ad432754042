"""How a model does with SAEs spliced in, at every k."""

from sae_lens_ext.interventions.sweep.table import sweep_k

__all__ = ["sweep_k"]
