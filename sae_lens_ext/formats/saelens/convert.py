"""From a config and tensors of SAELens to a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from sae_lens_ext._types import Kind, TokenNorm
from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.assemble import assembled, transposed
from sae_lens_ext.formats.checkpoint import SAECheckpoint
from sae_lens_ext.formats.folding import (
    filled_threshold,
    gated_as_jumprelu,
    with_decoder_norms,
    with_scaled_activations,
    with_scaled_features,
    with_whitened_activations,
)
from sae_lens_ext.formats.reading import (
    check_factor,
    check_string,
    check_tensors,
    refuse_non_finite,
)
from sae_lens_ext.formats.saelens.config import Description, described

FORMAT_VERSION = 1
"""To be raised when a reader of the old layout would misunderstand the new one."""

_TOKEN_NORMS: dict[str, TokenNorm] = {
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "unit_norm",
}
_BATCHTOPK = ("batchtopk", "matryoshka_batchtopk")
_FEATURE_FACTORS = ("scaling_factor", "finetuning_scaling_factor")


@dataclass(frozen=True, kw_only=True)
class ActivationScaling:
    """What SAELens keeps beside a checkpoint of its training.

    Attributes:
        factor: what activations are multiplied by.
        whitening: or the tensors ``mean [d_in]``, ``matrix [d_in, d_in]`` and its
            inverse, ``inverse_matrix``.
    """

    factor: object = None
    whitening: Mapping[str, Tensor] | None = None


def checkpoint_from_saelens(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    weights_where: str | None = None,
    scaling: ActivationScaling | None = None,
    normalization: Mapping[str, Tensor] | None = None,
) -> SAECheckpoint:
    """The checkpoint that a config and a state dict of SAELens describe.

    Args:
        config: what cfg.json holds, or ``sae.cfg.to_dict()``.
        tensors: what the weights file holds, or ``sae.state_dict()``.
        where: the file or object that they come from, for messages.
        weights_where: that of the tensors, if it is another one.
        scaling: what activations are multiplied by, where the config asks for it.
        normalization: this package's own constants, which ``tensors`` contain already.

    Raises:
        FormatError: a missing key or tensor, a value or shape that does not fit, or an
            architecture or option that cannot be computed.
        NonFinite: a tensor holds NaN or infinity.
    """
    description = described(config, where)
    extension, metadata = _split_metadata(description)

    weights_where = weights_where or where
    weights = {name: tensor.detach() for name, tensor in tensors.items()}
    weights, factors = _without_feature_factors(description, weights)
    _check_weights(description, weights, weights_where)
    refuse_non_finite(weights, weights_where)

    weights = _with_options(description, weights, scaling or ActivationScaling())
    if factors is not None:
        weights = with_scaled_features(weights, factors)

    return assembled(
        weights_where,
        kind=_kind(description, extension),
        tensors=weights,
        k=description.k,
        apply_b_dec_to_input=description.apply_b_dec_to_input and not description.d_out,
        d_out=description.d_out,
        token_norm=_TOKEN_NORMS.get(description.normalize_activations, "none"),
        levels=extension.get("levels", ()),
        normalization=normalization,
        metadata=metadata,
    )


def _split_metadata(
    description: Description,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts that this package added, and all the others."""
    metadata = dict(description.metadata)
    extension = metadata.pop("sae_lens_ext", {})
    # SAELens writes null for a fact that it does not have.
    if extension is None:
        extension = {}
    for name in ("sae_lens_version", "sae_lens_training_version"):
        metadata.pop(name, None)

    if not isinstance(extension, dict):
        raise FormatError(
            f"{description.where}: metadata.sae_lens_ext must be an object; it is "
            f"{extension!r}"
        )
    version = extension.get("format_version")
    if extension and version != FORMAT_VERSION:
        raise FormatError(
            f"{description.where} has format_version {version!r}; this release reads "
            f"{FORMAT_VERSION}: upgrade sae-lens-ext"
        )

    if metadata.get("training_architecture") in _BATCHTOPK:
        details = metadata.get("training_architecture_details")
        if isinstance(details, Mapping):
            metadata.setdefault("average_k", details.get("k"))
    if description.architecture in _BATCHTOPK:
        metadata.setdefault("average_k", description.k)
    return extension, metadata


def _without_feature_factors(
    description: Description, weights: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The weights, and the factors of the features that finetuning left, if any."""
    names = [name for name in _FEATURE_FACTORS if name in weights]
    if not names:
        return weights, None
    factors = weights[names[0]]
    weights = {name: weights[name] for name in weights if name not in names}

    # Some releases wrote factors of one into every file.
    if bool((factors == 1).all()):
        return weights, None
    if not description.finetuning_scaling_factor:
        raise FormatError(
            f"{description.where} says finetuning_scaling_factor false, but its "
            f"weights hold {names[0]} other than 1: without them, reconstructions "
            "would have another size"
        )
    if list(factors.shape) != [description.d_sae]:
        raise FormatError(
            f"{description.where}: {names[0]} must be [{description.d_sae}]; it is "
            f"{list(factors.shape)}"
        )
    refuse_non_finite({names[0]: factors}, description.where)
    return weights, factors


def _check_weights(
    description: Description, weights: Mapping[str, Tensor], where: str
) -> None:
    """Check names, shapes and dtypes of the tensors of an architecture."""
    architecture = description.architecture
    d_in = description.d_in
    d_sae = description.d_sae
    width = description.d_out or d_in
    expected_shapes = {
        "W_enc": [d_in, d_sae],
        "b_enc": [d_sae],
        "W_dec": [d_sae, width],
        "b_dec": [width],
    }
    if architecture == "gated":
        del expected_shapes["b_enc"]
        expected_shapes |= {name: [d_sae] for name in ("b_gate", "b_mag", "r_mag")}
    if architecture.startswith("jumprelu"):
        expected_shapes["threshold"] = [d_sae]
    if architecture in _BATCHTOPK:
        expected_shapes["topk_threshold"] = []
    if architecture.endswith("skip_transcoder"):
        expected_shapes["W_skip"] = [width, d_in]
    check_tensors(
        where,
        weights,
        expected_shapes,
        by="cfg.json",
        of_any_dtype=["threshold", "topk_threshold"],
    )


def _with_options(
    description: Description,
    weights: Mapping[str, Tensor],
    scaling: ActivationScaling,
) -> dict[str, Tensor]:
    """The tensors as ``SAECheckpoint`` has them, with every option folded in.

    The order is that in which SAELens folds when it saves an SAE for inference, so that
    features have the same units: the scale of the activations, the norms of the decoder
    rows, the whitening.
    """
    rescales = description.rescale_acts_by_decoder_norm
    factor = _activation_factor(description, scaling)
    folded = dict(weights)
    if description.architecture == "gated":
        gates = [folded.pop(name) for name in ("b_gate", "b_mag", "r_mag")]
        folded |= gated_as_jumprelu(folded["W_enc"], *gates)
    if "topk_threshold" in folded:
        threshold = folded.pop("topk_threshold").double()
        # In units of activation times norm, and scaling divides the norms.
        if rescales and factor is not None:
            threshold = threshold / factor
        dtype = folded["W_enc"].dtype
        folded["threshold"] = filled_threshold(threshold, description.d_sae, dtype)
    if "W_skip" in folded:
        folded["W_skip"] = transposed(folded["W_skip"])

    if factor is not None:
        folded = with_scaled_activations(folded, factor, factor)
    if rescales:
        folded = with_decoder_norms(folded)
    if description.normalize_activations == "covariance_whitening":
        folded = _whitened(description, folded, scaling)
    return folded


def _activation_factor(
    description: Description, scaling: ActivationScaling
) -> float | None:
    """What activations are multiplied by; None for another normalisation."""
    where = description.where
    name = description.normalize_activations
    if name in ("none", *_TOKEN_NORMS):
        return None
    if description.d_out is not None:
        raise FormatError(
            f"{where} describes a transcoder with normalize_activations {name!r}; in "
            "which units its output would be is not defined: without it, every "
            "activation would be wrong"
        )
    if name == "covariance_whitening":
        return None

    factor = scaling.factor
    if name == "constant_scalar_rescale":
        factor = description.normalization_factor
    if factor is None:
        raise FormatError(
            f"{where}: normalize_activations is {name!r}, and the factor is not beside "
            "it: without it, every activation would be wrong. Put it into "
            'activation_scaler.json, as {"scaling_factor": ...}; or fold it with '
            "SAELens (fold_activation_norm_scaling_factor) and save again"
        )
    return check_factor(where, "the factor of the activations", factor)


def _whitened(
    description: Description,
    weights: dict[str, Tensor],
    scaling: ActivationScaling,
) -> dict[str, Tensor]:
    where = description.where
    d_in = description.d_in
    whitening = scaling.whitening
    if whitening is None:
        raise FormatError(
            f"{where}: normalize_activations is 'covariance_whitening', and "
            "activation_whitening.safetensors is not beside it: without it, every "
            "activation would be wrong. Fold it with SAELens "
            "(fold_activation_whitening) and save again"
        )
    expected_shapes = {
        "mean": [d_in],
        "matrix": [d_in, d_in],
        "inverse_matrix": [d_in, d_in],
    }
    check_tensors(where, whitening, expected_shapes, by="cfg.json")
    dtype = torch.promote_types(weights["W_enc"].dtype, torch.float32)
    mean, matrix, inverse = (
        whitening[name].to(dtype) for name in ("mean", "matrix", "inverse_matrix")
    )
    return with_whitened_activations(
        weights,
        mean,
        matrix,
        inverse,
        has_pre_bias=description.apply_b_dec_to_input,
    )


def _kind(description: Description, extension: Mapping[str, Any]) -> Kind:
    architecture = description.architecture
    kinds: dict[str, Kind] = {
        "standard": "relu",
        "transcoder": "relu",
        "skip_transcoder": "relu",
        "topk": "topk",
        "topk_transcoder": "topk",
        "topk_skip_transcoder": "topk",
        "batchtopk": "batchtopk",
        "matryoshka_batchtopk": "batchtopk",
    }
    kind = kinds.get(architecture, "jumprelu")

    # SAELens saves BatchTopK as JumpReLU, and so does this package.
    stated = extension.get("kind", kind)
    is_batchtopk = description.metadata.get("training_architecture") in _BATCHTOPK
    if kind == "jumprelu" and (stated == "batchtopk" or is_batchtopk):
        return "batchtopk"
    if stated != kind:
        check_string(description.where, "metadata.sae_lens_ext.kind", stated)
        raise FormatError(
            f"{description.where}: metadata.sae_lens_ext.kind is {stated!r}, which "
            f"architecture {architecture!r} is not"
        )
    return cast(Kind, kind)
