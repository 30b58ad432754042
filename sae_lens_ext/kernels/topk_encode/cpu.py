"""``topk_encode`` on a CPU: the product and the selection in chunks of tokens."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sae_lens_ext.kernels._backend import has_numba
from sae_lens_ext.kernels._rows import cpu as cpu_rows
from sae_lens_ext.kernels.topk_encode import groups, operator
from sae_lens_ext.kernels.topk_encode.ordered import first_in_order

# Pre-activations of one chunk, in elements: 32 MB of float32. The product is slow for
# few tokens, because the library behind it arranges W_enc anew each time, and the
# selection hardly depends on how far away they are in the memory hierarchy.
_CHUNK_ELEMENTS = 1 << 23
# Below this many pre-activations in all, a single thread ends before others have
# started.
_THREADS_FROM = 1 << 17

Select = Callable[[Tensor, Tensor, Tensor], None]
"""Writes the first k of every row of ``pre [rows, columns]``, in the order of
``ordered.py``, into ``values [rows, k]``, and their columns into ``indices [rows, k]``.
"""


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

    # A product of fewer than 64 tokens would mostly arrange W_enc.
    n_tokens_that_fit = _CHUNK_ELEMENTS // d_sae
    chunk_size = max(64, n_tokens_that_fit)

    with _selection(n, d_sae, k) as select:
        for start in range(0, n, chunk_size):
            chunk = slice(start, start + chunk_size)
            chunk_x = x[chunk]
            chunk_values = values[chunk]
            chunk_indices = indices[chunk]

            pre = torch.addmm(b_enc, chunk_x, W_enc)
            select(pre, chunk_values, chunk_indices)

    # After the selection, when only k numbers per token are left.
    return values.relu_(), indices


def _selection(n: int, d_sae: int, k: int) -> AbstractContextManager[Select]:
    """The faster way to select for these sizes."""
    if not groups.saves_work(d_sae, k) or not has_numba():
        return nullcontext(_select)

    # Loads numba, so only when needed.
    from sae_lens_ext.kernels.topk_encode import compiled

    n_elements = n * d_sae
    n_threads = torch.get_num_threads() if n_elements >= _THREADS_FROM else 1
    return compiled.selection(n_threads)


def _select(pre: Tensor, values: Tensor, indices: Tensor) -> None:
    k = values.shape[1]
    # Assigned instead of written by out=, because under autocast the product has
    # another dtype than x.
    values[:], indices[:] = first_in_order(pre, k)


operator.register("topk_encode_cpu", _encode, cpu_rows)
