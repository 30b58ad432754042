"""The main job on a real model: the bundled language model, SAEs for it, the demo.

Neither needs a model hub: the model installs from the package index and is prepared
once, and the SAEs are files of this package.
"""

from sae_lens_ext.demo.bundled import (
    BUNDLED,
    cache_folder,
    load_bundled,
    load_folder,
    prepare_bundled,
)
from sae_lens_ext.demo.sae import (
    DEMO_SAES,
    DEMO_SITE,
    demo_activations,
    demo_sae,
    held_out_tokens,
)

__all__ = [
    "BUNDLED",
    "DEMO_SAES",
    "DEMO_SITE",
    "cache_folder",
    "demo_activations",
    "demo_sae",
    "held_out_tokens",
    "load_bundled",
    "load_folder",
    "prepare_bundled",
]
