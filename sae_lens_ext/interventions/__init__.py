"""What to do to an activation while a model runs: put an SAE's reconstruction in its place, at any k."""

from sae_lens_ext.interventions.splice import Splice, splice
from sae_lens_ext.interventions.sweep import sweep_k

__all__ = ["Splice", "splice", "sweep_k"]
