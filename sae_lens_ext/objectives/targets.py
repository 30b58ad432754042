"""What the features of an SAE or a transcoder have to reconstruct, and how well."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext._types import Kind
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch
from sae_lens_ext.kernels.autocast import no_autocast
from sae_lens_ext.sae import SAE


def checked_target(
    kind: Kind,
    sae: SAE,
    u: Float[Tensor, "batch d_model"],
    target: Float[Tensor, "batch d_out"] | None,
) -> Float[Tensor, "batch d_out"]:
    """What features have to reconstruct: the target without the skip connection's part.

    Args:
        kind: the kind of SAEs that the objective trains.
        sae: the SAE, or the transcoder.
        u: its input.
        target: as given to the objective.

    Raises:
        InvalidArgument: an SAE of another kind, or a transcoder without a target.
        ShapeMismatch: the shapes do not fit, or there are no tokens.
    """
    config = sae.config
    if config.kind != kind:
        raise InvalidArgument(
            f"this objective trains SAEs of kind {kind}; got one of kind {config.kind}"
        )
    if target is None and config.is_transcoder:
        raise InvalidArgument(
            "a transcoder learns the activations at its output; pass them as target="
        )
    if target is None:
        target = u

    if u.ndim != 2 or u.shape[1] != config.d_model:
        raise ShapeMismatch(
            f"activations must be [batch, d_model={config.d_model}]; "
            f"got {list(u.shape)}"
        )
    if not len(u):
        raise ShapeMismatch(
            f"the loss needs at least one token; got activations {list(u.shape)}"
        )
    expected_shape = [len(u), config.output_width]
    if list(target.shape) != expected_shape:
        raise ShapeMismatch(
            f"the target must be [batch, d_out] = {expected_shape}, a row for every "
            f"row of the activations; got {list(target.shape)}"
        )

    # Half precision would lose a part of the target.
    with no_autocast(u.device):
        added = sae.skip(u)
        return target if added is None else target - added


def mean_square(error: Float[Tensor, "batch d_out"]) -> Float[Tensor, ""]:
    """The mean of the squares, in float32 or wider.

    Squares do not fit into half precision, nor do their sums.
    """
    dtype = torch.promote_types(torch.float32, error.dtype)
    return error.to(dtype).square().mean()
