"""The definition of ``sparse_decode``."""

from einops import einsum
from torch import Tensor


def sparse_decode(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
) -> Tensor:
    """Gather the chosen decoder rows and sum them; holds ``[..., k, d_model]``."""
    rows = W_dec[indices.long()]
    return b_dec + einsum(values, rows, "... k, ... k d_model -> ... d_model")
