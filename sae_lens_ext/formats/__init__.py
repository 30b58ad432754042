"""Bytes on disk <-> a plain description and tensors.

Nothing here knows what an SAE, or a model, computes.

========== ===================================== ================
module     folder                                direction
========== ===================================== ================
saelens    cfg.json + sae_weights.safetensors    reads and writes
sparsify   cfg.json + sae.safetensors            reads
weights    a model's safetensors, or ``.bin``    reads
========== ===================================== ================

No pickle is written; of one that is read, only tensors are accepted (see ``weights``).
Every file is written under a temporary name and renamed when it is complete.
"""

from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.detect import read_sae
from sae_lens_ext.formats.locate import locate
from sae_lens_ext.formats.saelens import write_saelens

__all__ = ["SAECheckpoint", "locate", "read_sae", "write_saelens"]
