"""Between an SAE's config and weights and the checkpoints that files hold.

A checkpoint stores the weights with the mean and scale of the activations folded in,
and the two constants beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_lens_ext.errors import FormatError, InvalidArgument, InvalidK
from sae_lens_ext.formats import (
    SAECheckpoint,
    checkpoint_from_saelens,
    locate,
    read_sae,
    write_saelens,
)
from sae_lens_ext.sae.config import SAEConfig

# Fields of a config that SAELens knows too and keeps in the metadata.
_FIELDS_IN_METADATA = (
    "hook_name",
    "hook_name_out",
    "model_name",
    "exclude_special_tokens",
)


def write_pretrained(
    folder: str | Path,
    config: SAEConfig,
    weights: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
) -> Path:
    """Write an SAE's config and its folded weights to a folder; returns it.

    ``constants`` holds ``activation_mean`` and ``activation_scale``, or nothing if they
    are 0 and 1.

    Raises:
        NonFinite: the weights hold NaN or infinity. Nothing is written.
    """
    return write_saelens(folder, checkpoint_of(config, weights, constants))


def checkpoint_of(
    config: SAEConfig, weights: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> SAECheckpoint:
    """The checkpoint of an SAE; see ``write_pretrained``."""
    fields = {name: getattr(config, name) for name in _FIELDS_IN_METADATA}
    return SAECheckpoint(
        d_model=config.d_model,
        d_sae=config.d_sae,
        kind=config.kind,
        k=config.k,
        levels=config.levels,
        d_out=config.d_out,
        apply_b_dec_to_input=bool(config.apply_b_dec_to_input),
        token_norm=config.token_norm,
        tensors=weights,
        normalization=constants,
        metadata={**config.metadata, **fields},
    )


def read_pretrained(
    folder_or_repo: str | Path, subfolder: str | Path | None, revision: str | None
) -> tuple[SAEConfig, SAECheckpoint]:
    """Read a folder or hub repository: the config, and the checkpoint with its tensors.

    Raises:
        FormatError: not an SAE folder, or a damaged one.
        NonFinite: the weights hold NaN or infinity.
    """
    folder = locate(folder_or_repo, subfolder=subfolder, revision=revision)
    checkpoint = read_sae(folder)
    return _config(checkpoint, str(folder_or_repo)), checkpoint


def read_sae_lens(sae: Any) -> tuple[SAEConfig, SAECheckpoint]:
    """The config and checkpoint of an SAE that SAELens has in memory.

    Raises:
        InvalidArgument: not an SAE of SAELens.
        FormatError: an architecture or an option that this package cannot apply.
        NonFinite: the weights hold NaN or infinity.
    """
    # By what it offers, because the package is not imported.
    config: Any = getattr(sae, "cfg", None)
    if not hasattr(config, "to_dict") or not hasattr(sae, "state_dict"):
        raise InvalidArgument(
            "give an SAE of SAELens 6; got an object of type "
            f"{type(sae).__module__}.{type(sae).__name__}"
        )
    description = config.to_dict()
    tensors = dict(sae.state_dict())
    # One that is being trained is converted as SAELens does when it saves it.
    if hasattr(config, "get_inference_sae_cfg_dict"):
        description = config.get_inference_sae_cfg_dict()
        sae.process_state_dict_for_saving_inference(tensors)

    where = f"the {type(sae).__name__} in memory"
    checkpoint = checkpoint_from_saelens(description, tensors, where)
    return _config(checkpoint, where), checkpoint


def _config(checkpoint: SAECheckpoint, where: str) -> SAEConfig:
    """The config of a checkpoint.

    Raises:
        FormatError: it does not describe an SAE.
    """
    metadata = dict(checkpoint.metadata)
    fields = {name: metadata.pop(name, None) for name in _FIELDS_IN_METADATA}
    # An absent fact and one that is null both mean the config's default.
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        return SAEConfig(
            d_model=checkpoint.d_model,
            d_sae=checkpoint.d_sae,
            kind=checkpoint.kind,
            k=checkpoint.k,
            levels=checkpoint.levels,
            d_out=checkpoint.d_out,
            skip_connection="W_skip" in checkpoint.tensors,
            apply_b_dec_to_input=checkpoint.apply_b_dec_to_input,
            token_norm=checkpoint.token_norm,
            metadata=metadata,
            **fields,
        )
    except (InvalidArgument, InvalidK) as error:
        raise FormatError(f"{where} does not describe an SAE: {error}") from error
