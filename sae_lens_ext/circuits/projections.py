"""What a feature adds to a metric, to first order, per unit of its activation."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.sae import SAE, SparseCode


def feature_gradients(
    sae: SAE, code: SparseCode, gradient: Float[Tensor, "*batch d_out"]
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
    return gradients
