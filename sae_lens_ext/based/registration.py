"""Makes the model known to ``transformers`` and TransformerLens.

The Auto classes of ``transformers`` are registered once, and then read folders of the
model.

TransformerLens finds architectures by the entry point
``transformer_lens.architectures`` in ``pyproject.toml``. But ``boot_transformers``
looks an architecture up in a table of its own before it reads entry points, in 3.9 and
in 4.3. It reads the config before that, so the architecture is added to the table as
soon as a config is made while TransformerLens is loaded. TransformerLens is optional,
and too large to be loaded for this alone.
"""

import importlib
import sys

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.model import BasedForCausalLM, BasedModel

_TABLE_MODULE = "transformer_lens.factories.architecture_adapter_factory"


def register() -> None:
    """Register with ``transformers`` now, with TransformerLens once it is loaded."""
    AutoConfig.register(BasedConfig.model_type, BasedConfig, exist_ok=True)
    AutoModel.register(BasedConfig, BasedModel, exist_ok=True)
    AutoModelForCausalLM.register(BasedConfig, BasedForCausalLM, exist_ok=True)
    BasedConfig.creation_hooks[:] = [register_with_transformer_lens]


def register_with_transformer_lens() -> None:
    """Add the architecture to TransformerLens' table, if TransformerLens is loaded."""
    factory = sys.modules.get(_TABLE_MODULE)
    if factory is None:
        return
    # Imported here, because the bridge imports TransformerLens.
    bridge = importlib.import_module("sae_lens_ext.based.bridge")
    factory.SUPPORTED_ARCHITECTURES.setdefault(
        "BasedForCausalLM", bridge.BasedArchitectureAdapter
    )
