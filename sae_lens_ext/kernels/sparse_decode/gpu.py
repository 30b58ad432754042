"""``sparse_decode`` on a GPU, in Triton.

One pass over the chosen rows forward, and one for each of the two gradients backward.
"""

from torch import Tensor

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.sparse_decode import operator


def sparse_decode(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
) -> Tensor:
    """Same as in ``reference``."""
    return operator.run("sparse_decode_gpu", values, indices, W_dec, b_dec)


operator.register("sparse_decode_gpu", gpu_rows)
