"""Bytes on disk <-> a plain description and tensors. Nothing here knows what an SAE, or a model, computes.

========== ========================================== ============
module     folder                                      reads/writes
========== ========================================== ============
saelens    cfg.json + sae_weights.safetensors          both
sparsify   cfg.json + sae.safetensors                  reads
weights    a model's safetensors, or its ``.bin``      reads
========== ========================================== ============

No pickle is written, nor read but for the tensors in it (see ``weights``). Every write goes to a temporary name first and is renamed when
it is complete.
"""

from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.detect import read_sae
from sae_lens_ext.formats.locate import locate
from sae_lens_ext.formats.saelens import write_saelens

__all__ = ["SAECheckpoint", "locate", "read_sae", "write_saelens"]
