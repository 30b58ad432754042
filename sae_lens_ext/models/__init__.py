"""A real language model that needs no model hub: it installs from the package index and is prepared once."""

from sae_lens_ext.models.bundled import BUNDLED, prepare_bundled

__all__ = ["BUNDLED", "prepare_bundled"]
