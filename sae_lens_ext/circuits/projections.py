"""What a feature writes and reads, as gradients.

To first order, per unit of its activation, or of its pre-activation.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.errors import NonFinite
from sae_lens_ext.sae import SAE, SparseCode, TokenStatistics, gradient_by_token


def feature_gradients(
    sae: SAE,
    code: SparseCode,
    gradient: Float[Tensor, "*batch d_out"],
) -> Float[Tensor, "*batch k"]:
    """The derivative of a metric by every value of a code.

    That is <w, gradient>, with w what a feature writes into the activation per unit of
    its own. It is the backward pass of ``SAE.contribution``, which reads the decoder
    rows of the code one by one: nothing here is as large as ``[*batch, k, d_out]`` or
    ``[*batch, d_sae]``.

    Args:
        sae: the SAE of the code.
        code: the code, in float32 or wider.
        gradient: of the metric by the activation that the SAE writes.

    Raises:
        NonFinite: they are NaN or infinite.
    """
    # The same weights without gradients: that of a decoder would be a dense one.
    frozen = sae.with_config().requires_grad_(False)
    with torch.enable_grad():
        values = code.values.detach().requires_grad_()
        leaf = replace(code.detach(), values=values)
        written = frozen.contribution(leaf)

    (gradients,) = torch.autograd.grad(
        written, values, gradient.to(written.device, written.dtype)
    )
    if not bool(torch.isfinite(gradients).all()):
        raise NonFinite(
            f"effects of features at {sae.config.hook_name} are NaN or infinite; check "
            "the weights of the SAE there"
        )
    return gradients


def preactivation_gradients(
    sae: SAE,
    features: Int[Tensor, "*batch"],
    statistics: TokenStatistics | None,
) -> Float[Tensor, "*batch d_model"]:
    """The derivative of pre-activations by the activation that the SAE reads.

    That is the encoder's column of each feature in units of the activation, in float32
    or wider. Where an SAE normalises tokens, the scale of each is held.

    Args:
        sae: the SAE.
        features: a feature of each token.
        statistics: those of the code of the same tokens; None without ``token_norm``.
    """
    with torch.no_grad():
        columns = sae.W_enc.T[features.to(sae.W_enc.device)]
        columns = columns.to(torch.promote_types(columns.dtype, torch.float32))
        by_x = gradient_by_token(
            columns * sae.activation_scale, sae.config.token_norm, statistics
        )
    return by_x
