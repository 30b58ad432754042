"""Folders of the sparsify library: ``cfg.json`` and ``sae.safetensors``.

Source: EleutherAI/sparsify 1.3, ``SparseCoder.save_to_disk``, ``SparseCoder.encode``
    and ``SparseCoder.forward``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled, transposed
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.reading import (
    check_flag,
    check_size,
    read_object,
    read_tensors,
)

WEIGHTS_FILE = "sae.safetensors"

# The keys of sparsify 1.3. Older releases had others, among them "signed", which let
# negative activations pass. "multi_topk" adds the reconstruction from 4 k features to
# the loss and leaves "encode" alone; "normalize_decoder" acts in training only.
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
# The folder is named after the module whose output was read. Only a whole block's means
# the same in every model: what its attention and MLP add to the residual stream may
# pass a norm first.
_BLOCK = re.compile(r"(?:[\w.]+\.)?(?:layers|h)\.(\d+)")
# A transcoder reads and writes at the module itself.
_MLP = re.compile(r"(?:[\w.]+\.)?(?:layers|h)\.(\d+)\.mlp")


def read_sparsify(folder: Path) -> SAECheckpoint:
    """Read a folder that sparsify wrote: a TopK SAE with a pre-bias, or a transcoder.

    Its weights have other names than in SAELens.

    Raises:
        FormatError: a missing file or key; tensors that do not fit; or an option that
            this reader does not know.
        NonFinite: a tensor holds NaN or infinity.
    """
    path = folder / "cfg.json"
    config = read_object(path)
    _check_config(path, config)
    d_model = config["d_in"]
    d_sae = _number_of_latents(path, config)
    is_transcoder = check_flag(path, "transcode", config.get("transcode", False))
    has_skip = check_flag(path, "skip_connection", config.get("skip_connection", False))
    if has_skip and not is_transcoder:
        raise FormatError(
            f"{path} describes an autoencoder with a skip connection; this reader "
            "knows skip connections of transcoders: without it, every reconstruction "
            "would be wrong"
        )

    expected_shapes = {
        "encoder.weight": [d_sae, d_model],
        "encoder.bias": [d_sae],
        "W_dec": [d_sae, d_model],
        "b_dec": [d_model],
    }
    if has_skip:
        expected_shapes["W_skip"] = [d_model, d_model]
    tensors = read_tensors(folder / WEIGHTS_FILE, expected_shapes)

    weights = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    if has_skip:
        weights["W_skip"] = transposed(tensors["W_skip"])
    return assembled(
        folder / WEIGHTS_FILE,
        kind="topk",
        tensors=weights,
        k=config["k"],
        apply_b_dec_to_input=not is_transcoder,
        d_out=d_model if is_transcoder else None,
        metadata={
            **_metadata(folder, is_transcoder),
            "multi_topk": True if config.get("multi_topk") else None,
        },
    )


def _metadata(folder: Path, is_transcoder: bool) -> dict[str, Any]:
    name = folder.absolute().name
    metadata: dict[str, Any] = {"trained_with": "sparsify", "hf_hook_name": name}
    block = _BLOCK.fullmatch(name)
    mlp = _MLP.fullmatch(name)
    if block and not is_transcoder:
        metadata["hook_name"] = f"blocks.{block[1]}.hook_resid_post"
    if mlp and is_transcoder:
        metadata["hook_name"] = f"blocks.{mlp[1]}.mlp.hook_in"
        metadata["hook_name_out"] = f"blocks.{mlp[1]}.mlp.hook_out"

    # The trainer writes its own config beside the folders of all hook points.
    run = folder.absolute().parent / "config.json"
    if run.is_file():
        model = read_object(run).get("model")
        metadata["model_name"] = model if isinstance(model, str) else None
    return metadata


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("activation", "topk") != "topk":
        raise FormatError(
            f"{path} describes activation {config['activation']!r}; this reader knows "
            "'topk'"
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
        return check_size(path, "num_latents", config["num_latents"])
    factor = check_size(path, "expansion_factor", config.get("expansion_factor", 32))
    return factor * config["d_in"]
