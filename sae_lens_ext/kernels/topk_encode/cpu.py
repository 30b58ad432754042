"""``topk_encode`` on a CPU: the product and the selection in chunks of tokens."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sae_lens_ext.kernels._backend import has_numba
from sae_lens_ext.kernels._rows import cpu as cpu_rows
from sae_lens_ext.kernels.topk_encode import operator

# Pre-activations of one chunk, in elements: 32 MB of float32. The product is slow for
# few tokens, because the library behind it arranges W_enc anew each time, and the
# selection hardly depends on how far away they are in the memory hierarchy.
_CHUNK_ELEMENTS = 1 << 23
# Below this many pre-activations in all, torch's selection ends before threads have
# started.
_COMPILED_FROM = 1 << 17

Select = Callable[[Tensor, Tensor, Tensor], None]
"""Writes the k largest of every row of ``pre [rows, columns]``, largest first, into
``values [rows, k]``, and their columns into ``indices [rows, k]``."""


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
    centre: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same as in ``reference``."""
    return operator.run("topk_encode_cpu", x, W_enc, b_enc, centre, k)


def _encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    n = x.shape[0]
    d_sae = W_enc.shape[1]
    values = x.new_empty(n, k)
    indices = torch.empty(n, k, dtype=torch.int64)

    chunk_size = max(64, _CHUNK_ELEMENTS // d_sae)
    with _selection(n, d_sae, k) as select:
        for start in range(0, n, chunk_size):
            chunk = slice(start, start + chunk_size)
            pre = torch.addmm(b_enc, x[chunk], W_enc)
            select(pre, values[chunk], indices[chunk])
    return values.relu_(), indices


def _selection(n: int, d_sae: int, k: int) -> AbstractContextManager[Select]:
    """The faster way to select for these sizes."""
    if n * d_sae >= _COMPILED_FROM and has_numba():
        # Loads numba, so only when needed.
        from sae_lens_ext.kernels.topk_encode import compiled

        if compiled.saves_work(d_sae, k):
            return compiled.selection(torch.get_num_threads())
    return nullcontext(_select)


def _select(pre: Tensor, values: Tensor, indices: Tensor) -> None:
    # Assigned instead of written by out=, because under autocast the product has
    # another dtype than x.
    values[:], indices[:] = torch.topk(pre, values.shape[1], dim=-1, sorted=True)


operator.register("topk_encode_cpu", _encode, cpu_rows)
