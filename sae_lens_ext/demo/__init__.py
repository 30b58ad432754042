"""The main job on a real model: the bundled language model, an SAE for it, the demo.

The model needs no model hub: it installs from the package index and is prepared once.
"""

from sae_lens_ext.demo.bundled import (
    BUNDLED,
    cache_folder,
    load_bundled,
    load_folder,
    prepare_bundled,
)
from sae_lens_ext.demo.sae import DEMO_SITE, demo_activations, demo_sae, held_out_tokens

__all__ = [
    "BUNDLED",
    "DEMO_SITE",
    "cache_folder",
    "demo_activations",
    "demo_sae",
    "held_out_tokens",
    "load_bundled",
    "load_folder",
    "prepare_bundled",
]
