"""A real language model that needs no model hub: it installs from the package index and is prepared once."""

from typing import Any

from sae_lens_ext._optional import require
from sae_lens_ext.models.bundled import BUNDLED, cache_folder, prepare_bundled

__all__ = ["BUNDLED", "cache_folder", "load_bundled", "prepare_bundled"]


def load_bundled(name: str = "gemma-3-270m", *, progress: bool = True) -> Any:
    """A bundled model as a TransformerLens ``TransformerBridge`` in float32; its first use prepares it, in about 70 seconds.

    Raises:
        InvalidArgument: no bundled model of that name.
        MissingDependency: the ``demo`` extra is not installed.
    """
    folder = prepare_bundled(name, progress=progress)
    return require("sae_lens_ext.hosts.lens", "Opening the bundled model").boot(str(folder))
