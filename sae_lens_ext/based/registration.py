"""Makes the model known to ``transformers`` and TransformerLens.

``transformers`` is told once: its Auto classes then read folders of the model.

TransformerLens reads entry points, ``transformer_lens.architectures`` in ``pyproject.toml``,
but ``boot_transformers`` looks an architecture up in a table of its own before it does so, in
3.9 and in 4.3. The architecture is added to that table as soon as a config exists while
TransformerLens is loaded, which is before ``boot_transformers`` can ask: it reads the config
first. Until then TransformerLens may not be there, and must not be loaded for this alone.
"""

import importlib
import sys

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.model import BasedForCausalLM, BasedModel

_TABLE_MODULE = "transformer_lens.factories.architecture_adapter_factory"


def register() -> None:
    """Register with ``transformers`` now, with TransformerLens when it is there."""
    AutoConfig.register(BasedConfig.model_type, BasedConfig, exist_ok=True)
    AutoModel.register(BasedConfig, BasedModel, exist_ok=True)
    AutoModelForCausalLM.register(BasedConfig, BasedForCausalLM, exist_ok=True)
    BasedConfig.when_created = staticmethod(register_with_transformer_lens)


def register_with_transformer_lens() -> None:
    """Add the architecture to the table of TransformerLens, if TransformerLens is loaded."""
    factory = sys.modules.get(_TABLE_MODULE)
    if factory is None:
        return
    bridge = importlib.import_module("sae_lens_ext.based.bridge")
    factory.SUPPORTED_ARCHITECTURES.setdefault(
        "BasedForCausalLM", bridge.BasedArchitectureAdapter
    )
