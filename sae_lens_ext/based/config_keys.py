"""Keys of ``config.json`` that belong to ``transformers`` and not to a model."""

import inspect
from collections.abc import Iterable

from transformers import GenerationConfig, PreTrainedConfig

# Read by from_pretrained or by tools around it; or written by earlier versions into
# every config, whatever the model.
_OTHERS = {
    "add_cross_attention",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "eos_token_id",
    "experts_implementation",
    "finetuning_task",
    "is_decoder",
    "keys_to_ignore_at_inference",
    "model_type",
    "pad_token_id",
    "per_layer_config",
    "prefix",
    "pruned_heads",
    "quantization_config",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "use_bfloat16",
    "use_cache",
}


def _transformers_keys() -> frozenset[str]:
    parameters = inspect.signature(PreTrainedConfig).parameters
    properties = {
        name
        for name, member in vars(PreTrainedConfig).items()
        if isinstance(member, property)
    }
    # Configs written by earlier versions hold the options of generation as well.
    generation = GenerationConfig().to_dict()
    return frozenset({*parameters, *properties, *generation, *_OTHERS})


TRANSFORMERS_KEYS = _transformers_keys()
"""Names that configs of all models share."""


def unknown_keys(keys: Iterable[str], known: Iterable[str]) -> list[str]:
    """The keys that are neither ``known`` nor of ``transformers``.

    A leading underscore marks what ``transformers`` keeps for itself.
    """
    all_known = {*known, *TRANSFORMERS_KEYS}
    return [key for key in keys if key not in all_known and not key.startswith("_")]
