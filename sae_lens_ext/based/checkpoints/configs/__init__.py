"""The ``config.json`` of each publication, as the fields of ``BasedConfig``.

Each reader is given what the weights show: their shapes, and the kernel they belong to.
Mixers are recognised by their role. A config names a class path for each role
(``_target_``, ``name``), which is neither imported nor trusted.
"""

from sae_lens_ext.based.checkpoints.configs.fla import from_fla
from sae_lens_ext.based.checkpoints.configs.hub import from_hub
from sae_lens_ext.based.checkpoints.configs.zoology import from_zoology

__all__ = ["from_fla", "from_hub", "from_zoology"]
