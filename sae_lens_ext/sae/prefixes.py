"""Reconstruction errors of the prefixes of a code."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.sae.code import SparseCode


def squared_errors(
    residual: Float[Tensor, "*batch d_model"],
    code: SparseCode,
    W_dec: Float[Tensor, "d_sae d_model"],
) -> Float[Tensor, "*batch levels"]:
    """Squared errors of every prefix of a code, from the empty one to all of it.

    Args:
        residual: the normalised activations without the decoder bias, which is the
            error of the empty prefix.
        code: the code of the activations.
        W_dec: decoder rows.
    """
    errors = [residual.square().sum(-1)]

    # Rank by rank, so that no [batch, k, d_model] tensor is built.
    for rank in range(code.k):
        value = code.values[..., rank : rank + 1]
        feature = code.indices[..., rank]
        residual = residual - value * W_dec[feature]
        error = residual.square().sum(-1)
        errors.append(error)
    return torch.stack(errors, dim=-1)
