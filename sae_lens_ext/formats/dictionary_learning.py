"""Folders of the dictionary_learning library: ``ae.pt`` and ``config.json``.

Source: saprmarks/dictionary_learning 0.1.0, ``dictionary.py`` and the classes in
    ``trainers/``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext._types import Kind
from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled, transposed
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.folding import filled_threshold, gated_as_jumprelu
from sae_lens_ext.formats.origin import origin
from sae_lens_ext.formats.pickles import read_state_dict
from sae_lens_ext.formats.reading import check_names, check_size, read_object

WEIGHTS_FILE = "ae.pt"
CONFIG_FILE = "config.json"

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
_GATED = ("encoder.weight", "decoder.weight", "decoder_bias")
_GATES = ("gate_bias", "mag_bias", "r_mag")
_ENCODER_BIASES = ("encoder.bias", "b_enc", "gate_bias")
_DECODER_BIASES = ("bias", "decoder.bias", "b_dec", "decoder_bias")
_RESIDUAL = re.compile(r"resid_(pre|post)(?:_layer_\d+)?")


@dataclass(frozen=True, kw_only=True)
class _Class:
    """How one of its classes stores and computes.

    ``weights`` makes the tensors in the names of ``SAECheckpoint``; ``optional`` are
    names that not every release wrote.
    """

    kind: Kind
    names: tuple[str, ...]
    weights: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    optional: tuple[str, ...] = ()
    has_pre_bias: bool = True


def read_dictionary_learning(folder: Path) -> SAECheckpoint:
    """Read a folder that dictionary_learning wrote.

    Raises:
        FormatError: a missing file or key, another class, or tensors that do not fit.
        NonFinite: a tensor holds NaN or infinity.
    """
    config_file = folder / CONFIG_FILE
    weights_file = folder / WEIGHTS_FILE
    config = read_object(config_file)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict) or "dict_class" not in trainer:
        raise FormatError(f"{config_file} lacks trainer.dict_class")

    name = trainer["dict_class"]
    if not isinstance(name, str) or name not in _CLASSES:
        raise FormatError(
            f"{config_file} describes dict_class {name!r}; this reader knows "
            f"{', '.join(_CLASSES)}"
        )
    layout = _CLASSES[name]

    tensors = read_state_dict(weights_file)
    stated = [name for name in layout.optional if name in tensors]
    check_names(weights_file, tensors, (*layout.names, *stated))
    _check_shapes(weights_file, tensors)
    k = _k(config_file, trainer, tensors)
    average_k = k if layout.kind == "batchtopk" else None

    return assembled(
        weights_file,
        kind=layout.kind,
        tensors=layout.weights(tensors),
        k=k,
        apply_b_dec_to_input=layout.has_pre_bias,
        metadata={**_metadata(folder, config, trainer), "average_k": average_k},
    )


def _check_shapes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that the tensors have the sizes that the biases have."""
    biases = {name: len(tensor) for name, tensor in tensors.items() if tensor.ndim == 1}
    d_model = max(biases.get(name, 0) for name in _DECODER_BIASES)
    d_sae = max(biases.get(name, 0) for name in _ENCODER_BIASES)
    expected_shapes = {
        "encoder.weight": [d_sae, d_model],
        "decoder.weight": [d_model, d_sae],
        "W_enc": [d_model, d_sae],
        "W_dec": [d_sae, d_model],
        **{name: [d_model] for name in _DECODER_BIASES},
        **{name: [d_sae] for name in (*_ENCODER_BIASES, *_GATES)},
    }
    for name, tensor in tensors.items():
        shape = list(tensor.shape)
        expected_shape = expected_shapes.get(name, shape)
        if shape != expected_shape:
            raise FormatError(
                f"{path}: {name} must be {expected_shape}, by the biases; it is {shape}"
            )


def _k(
    path: Path, trainer: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> int | None:
    """The k of the config, which must be that of the weights."""
    k = trainer.get("k")
    if k is None:
        return None
    number = check_size(path, "trainer.k", k)
    stored = tensors.get("k")
    if stored is not None and stored.tolist() != number:
        raise FormatError(
            f"{path}: trainer.k is {number}, and k in {WEIGHTS_FILE} is "
            f"{stored.tolist()}; they must be equal"
        )
    return number


def _metadata(
    folder: Path, config: Mapping[str, Any], trainer: Mapping[str, Any]
) -> dict[str, Any]:
    buffer = config.get("buffer")
    buffer = buffer if isinstance(buffer, dict) else {}
    removes_bos = buffer.get("remove_bos") is True
    model = trainer.get("lm_name")
    return {
        "trained_with": "dictionary_learning",
        "dict_class": trainer["dict_class"],
        "model_name": model if isinstance(model, str) else None,
        "context_size": buffer.get("ctx_len"),
        "submodule_name": trainer.get("submodule_name"),
        "hook_name": _hook_name(folder, trainer, buffer),
        "exclude_special_tokens": True if removes_bos else None,
    }


def _hook_name(
    folder: Path, trainer: Mapping[str, Any], buffer: Mapping[str, Any]
) -> str | None:
    """The site, where the config or the name of a folder leaves no doubt."""
    layer = trainer.get("layer")
    submodule = trainer.get("submodule_name")
    if submodule is None:
        in_names = _RESIDUAL.findall(origin(folder))
        # Without a name, its scripts read a whole block.
        submodule = f"resid_{in_names[-1] if in_names else 'post'}"
    is_layer = isinstance(layer, int) and not isinstance(layer, bool)
    residual = _RESIDUAL.fullmatch(str(submodule))
    if not is_layer or residual is None or buffer.get("io") == "in":
        return None
    return f"blocks.{layer}.hook_resid_{residual[1]}"


# The classes.


def _from_linear(bias: str) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """From two linear layers, and the bias of the decoder under a name of its own."""

    def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            "W_enc": transposed(tensors["encoder.weight"]),
            "b_enc": tensors["encoder.bias"],
            "W_dec": transposed(tensors["decoder.weight"]),
            "b_dec": tensors[bias],
        }

    return weights


def _from_matrices(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in _MATRICES}


def _from_gated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gates = [tensors[name] for name in _GATES]
    encoder = gated_as_jumprelu(transposed(tensors["encoder.weight"]), *gates)
    return {
        **encoder,
        "W_dec": transposed(tensors["decoder.weight"]),
        "b_dec": tensors["decoder_bias"],
    }


def _with_threshold(
    of: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """With a threshold per feature: stored as such, or one for all."""

    def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        converted = of(tensors)
        threshold = tensors["threshold"]
        if threshold.numel() == 1 and threshold.is_floating_point():
            bias = converted["b_enc"]
            threshold = filled_threshold(threshold, bias.numel(), bias.dtype)
        return {**converted, "threshold": threshold}

    return weights


_CLASSES = {
    "AutoEncoder": _Class(
        kind="relu", names=(*_LINEAR, "bias"), weights=_from_linear("bias")
    ),
    "AutoEncoderNew": _Class(
        kind="relu",
        names=(*_LINEAR, "decoder.bias"),
        weights=_from_linear("decoder.bias"),
        has_pre_bias=False,
    ),
    # Its threshold is used on request only; by default it keeps k per token.
    "AutoEncoderTopK": _Class(
        kind="topk",
        names=(*_LINEAR, "b_dec"),
        weights=_from_linear("b_dec"),
        optional=("k", "threshold"),
    ),
    "BatchTopKSAE": _Class(
        kind="batchtopk",
        names=(*_LINEAR, "b_dec", "threshold"),
        weights=_with_threshold(_from_linear("b_dec")),
        optional=("k",),
    ),
    "MatryoshkaBatchTopKSAE": _Class(
        kind="batchtopk",
        names=(*_MATRICES, "threshold"),
        weights=_with_threshold(_from_matrices),
        optional=("k", "group_sizes"),
    ),
    "JumpReluAutoEncoder": _Class(
        kind="jumprelu",
        names=(*_MATRICES, "threshold"),
        weights=_with_threshold(_from_matrices),
        has_pre_bias=False,
    ),
    "GatedAutoEncoder": _Class(
        kind="jumprelu", names=(*_GATED, *_GATES), weights=_from_gated
    ),
}
