"""The models of the two papers, by name.

=============== ============= ================================================
name            parameters    published as
=============== ============= ================================================
based-360m      362,620,928   Arora et al. 2024; ``hazyresearch/based-360m``
based-1.3b      1,349,453,056 Arora et al. 2024; ``hazyresearch/based-1b``,
                              ``hazyresearch/based-1b-50b``
based-small     147,542,016   Aksenov et al. 2024, Table 8;
                              ``elephantmipt/based-small``
rebased-small   147,548,928   Aksenov et al. 2024, Table 8;
                              ``elephantmipt/rebased-small``
attention-small 151,880,448   Aksenov et al. 2024, Table 8: softmax attention
                              in every layer
rebased-360m    362,626,048   ``elephantmipt/rebased-360M``
=============== ============= ================================================

A preset is a shape with random weights. ``load_checkpoint`` reads published weights,
and takes the shape from the config beside them.
"""

from collections.abc import Mapping
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.based.config import BasedConfig, LayerType
from sae_lens_ext.errors import InvalidArgument, closest


def _layers(n_layers: int, linear: set[int], sliding: set[int]) -> list[LayerType]:
    """Short convolutions, except for the layers of linear and of sliding attention."""
    layers: list[LayerType] = ["conv"] * n_layers
    for layer in linear:
        layers[layer] = "linear_attention"
    for layer in sliding:
        layers[layer] = "sliding_attention"
    return layers


# GPT-2's 50,257 tokens and GPT-NeoX's 50,277, each rounded up to a multiple of 8.
_GPT2 = 50264
_NEOX = 50280

_360M = {
    "vocab_size": _GPT2,
    "hidden_size": 1024,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "layer_types": _layers(27, {1, 6, 11, 16, 21}, {2, 7, 12, 17, 22}),
}
_1_3B = {
    "vocab_size": _GPT2,
    "hidden_size": 1792,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "layer_types": _layers(36, {1, 6, 11, 16, 21, 27, 33}, {2, 7, 12, 17, 22, 28, 34}),
}
_SMALL = {
    "vocab_size": _NEOX,
    "hidden_size": 768,
    "num_hidden_layers": 18,
    "num_attention_heads": 12,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "based-360m": {"kernel": "based", **_360M},
    "based-1.3b": {"kernel": "based", **_1_3B},
    "based-small": {"kernel": "based", **_SMALL},
    "rebased-small": {"kernel": "rebased", **_SMALL},
    # The paper does not say how this model knows positions; its number of parameters
    # leaves no room for learned ones. Here they are rotary.
    "attention-small": {
        **_SMALL,
        "num_hidden_layers": 12,
        "layer_types": ["full_attention"] * 12,
        "intermediate_size": 3072,
    },
    "rebased-360m": {"kernel": "rebased", **_360M},
}
"""Fields of ``BasedConfig`` by the name of a model."""


def preset(name: str, **changes: Any) -> BasedConfig:
    """The shape of a published model, with other values for the fields in ``changes``.

    >>> config = preset("based-360m")
    >>> config.hidden_size, config.layer_types.count("linear_attention")
    (1024, 5)
    >>> config.layer_types.count("sliding_attention")
    5

    Args:
        name: one of ``PRESETS``.
        **changes: fields of ``BasedConfig``. A change of ``num_hidden_layers`` needs
            one of ``layer_types`` too.

    Raises:
        InvalidArgument: an unknown name or field, or changes that do not describe a
            model.

    Source: Arora et al. 2024 (arXiv 2402.18668) and its released configurations;
    Aksenov et al. 2024 (arXiv 2402.10644), Table 8.
    """
    arguments.choice(name, "name", PRESETS)
    known = BasedConfig(**PRESETS[name]).to_dict()
    unknown = [field for field in changes if field not in known]
    if unknown:
        raise InvalidArgument(
            f"BasedConfig has no field {', '.join(unknown)}; the closest are "
            f"{closest(unknown[0], known)}"
        )
    return BasedConfig(**{**PRESETS[name], **changes})
