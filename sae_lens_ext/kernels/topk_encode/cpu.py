"""``topk_encode`` on a CPU: the product and the selection in chunks of tokens."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sae_lens_ext.kernels._backend import has_numba, is_fast_in_bfloat16
from sae_lens_ext.kernels._rows import cpu as cpu_rows
from sae_lens_ext.kernels.topk_encode import gate, groups, operator
from sae_lens_ext.kernels.topk_encode.ordered import first_in_order

# Pre-activations of one chunk, in elements: 32 MB of float32. The product is slow for
# few tokens, because the library behind it arranges W_enc anew each time, and the
# selection hardly depends on how far away they are in the memory hierarchy.
_CHUNK_ELEMENTS = 1 << 23
# Below this many pre-activations in all, a single thread ends before others have
# started.
_THREADS_FROM = 1 << 17

# With fewer tokens, rounding the weights takes as long as their product in float32;
# with fewer features per chosen one, the exact dot products do.
_SCREENED_FROM = 256
_SCREENED_COLUMNS = 48
# An exact dot product takes about as long as so many columns of a product.
_COLUMNS_PER_CANDIDATE = 24

# Pre-activations that are counted at once, in elements: 2 MB of float32.
_COUNTED_AT_ONCE = 1 << 19

Select = Callable[[Tensor, Tensor | None, Tensor, Tensor], None]
"""Selects from ``pre [rows, columns]``, whose columns have a floor or not.

It writes the first k of every row, in the order of ``ordered.py``, into ``values [rows,
k]``, and their columns into ``indices [rows, k]``. With a floor the others are zeros,
and their columns any.
"""


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    k: int | None,
    centre: Tensor | None = None,
    threshold: Tensor | None = None,
    *,
    screen: bool = False,
) -> tuple[Tensor, Tensor]:
    """Same as in ``reference``; ``screen`` as in the public function."""
    name = "topk_encode_cpu_screened" if screen else "topk_encode_cpu"
    return operator.run(name, x, W_enc, b_enc, centre, threshold, k)


def _encode_screened(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    floor: Tensor | None,
    k: int | None,
) -> tuple[Tensor, Tensor]:
    """The code of exact pre-activations, where screening is faster."""
    if k is not None and floor is None and _is_screened(x, W_enc, k):
        # Loads numba, so only when needed.
        from sae_lens_ext.kernels.topk_encode import screened

        chunks = _chunks(*_sizes(x, W_enc))
        most = W_enc.shape[1] // _COLUMNS_PER_CANDIDATE
        selected = screened.encode(x, W_enc, b_enc, k, chunks, most)
        if selected is not None:
            values, indices = selected
            return values.relu_(), indices
    return _encode(x, W_enc, b_enc, floor, k)


def _encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    floor: Tensor | None,
    k: int | None,
) -> tuple[Tensor, Tensor]:
    if k is None:
        return _encode_uncapped(x, W_enc, b_enc, floor)

    n, d_sae = _sizes(x, W_enc)
    values = x.new_empty(n, k)
    indices = torch.empty(n, k, dtype=torch.int64)

    select = _selection(n, d_sae, k)
    for chunk in _chunks(n, d_sae):
        pre = torch.addmm(b_enc, x[chunk], W_enc)
        select(pre, floor, values[chunk], indices[chunk])

    # After the selection, when only k numbers per token are left.
    return values.relu_(), indices


def _is_screened(x: Tensor, W_enc: Tensor, k: int) -> bool:
    """Whether a product in bfloat16, and exact dot products, are faster."""
    n, d_sae = _sizes(x, W_enc)
    return (
        x.dtype == torch.float32
        and n >= _SCREENED_FROM
        and d_sae >= _SCREENED_COLUMNS * k
        and groups.saves_work(d_sae, k)
        and W_enc.T.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and is_fast_in_bfloat16()
        and has_numba()
    )


def _encode_uncapped(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, floor: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Encode with all features that are active, as many as each chunk needs."""
    assert floor is not None, "without k there is a floor"
    n, d_sae = _sizes(x, W_enc)
    pieces = []
    for chunk in _chunks(n, d_sae):
        pre = torch.addmm(b_enc, x[chunk], W_enc)
        width = _widest(pre, floor)
        values = x.new_empty(len(pre), width)
        indices = torch.empty(values.shape, dtype=torch.int64)

        select = _selection(len(pre), d_sae, width)
        select(pre, floor, values, indices)
        pieces.append((values, indices))
    return gate.joined(pieces, x)


def _widest(pre: Tensor, floor: Tensor) -> int:
    """As ``gate.widest``, of a chunk.

    The sum of booleans is slow, that of floats is fast, and exact for as many.
    """
    n_columns = pre.shape[1]
    n_rows_that_fit = _COUNTED_AT_ONCE // n_columns
    pieces = pre.split(max(1, n_rows_that_fit))
    is_below = torch.empty(pieces[0].shape)

    fewest_below = n_columns
    for piece in pieces:
        below = torch.le(piece, floor, out=is_below[: len(piece)])
        fewest_below = min(fewest_below, int(below.sum(dim=1).min()))
    return max(1, n_columns - fewest_below)


def _sizes(x: Tensor, W_enc: Tensor) -> tuple[int, int]:
    return x.shape[0], W_enc.shape[1]


def _chunks(n: int, d_sae: int) -> list[slice]:
    """Tokens whose pre-activations fit into memory at once."""
    # A product of fewer than 64 tokens would mostly arrange W_enc.
    n_tokens_that_fit = _CHUNK_ELEMENTS // d_sae
    chunk_size = max(64, n_tokens_that_fit)
    return [slice(start, start + chunk_size) for start in range(0, n, chunk_size)]


def _selection(n: int, d_sae: int, k: int) -> Select:
    """The faster way to select for these sizes."""
    if not groups.saves_work(d_sae, k) or not has_numba():
        return _select

    # Loads numba, so only when needed.
    from sae_lens_ext.kernels.topk_encode import compiled

    n_elements = n * d_sae
    n_threads = torch.get_num_threads() if n_elements >= _THREADS_FROM else 1
    return partial(compiled.select, n_threads)


def _select(pre: Tensor, floor: Tensor | None, values: Tensor, indices: Tensor) -> None:
    k = values.shape[1]
    rows = pre if floor is None else gate.gated(pre, floor)
    largest, columns = first_in_order(rows, k, zeros_matter=floor is None)
    # Assigned instead of written by out=, because under autocast the product has
    # another dtype than x.
    values[:] = largest
    indices[:] = columns


operator.register("topk_encode_cpu", _encode, cpu_rows)
operator.register("topk_encode_cpu_screened", _encode_screened, cpu_rows)
