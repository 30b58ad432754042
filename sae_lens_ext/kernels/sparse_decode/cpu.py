"""``sparse_decode`` on a CPU.

One pass over the chosen rows, forward and backward; ``[..., k, d_model]`` is never
held.
"""

from torch import Tensor

from sae_lens_ext.kernels._rows import cpu as cpu_rows
from sae_lens_ext.kernels.sparse_decode import operator


def sparse_decode(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
) -> Tensor:
    """Same as in ``reference``."""
    return operator.run("sparse_decode_cpu", values, indices, W_dec, b_dec)


operator.register("sparse_decode_cpu", cpu_rows)
