"""OpenAI's SAEs of GPT-2: a ``.pt`` of a state dict, with the activation in it.

The site is in the names only, as in ``resid_post_mlp_v5_32k/autoencoders/8.pt``.

Source: openai/sparse_autoencoder, ``Autoencoder.from_state_dict`` and ``paths.py``;
    arXiv:2406.04093.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled, transposed
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.origin import origin
from sae_lens_ext.formats.reading import check_names

_NAMES = ("encoder.weight", "latent_bias", "pre_bias")
# A decoder of its own; or, where it is tied, the encoder once more.
_DECODERS = ("decoder.weight", "decoder.linear.weight")
_STATISTICS = (
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
)
_ACTIVATION = "activation"
_ACTIVATION_STATE = "activation_state_dict"

_SITE = re.compile(
    r"(resid_post_mlp|resid_post_attn|resid_delta_mlp|resid_delta_attn|mlp_post_act)"
    r"[\w]*/(?:autoencoders/)?(\d{1,4})\.pt$"
)
_POINTS = {
    "resid_post_mlp": "hook_resid_post",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_delta_attn": "hook_attn_out",
    "mlp_post_act": "mlp.hook_post",
}


def is_openai(values: Mapping[str, Any]) -> bool:
    """Whether a pickle's names are those of this layout."""
    return {"latent_bias", "pre_bias"} <= values.keys()


def from_openai(path: Path, values: Mapping[str, Any]) -> SAECheckpoint:
    """The checkpoint in a state dict of OpenAI's: TopK or ReLU, with a pre-bias.

    A TopK SAE normalises every token to mean 0 and standard deviation 1; a ReLU SAE
    does not.

    Raises:
        FormatError: other names, or another activation.
        NonFinite: a tensor holds NaN or infinity.
    """
    activation = values.get(_ACTIVATION, "ReLU")
    options = values.get(_ACTIVATION_STATE, {})
    if activation not in ("ReLU", "TopK"):
        raise FormatError(
            f"{path}: activation is {activation!r}; this reader knows 'ReLU' and 'TopK'"
        )
    if not isinstance(options, Mapping):
        raise FormatError(
            f"{path}: {_ACTIVATION_STATE} must hold the activation's options, such as "
            f"k; it is {options!r}"
        )
    after = options.get("postact_fn", "ReLU")
    if after != "ReLU":
        raise FormatError(
            f"{path}: postact_fn is {after!r}; this reader knows 'ReLU': read as that, "
            "negative activations would be missing"
        )

    tensors = {
        name: value
        for name, value in values.items()
        if name not in (_ACTIVATION, _ACTIVATION_STATE, *_STATISTICS)
    }
    stated = [name for name in _DECODERS if name in tensors]
    check_names(path, tensors, (*_NAMES, *(stated[:1] or _DECODERS[:1])))
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise FormatError(f"{path}: {', '.join(tensors)} must be tensors")

    decoder = tensors[stated[0]]
    is_topk = activation == "TopK"
    return assembled(
        path,
        kind="topk" if is_topk else "relu",
        tensors={
            "W_enc": transposed(tensors["encoder.weight"]),
            "b_enc": tensors["latent_bias"],
            "W_dec": transposed(decoder) if stated[0] == _DECODERS[0] else decoder,
            "b_dec": tensors["pre_bias"],
        },
        k=options.get("k"),
        apply_b_dec_to_input=True,
        token_norm="layer_norm" if is_topk else "none",
        metadata=_metadata(path),
    )


def _metadata(path: Path) -> dict[str, Any]:
    metadata = {"trained_with": "openai/sparse_autoencoder", "model_name": "gpt2"}
    site = _SITE.search(origin(path))
    if site:
        metadata["hook_name"] = f"blocks.{site[2]}.{_POINTS[site[1]]}"
    return metadata
