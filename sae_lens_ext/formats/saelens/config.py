"""What a cfg.json of SAELens says, whichever version wrote it.

Version 6 has the facts that define the SAE at the top and all others under
``metadata``; versions 3 to 5 have everything at the top, some of it under older names.

Source: ``SAEConfig.from_dict`` and ``handle_config_defaulting`` of SAELens 6.54, and
    ``SAE`` of 3.23 and 5.11.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens_ext.errors import FormatError
from sae_lens_ext.formats.reading import check_flag, check_size, check_string

ARCHITECTURES = (
    "standard",
    "topk",
    "jumprelu",
    "gated",
    "batchtopk",
    "matryoshka_batchtopk",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
    # This package's own, which SAELens refuses because it has no such architecture.
    "topk_transcoder",
    "topk_skip_transcoder",
)
"""The architectures that are read."""

# What would be computed if these were read as their nearest relative.
_UNSUPPORTED = {
    "abstopk": "its features may be negative, so it keeps the k of largest magnitude",
    "temporal": "it reads the tokens before as well",
    "matching_pursuit": "it chooses features one after the other",
}
_WITH_K = ("topk", "topk_transcoder", "topk_skip_transcoder")
_WITH_RESCALE = ("topk", "batchtopk", "matryoshka_batchtopk")
_NORMALIZATIONS = (
    "none",
    "expected_average_only_in",
    "constant_norm_rescale",
    "constant_scalar_rescale",
    "layer_norm",
    "covariance_whitening",
)
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "hook_point_layer": "hook_layer",
    "activation_fn": "activation_fn_str",
}
# The keys of versions 3 to 5 that are kept as metadata.
_OLD_METADATA = (
    "model_name",
    "hook_name",
    "hook_name_out",
    "hook_layer",
    "hook_head_index",
    "hook_head_index_out",
    "hf_hook_name",
    "hf_hook_name_out",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "prepend_bos",
    "exclude_special_tokens",
    "neuronpedia_id",
    "context_size",
    "seqpos_slice",
    "dataset_path",
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an SAE of SAELens computes, as its config says.

    Attributes:
        where: the file or object, for messages.
        architecture: one of ``ARCHITECTURES``.
        d_in: width of what it reads.
        d_sae: number of features.
        d_out: width of what a transcoder writes; None for an SAE.
        k: the value under k, unchecked.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding.
        normalize_activations: the name of a normalisation.
        normalization_factor: the value beside ``constant_scalar_rescale``, unchecked.
        rescale_acts_by_decoder_norm: whether features are chosen by activation times
            norm of the decoder row.
        finetuning_scaling_factor: whether the file may hold factors of the features.
        metadata: all other facts.
    """

    where: str
    architecture: str
    d_in: int
    d_sae: int
    d_out: int | None
    k: object
    apply_b_dec_to_input: bool
    normalize_activations: str
    normalization_factor: object
    rescale_acts_by_decoder_norm: bool
    finetuning_scaling_factor: bool
    metadata: Mapping[str, Any]


def described(config: Mapping[str, Any], where: str) -> Description:
    """The description in a config of any version.

    Raises:
        FormatError: a missing key, a value of another type, or an architecture or
            option that this reader does not know.
    """
    metadata = config.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise FormatError(f"{where}: metadata must be an object; it is {metadata!r}")

    version = config.get("sae_lens_version") or metadata.get("sae_lens_version")
    if _major(where, version) < 6:
        config = _in_new_form(config, where)
        metadata = {key: config[key] for key in _OLD_METADATA if key in config}

    architecture = _architecture(config, where)
    d_in = check_size(where, "d_in", config["d_in"])
    d_sae = check_size(where, "d_sae", config["d_sae"])
    d_out = None
    if architecture.endswith("transcoder"):
        d_out = check_size(where, "d_out", config.get("d_out"))

    reshape = config.get("reshape_activations", "none")
    if reshape == "hook_z":
        # Heads are laid side by side, as a splice does it anyway.
        metadata = {**metadata, "reshape_activations": "hook_z"}
    elif reshape != "none":
        raise FormatError(
            f"{where}: reshape_activations is {reshape!r}; this reader knows 'none' "
            "and 'hook_z': without it, coordinates would be in another order"
        )

    return Description(
        where=where,
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        k=config.get("k"),
        apply_b_dec_to_input=_flag(config, where, "apply_b_dec_to_input", True),
        normalize_activations=_normalization(config, where),
        normalization_factor=config.get("activation_normalization_factor"),
        rescale_acts_by_decoder_norm=_rescales(config, where, architecture),
        finetuning_scaling_factor=_flag(
            config, where, "finetuning_scaling_factor", False
        ),
        metadata=metadata,
    )


def _major(where: str, version: object) -> int:
    """The first number of a version; 0 if there is none, as before version 6."""
    if version is None:
        return 0
    first = str(version).split(".")[0]
    if not first.isdecimal() or int(first) > 6:
        raise FormatError(
            f"{where} has sae_lens_version {version!r}; this reader knows versions 3 "
            "to 6: load the SAE with SAELens 6 and save it again"
        )
    return int(first)


def _in_new_form(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config of versions 3 to 5 with the names and values of version 6."""
    new = {_OLD_NAMES.get(key, key): value for key, value in config.items()}

    hook_name = new.get("hook_name")
    if "reshape_activations" not in new and isinstance(hook_name, str):
        new["reshape_activations"] = "hook_z" if hook_name.endswith("_z") else "none"
    architecture = new.setdefault("architecture", "standard")

    # False and null stand for none, true for the only one that there was.
    normalization = new.get("normalize_activations")
    if normalization is None or normalization is False:
        new["normalize_activations"] = "none"
    elif normalization is True:
        new["normalize_activations"] = "expected_average_only_in"

    activation = new.get("activation_fn_str", "relu")
    if activation == "topk" and architecture in ("standard", "topk"):
        new["architecture"] = "topk"
        new["k"] = _old_k(new, where)
    elif activation not in ("relu", None):
        raise FormatError(
            f"{where}: activation_fn_str is {activation!r} with architecture "
            f"{architecture!r}; this reader knows 'relu', and 'topk' with architecture "
            "'standard': read as another one, every activation would be wrong"
        )
    return new


def _old_k(config: Mapping[str, Any], where: str) -> object:
    options = config.get("activation_fn_kwargs") or {}
    if not isinstance(options, Mapping):
        raise FormatError(
            f"{where}: activation_fn_kwargs must be an object; it is {options!r}"
        )
    for key, value in options.items():
        if key != "k" and value:
            raise FormatError(
                f"{where}: activation_fn_kwargs sets {key!r} to {value!r}; this reader "
                "knows 'k': the rest may change every activation"
            )
    if "k" not in options:
        raise FormatError(f"{where} lacks k in activation_fn_kwargs")
    return options["k"]


def _architecture(config: Mapping[str, Any], where: str) -> str:
    """The architecture, once every key that it needs is known to be there."""
    architecture = config.get("architecture")
    required = ["architecture", "d_in", "d_sae"]
    if architecture in _WITH_K:
        required.append("k")
    missing = [key for key in required if key not in config]
    if missing:
        raise FormatError(f"{where} lacks {', '.join(missing)}")
    if isinstance(architecture, str) and architecture in ARCHITECTURES:
        return architecture

    reason = ""
    if isinstance(architecture, str) and architecture in _UNSUPPORTED:
        reason = f"; {_UNSUPPORTED[architecture]}, which no kind of SAE here does"
    raise FormatError(
        f"{where} describes architecture {architecture!r}{reason}; this reader knows "
        f"{', '.join(ARCHITECTURES[:10])}"
    )


def _normalization(config: Mapping[str, Any], where: str) -> str:
    name = config.get("normalize_activations", "none")
    if name not in _NORMALIZATIONS:
        raise FormatError(
            f"{where}: normalize_activations is {name!r}; this reader knows "
            f"{', '.join(_NORMALIZATIONS)}: without it, the SAE would read activations "
            "of another size"
        )
    return check_string(where, "normalize_activations", name)


def _rescales(config: Mapping[str, Any], where: str, architecture: str) -> bool:
    is_rescaled = _flag(config, where, "rescale_acts_by_decoder_norm", False)
    if is_rescaled and architecture not in _WITH_RESCALE:
        raise FormatError(
            f"{where}: rescale_acts_by_decoder_norm is true with architecture "
            f"{architecture!r}; SAELens has it for {', '.join(_WITH_RESCALE)} only: "
            "ignored, other features could be active"
        )
    return is_rescaled


def _flag(config: Mapping[str, Any], where: str, key: str, default: bool) -> bool:
    value = config.get(key, default)
    return check_flag(where, key, value)
