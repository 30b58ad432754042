"""The sparse autoencoder.

Its parameters, the facts about its training, and the codes that it makes.
"""

from sae_lens_ext.sae.circuit_tracer import save_circuit_tracer
from sae_lens_ext.sae.code import SparseCode
from sae_lens_ext.sae.config import SAEConfig
from sae_lens_ext.sae.fvu import FVU
from sae_lens_ext.sae.normalization import TokenStatistics, gradient_by_token
from sae_lens_ext.sae.sae import SAE

__all__ = [
    "FVU",
    "SAE",
    "SAEConfig",
    "SparseCode",
    "TokenStatistics",
    "gradient_by_token",
    "save_circuit_tracer",
]
