"""Folders of the sparsify library: ``cfg.json`` and ``sae.safetensors``.

Source: EleutherAI/sparsify 1.3, ``SparseCoder.save_to_disk`` and
    ``SparseCoder.encode``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.reading import check_size, read_object, read_tensors

WEIGHTS_FILE = "sae.safetensors"

# The keys of sparsify 1.3. Older releases had others, among them "signed", which let
# negative activations pass.
_KEYS = {
    "activation",
    "expansion_factor",
    "normalize_decoder",
    "num_latents",
    "k",
    "multi_topk",
    "skip_connection",
    "transcode",
    "d_in",
}
_UNSUPPORTED = {
    "transcode": "a transcoder",
    "skip_connection": "a coder with a skip connection",
}
# The folder is named after the module whose output was read. Only a whole block's means
# the same in every model: what its attention and MLP add to the residual stream may
# pass a norm first.
_BLOCK = re.compile(r"(?:layers|h)\.(\d+)")


def read_sparsify(folder: Path) -> SAECheckpoint:
    """Read a folder that sparsify wrote: a TopK SAE with a pre-bias.

    Its weights have other names than in SAELens.

    Raises:
        FormatError: a missing file or key; tensors that do not fit; or a transcoder,
            which reads one place and writes another.
        NonFinite: a tensor holds NaN or infinity.
    """
    path = folder / "cfg.json"
    config = read_object(path)
    _check_config(path, config)
    d_model = config["d_in"]
    d_sae = _number_of_latents(path, config)

    expected_shapes = {
        "encoder.weight": [d_sae, d_model],
        "encoder.bias": [d_sae],
        "W_dec": [d_sae, d_model],
        "b_dec": [d_model],
    }
    tensors = read_tensors(folder / WEIGHTS_FILE, expected_shapes)

    metadata = {"trained_with": "sparsify", "hf_hook_name": folder.name}
    block = _BLOCK.fullmatch(folder.name)
    if block:
        metadata["hook_name"] = f"blocks.{block[1]}.hook_resid_post"

    return SAECheckpoint(
        d_model=d_model,
        d_sae=d_sae,
        k=config["k"],
        apply_b_dec_to_input=True,
        tensors={
            "W_enc": tensors["encoder.weight"].T,
            "b_enc": tensors["encoder.bias"],
            "W_dec": tensors["W_dec"],
            "b_dec": tensors["b_dec"],
        },
        metadata=metadata,
    )


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("activation", "topk") != "topk":
        raise FormatError(
            f"{path} describes activation {config['activation']!r}; this reader knows "
            "'topk'"
        )
    for key, description in _UNSUPPORTED.items():
        if config.get(key, False):
            raise FormatError(
                f"{path} describes {description}; this reader knows autoencoders, "
                "which write where they read"
            )
    # A key that is false or empty in a newer release cannot change anything.
    for key, value in config.items():
        if key not in _KEYS and value:
            raise FormatError(
                f"{path} sets {key!r} to {value!r}, which may change what the coder "
                "computes; this reader does not know it"
            )

    missing = [key for key in ("d_in", "k") if key not in config]
    if missing:
        raise FormatError(f"{path} lacks {', '.join(missing)}")
    for key in ("d_in", "k"):
        check_size(path, key, config[key])


def _number_of_latents(path: Path, config: Mapping[str, Any]) -> int:
    """The number of features: stated, or else a multiple of the activation's width."""
    # sparsify writes 0 where the factor decides.
    if config.get("num_latents"):
        check_size(path, "num_latents", config["num_latents"])
        return config["num_latents"]
    factor = config.get("expansion_factor", 32)
    check_size(path, "expansion_factor", factor)
    return factor * config["d_in"]
