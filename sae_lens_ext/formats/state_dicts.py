"""Single files of torch, told apart by the names of their tensors and of the file.

==================  ==========================================================
layout              recognised by
==================  ==========================================================
OpenAI              ``latent_bias`` and ``pre_bias``
Goodfire            ``encoder_linear.weight``
Qwen-Scope          the file ``layer{n}.sae.pt``
attention, GPT-2    a file ``..._cfg.json`` beside it (Kissane et al.)
DeepSeek R1         the file ``DeepSeek-R1-Distill-...-SAE-l{n}``
==================  ==========================================================

Source: the loaders of SAELens 6.54 (``get_goodfire_...``, ``deepseek_r1_...``,
    ``connor_rob_hook_z_...``).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled, transposed
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.openai import from_openai, is_openai
from sae_lens_ext.formats.pickles import read_pickle
from sae_lens_ext.formats.qwen_scope import FILE, from_qwen_scope
from sae_lens_ext.formats.reading import (
    check_names,
    check_size,
    check_string,
    check_tensors,
    read_object,
)

SUFFIXES = (".pt", ".pth")
"""How the names of such files end."""

_MATRICES = {"W_enc", "b_enc", "W_dec", "b_dec"}
_DEEPSEEK = re.compile(r"DeepSeek-R1-Distill-([\w.-]+?)-SAE-l(\d{1,4})(?!\d)")
_GOODFIRE = re.compile(r"(Llama-[\d.]+-\d+B-Instruct)-SAE-l(\d{1,4})(?!\d)")


def config_beside(path: Path) -> Path:
    """Where the config of a file of Kissane et al. is."""
    return path.with_name(f"{path.stem}_cfg.json")


def read_state_dict_file(path: Path) -> SAECheckpoint:
    """Read an SAE that is published as a single file of torch.

    Raises:
        FormatError: a damaged file, or names that this reader does not know.
        NonFinite: a tensor holds NaN or infinity.
    """
    values = read_pickle(path)
    if is_openai(values):
        return from_openai(path, values)

    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    if len(tensors) == len(values):
        if "encoder_linear.weight" in tensors:
            return _from_goodfire(path, tensors)
        if FILE.fullmatch(path.name):
            check_names(path, tensors, _MATRICES)
            return from_qwen_scope(path, tensors)
        if config_beside(path).is_file():
            return _from_kissane(path, tensors)
        if _DEEPSEEK.search(path.name):
            return _from_deepseek(path, tensors)

    names = ", ".join(sorted(values)) or "nothing"
    raise FormatError(
        f"{path} holds {names}; this reader knows files of OpenAI, Goodfire, "
        "Qwen-Scope (layer0.sae.pt), DeepSeek R1 (DeepSeek-R1-Distill-...-SAE-l19.pt) "
        "and attention SAEs with a _cfg.json beside them: another activation would be "
        "a guess"
    )


def _from_goodfire(path: Path, tensors: Mapping[str, Tensor]) -> SAECheckpoint:
    """Goodfire's: ReLU, without a pre-bias."""
    site = _GOODFIRE.search(path.name)
    metadata: dict[str, Any] = {"trained_with": "Goodfire"}
    if site:
        metadata["model_name"] = f"meta-llama/{site[1]}"
        metadata["hook_name"] = f"blocks.{site[2]}.hook_resid_post"
    return _relu_of_linear_layers(
        path,
        tensors,
        "encoder_linear",
        "decoder_linear",
        metadata,
    )


def _from_deepseek(path: Path, tensors: Mapping[str, Tensor]) -> SAECheckpoint:
    """Of DeepSeek-R1-Distill, by qresearch: ReLU, without a pre-bias."""
    site = _DEEPSEEK.search(path.name)
    assert site is not None
    metadata = {
        "trained_with": "DeepSeek R1 SAE",
        "model_name": f"deepseek-ai/DeepSeek-R1-Distill-{site[1]}",
        "hook_name": f"blocks.{site[2]}.hook_resid_post",
    }
    return _relu_of_linear_layers(path, tensors, "encoder", "decoder", metadata)


def _relu_of_linear_layers(
    path: Path,
    tensors: Mapping[str, Tensor],
    encoder: str,
    decoder: str,
    metadata: Mapping[str, Any],
) -> SAECheckpoint:
    names = [f"{side}.{part}" for side in (encoder, decoder) for part in _PARTS]
    check_names(path, tensors, names)
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in names)
    return assembled(
        path,
        kind="relu",
        tensors={
            "W_enc": transposed(W_enc),
            "b_enc": b_enc,
            "W_dec": transposed(W_dec),
            "b_dec": b_dec,
        },
        apply_b_dec_to_input=False,
        metadata=metadata,
    )


_PARTS = ("weight", "bias")


def _from_kissane(path: Path, tensors: Mapping[str, Tensor]) -> SAECheckpoint:
    """Of GPT-2's attention heads side by side: ReLU, with a pre-bias."""
    config_file = config_beside(path)
    config = read_object(config_file)
    d_model = check_size(config_file, "act_size", config.get("act_size"))
    d_sae = check_size(config_file, "dict_size", config.get("dict_size"))
    hook_name = check_string(config_file, "act_name", config.get("act_name"))
    expected_shapes = {
        "W_enc": [d_model, d_sae],
        "b_enc": [d_sae],
        "W_dec": [d_sae, d_model],
        "b_dec": [d_model],
    }
    check_tensors(path, tensors, expected_shapes, by=config_file.name)
    return assembled(
        path,
        kind="relu",
        tensors=tensors,
        apply_b_dec_to_input=True,
        metadata={
            "trained_with": "attention SAEs of Kissane et al.",
            "model_name": "gpt2",
            "hook_name": hook_name,
            "reshape_activations": "hook_z" if hook_name.endswith("_z") else None,
        },
    )
