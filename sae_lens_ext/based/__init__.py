"""Based and ReBased: language models with linear attention, open to inspection.

>>> from sae_lens_ext.based import BasedConfig, BasedForCausalLM
>>> shape = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
>>> config = BasedConfig(**shape, num_attention_heads=2, feature_dim=4)
>>> sum(parameter.numel() for parameter in BasedForCausalLM(config).parameters())
23584

Importing this package registers the models with the Auto classes of ``transformers``.
"""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sae_lens_ext._optional import require
from sae_lens_ext.based.cache import BasedCache
from sae_lens_ext.based.checkpoints import load_checkpoint
from sae_lens_ext.based.config import FEATURE_MAPS, BasedConfig
from sae_lens_ext.based.model import BasedForCausalLM, BasedModel
from sae_lens_ext.based.presets import PRESETS, preset
from sae_lens_ext.based.registration import register
from sae_lens_ext.errors import InvalidArgument

register()

KERNELS = FEATURE_MAPS
"""An earlier name of ``FEATURE_MAPS``."""

__all__ = [
    "FEATURE_MAPS",
    "KERNELS",
    "PRESETS",
    "BasedCache",
    "BasedConfig",
    "BasedForCausalLM",
    "BasedModel",
    "boot",
    "load_checkpoint",
    "preset",
]


def boot(
    config_or_path: BasedConfig | BasedForCausalLM | str | Path,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
) -> Any:
    """Open a Based or ReBased model in TransformerLens, in eval mode.

    Args:
        config_or_path: a config, for a model with random weights; a folder or hub
            repository, as for ``load_checkpoint``; or a model, which the bridge takes
            apart, so that only the bridge can be used afterwards.
        tokenizer: the tokenizer for text that is given to the bridge; None loads that
            of the folder, if it has one.
        revision: branch, tag or commit of the repository.

    Returns:
        A ``TransformerBridge``.

    Raises:
        MissingDependency: TransformerLens is not installed.
        FormatError: the folder or repository holds no model; see ``load_checkpoint``.
        InvalidArgument: the model is in a bridge already, has hooks on its taps, or is
            not a Based model.
    """
    bridge = require("sae_lens_ext.based.bridge", "A TransformerBridge")
    if isinstance(config_or_path, BasedConfig):
        model = BasedForCausalLM(config_or_path)
    elif isinstance(config_or_path, BasedForCausalLM):
        model = config_or_path
    elif isinstance(config_or_path, str | Path):
        model = load_checkpoint(config_or_path, revision=revision)
        has_tokenizer = (Path(config_or_path) / "tokenizer_config.json").exists()
        if tokenizer is None and has_tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(config_or_path)
    else:
        raise InvalidArgument(
            "boot takes a BasedConfig, a BasedForCausalLM, or a folder or repository "
            f"of one; got an object of type {type(config_or_path).__name__}"
        )
    return bridge.bridged(model.eval(), tokenizer)
