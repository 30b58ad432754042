"""A real language model that needs no model hub: it installs from the package index and is prepared once."""

from typing import Any, Literal, get_args

from sae_lens_ext._optional import require
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.models.bundled import BUNDLED, cache_folder, load_folder, prepare_bundled

__all__ = ["BUNDLED", "cache_folder", "load_bundled", "load_folder", "prepare_bundled"]

Library = Literal["transformer-lens", "nnsight", "torch"]


def load_bundled(name: str = "gemma-3-270m", library: Library = "transformer-lens", *, progress: bool = True) -> Any:
    """A bundled model in float32; its first use prepares it, in about 70 seconds.

    Args:
        name: which; a key of ``BUNDLED``.
        library: as a TransformerLens ``TransformerBridge``, an nnsight ``TransformersModel``, or the Hugging Face module itself.
        progress: whether to show a progress bar while preparing.

    Raises:
        InvalidArgument: no bundled model of that name, or no such library.
        MissingDependency: the ``demo`` extra, or the library, is not installed.
    """
    if library not in get_args(Library):
        raise InvalidArgument(f"library must be one of {', '.join(get_args(Library))}; got {library!r}")
    model, tokenizer = load_folder(prepare_bundled(name, progress=progress))
    if library == "torch":
        return model
    host = {"transformer-lens": "lens", "nnsight": "nnsight"}[library]
    return require(f"sae_lens_ext.hosts.{host}", "Opening the bundled model").boot(model, tokenizer)
