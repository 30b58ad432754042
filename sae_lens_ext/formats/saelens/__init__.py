"""Folders and objects of SAELens, versions 3 to 6.

======== ======================================================================
module   what
======== ======================================================================
config   cfg.json of any version -> one description of what the SAE computes
convert  a description and tensors -> a checkpoint
read     a folder -> a checkpoint
write    a checkpoint -> a folder of version 6
======== ======================================================================

SAELens loads the tensors of a folder strictly, so anything beyond its format goes
elsewhere: facts into ``metadata.sae_lens_ext`` of cfg.json; and the mean and scale of
the activations, which the tensors already contain, into ``normalization.safetensors``
beside them.
"""

from sae_lens_ext.formats.saelens.convert import checkpoint_from_saelens
from sae_lens_ext.formats.saelens.read import read_saelens
from sae_lens_ext.formats.saelens.write import saelens_extension, write_saelens

__all__ = [
    "checkpoint_from_saelens",
    "read_saelens",
    "saelens_extension",
    "write_saelens",
]
