"""Based and ReBased: language models with linear attention that can be looked into.

>>> from sae_lens_ext.based import BasedConfig, BasedForCausalLM
>>> config = BasedConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, feature_dim=4)
>>> sum(parameter.numel() for parameter in BasedForCausalLM(config).parameters())
23584

Importing this registers them with the Auto classes of ``transformers``.
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
"""The name that the table had first."""

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
    """A ``TransformerBridge``: a Based or ReBased model in TransformerLens, in eval mode.

    Args:
        config_or_path: a config, for a model with random weights; a folder or hub repository, as for ``load_checkpoint``; or a model, which
            the bridge takes apart, so use the bridge from then on.
        tokenizer: of the text that the bridge is given; None takes that of the folder, if it has one.
        revision: branch, tag or commit of the repository.

    Raises:
        MissingDependency: TransformerLens is not installed.
        FormatError: no model there, as for ``load_checkpoint``.
        InvalidArgument: the model is in a bridge already, has hooks on its taps, or is no Based model.
    """
    bridge = require("sae_lens_ext.based.bridge", "A TransformerBridge")
    if isinstance(config_or_path, BasedConfig):
        model = BasedForCausalLM(config_or_path)
    elif isinstance(config_or_path, BasedForCausalLM):
        model = config_or_path
    elif not isinstance(config_or_path, str | Path):
        raise InvalidArgument(
            f"boot takes a BasedConfig, a BasedForCausalLM, or a folder or repository of one; got a {type(config_or_path).__name__}"
        )
    else:
        model = load_checkpoint(config_or_path, revision=revision)
        if (
            tokenizer is None
            and (Path(config_or_path) / "tokenizer_config.json").exists()
        ):
            tokenizer = AutoTokenizer.from_pretrained(config_or_path)
    return bridge.bridged(model.eval(), tokenizer)
