"""Between an SAE's config and weights and the checkpoints that files hold.

A checkpoint stores the weights with the mean and scale of the activations folded in,
and the two constants beside them.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sae_lens_ext.errors import FormatError, InvalidArgument, InvalidK
from sae_lens_ext.formats import SAECheckpoint, locate, read_sae, write_saelens
from sae_lens_ext.sae.config import SAEConfig

# Fields of a config that SAELens knows too and keeps in the metadata.
_FIELDS_IN_METADATA = ("hook_name", "model_name", "exclude_special_tokens")


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
    fields = {name: getattr(config, name) for name in _FIELDS_IN_METADATA}
    checkpoint = SAECheckpoint(
        d_model=config.d_model,
        d_sae=config.d_sae,
        k=config.k,
        levels=config.levels,
        apply_b_dec_to_input=config.apply_b_dec_to_input,
        tensors=weights,
        normalization=constants,
        metadata={**config.metadata, **fields},
    )
    return write_saelens(folder, checkpoint)


def read_pretrained(
    folder_or_repo: str | Path, subfolder: str | None, revision: str | None
) -> tuple[SAEConfig, SAECheckpoint]:
    """Read a folder or hub repository: the config, and the checkpoint with its tensors.

    Raises:
        FormatError: not an SAE folder, or a damaged one.
        NonFinite: the weights hold NaN or infinity.
    """
    folder = locate(folder_or_repo, subfolder=subfolder, revision=revision)
    checkpoint = read_sae(folder)

    metadata = dict(checkpoint.metadata)
    fields = {name: metadata.pop(name, None) for name in _FIELDS_IN_METADATA}
    # An absent fact and one that is null both mean the config's default.
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        config = SAEConfig(
            d_model=checkpoint.d_model,
            d_sae=checkpoint.d_sae,
            k=checkpoint.k,
            levels=checkpoint.levels,
            apply_b_dec_to_input=checkpoint.apply_b_dec_to_input,
            metadata=metadata,
            **fields,
        )
    except (InvalidArgument, InvalidK) as error:
        raise FormatError(
            f"the cfg.json of {folder_or_repo} does not describe an SAE: {error}"
        ) from error
    return config, checkpoint
