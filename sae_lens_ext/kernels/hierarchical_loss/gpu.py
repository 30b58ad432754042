"""``hierarchical_loss`` on a GPU, in Triton: the walk of ``cpu.py``.

One warp walks for every token and piece of a row. It adds up the error over the ranks,
then walks them down again; its rows come from the second-level cache the second time,
and each row is asked for one rank ahead.

The gradient of ``W_dec`` is the only sum over tokens in it. It is added by atomics; or,
for the same bits every time, written to scratch memory for as many tokens as stay in
the cache, and added up there feature by feature.
"""

from collections.abc import Callable
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.hierarchical_loss import operator
from sae_lens_ext.kernels.hierarchical_loss.task import Results, Task

# Scratch memory of the deterministic mode. The next launch reads again what was
# written, so it should stay in a GPU's second-level cache: 40 to 50 MB on an A100 or
# H100.
_SCRATCH_BYTES = 32 << 20


def hierarchical_loss(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    """See ``operator.run``."""
    return operator.run(
        "hierarchical_loss_gpu",
        values,
        indices,
        W_dec,
        b_dec,
        target,
        task,
    )


def _results(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    n, k = values.shape
    n_features, width = W_dec.shape

    # The program addresses memory by the shapes alone.
    values = values.contiguous()
    indices = indices.contiguous()
    W_dec = W_dec.contiguous()
    b_dec = b_dec.contiguous()
    target = target.contiguous()

    block = gpu_rows.tile(width)
    n_tiles = triton.cdiv(width, block)

    def floats(*shape: int, when: bool = True) -> Tensor:
        needed_shape = shape if when else (0,)
        return torch.empty(needed_shape, dtype=torch.float32, device=values.device)

    # One number per program for the loss; one per program and rank only where the error
    # of every level is needed, because those are many.
    with_gradients = any(task.needs)
    losses = floats(n_tiles, n)
    squares = floats(n_tiles, n, k, when=task.details)
    error = floats(n, width, when=task.details)
    dots = floats(n_tiles, n, k, when=with_gradients)
    suffix = floats(n, width, when=with_gradients)
    grad_W = floats(0)
    if task.needs[1]:
        grad_W = torch.zeros_like(W_dec, dtype=torch.float32)

    # With the factor of the mean's gradient in the weights, no tensor of the gradients'
    # size is passed over again.
    factor = 2.0 / target.numel()
    rank_weights = [weight * factor for weight in task.rank_weights(k)]
    weights = torch.tensor(rank_weights, device=values.device)
    mode = _mode(task)

    def walk(first: int, stop: int, sink: Tensor) -> None:
        gpu_rows.launch(
            _walk,
            (stop - first, n_tiles),
            values,
            indices,
            W_dec,
            b_dec,
            target,
            weights,
            losses,
            squares,
            error,
            dots,
            suffix,
            sink,
            FIRST=first,
            N=n,
            K=k,
            D=width,
            F=n_features,
            GRADIENTS=with_gradients,
            GRAD_W=mode,
            DETAILS=task.details,
            BD=block,
            num_warps=1,
        )

    if mode == "scratch":
        _in_chunks(walk, grad_W, indices)
    else:
        walk(0, n, grad_W)

    per_level = floats(0)
    reconstruction = floats(0)
    if task.details:
        ranks = [level - 1 for level in task.levels]
        square_of_rank = squares.sum((0, 1))
        square_of_level = square_of_rank[ranks]
        per_level = square_of_level / target.numel()
        # In place, because the error is not needed again.
        reconstruction = error.add_(target)

    # The weights of the squares contain a factor of 2 that the loss does not have.
    loss = losses.sum() / 2
    return Results(
        loss=loss,
        per_level=per_level,
        reconstruction=reconstruction,
        grad_values=dots.sum(0) if task.needs[0] else floats(0),
        grad_W=grad_W,
        grad_b=suffix.sum(0) if task.needs[2] else floats(0),
        grad_target=suffix.neg_() if task.needs[3] else floats(0),
    )


operator.register("hierarchical_loss_gpu", _results)


def _mode(task: Task) -> str:
    """How to add up the gradient of ``W_dec``."""
    if not task.needs[1]:
        return "no"
    return "scratch" if task.deterministic else "atomic"


def _in_chunks(
    walk: Callable[[int, int, Tensor], None], grad_W: Tensor, indices: Tensor
) -> None:
    """Walk for a chunk of tokens at a time, and add up ``grad_W`` in a fixed order.

    Args:
        walk: walks for the tokens from a first to a last one, which is excluded, and
            writes the products of every rank into rows of scratch memory.
        grad_W: [d_sae, d_model], to which they are added.
        indices: [n, k].
    """
    n, k = indices.shape
    n_features, width = grad_W.shape
    device = indices.device

    bytes_per_token = 4 * k * width
    n_tokens = min(n, max(1, _SCRATCH_BYTES // bytes_per_token))
    scratch = grad_W.new_empty(n_tokens * k, width)
    ones = grad_W.new_ones(n_tokens * k)

    # All entries, sorted by chunk and then by feature: those of a chunk stay together.
    # Stable, so that the order of a sum is always the same.
    tokens = torch.arange(n, device=device)
    chunk = tokens.div(n_tokens, rounding_mode="floor")
    keys = indices.clamp(0, n_features - 1)
    keys += chunk[:, None] * n_features
    features, order = torch.sort(keys.flatten(), stable=True)

    # The first entry of each feature adds up all of them; the others have empty
    # segments.
    places = torch.arange(n * k, device=device)
    stops = torch.searchsorted(features, features, right=True)
    is_repeated = features == features.roll(1)
    starts = torch.where(is_repeated, stops, places)
    # The roll compares the first entry with the last one.
    starts = starts.where(places > 0, 0)
    targets = features % n_features

    for first in range(0, n, n_tokens):
        stop = min(first + n_tokens, n)
        walk(first, stop, scratch)

        # Scratch memory begins anew with every chunk.
        first_entry = first * k
        entries = slice(first_entry, stop * k)
        gpu_rows.add_segments(
            grad_W,
            targets[entries],
            starts[entries] - first_entry,
            stops[entries] - first_entry,
            ones,
            order[entries] - first_entry,
            scratch,
            entries_per_row=1,
            add=True,
        )


@triton.jit
@no_type_check
def _walk(
    p_values,
    p_indices,
    p_W,
    p_b,
    p_target,
    p_weights,
    p_losses,
    p_squares,
    p_error,
    p_dots,
    p_suffix,
    p_sink,
    FIRST,
    N,
    K,
    D,
    F,
    GRADIENTS: tl.constexpr,
    GRAD_W: tl.constexpr,
    DETAILS: tl.constexpr,
    BD: tl.constexpr,
):
    i_n = (FIRST + tl.program_id(0)).to(tl.int64)
    i_d = tl.program_id(1).to(tl.int64)
    o_d = i_d * BD + tl.arange(0, BD)
    m_d = o_d < D
    p_values += i_n * K
    p_indices += i_n * K
    # Where this program's numbers are in tensors of one number per program and rank.
    i_part = (i_d * N + i_n) * K

    # [BD], as all blocks below
    b_bias = tl.load(p_b + o_d, mask=m_d, other=0)
    b_target = tl.load(p_target + i_n * D + o_d, mask=m_d, other=0)
    b_error = b_bias.to(tl.float32)
    b_error -= b_target.to(tl.float32)

    # Up the ranks: the error of every prefix, and its square.
    b_loss = 0.0
    i_row = tl.load(p_indices)
    b_row = _row(p_W, i_row, o_d, D, F)
    for i_k in range(0, K):
        # The next row is on its way while this one is worked on; after the last one,
        # that one again.
        i_next = tl.load(p_indices + tl.minimum(i_k + 1, K - 1))
        b_next = _row(p_W, i_next, o_d, D, F)

        b_value = tl.load(p_values + i_k).to(tl.float32)
        b_error = tl.where(m_d, b_error + b_value * b_row.to(tl.float32), 0)
        b_square = tl.sum(b_error * b_error)
        b_loss += tl.load(p_weights + i_k) * b_square
        if DETAILS:
            tl.store(p_squares + i_part + i_k, b_square)
        b_row = b_next

    tl.store(p_losses + i_d * N + i_n, b_loss)
    if DETAILS:
        tl.store(p_error + i_n * D + o_d, b_error, mask=m_d)

    # Down the ranks: the gradients, and the error of the prefix before.
    if GRADIENTS:
        b_suffix = tl.zeros([BD], tl.float32)
        i_row = tl.load(p_indices + K - 1)
        for i_back in range(0, K):
            i_k = K - 1 - i_back
            i_next = tl.load(p_indices + tl.maximum(i_k - 1, 0))
            b_next = _row(p_W, i_next, o_d, D, F)

            b_value = tl.load(p_values + i_k).to(tl.float32)
            # 0 beyond the end of the row, where the load gave NaN.
            b_wide = tl.where(m_d, b_row.to(tl.float32), 0)
            b_suffix += tl.load(p_weights + i_k) * b_error
            b_dot = tl.sum(b_wide * b_suffix)
            tl.store(p_dots + i_part + i_k, b_dot)

            b_grad = b_value * b_suffix
            if GRAD_W == "atomic":
                m_sink = o_d < _width(i_row, D, F)
                p_row = p_sink + i_row * D + o_d
                tl.atomic_add(p_row, b_grad, mask=m_sink, sem="relaxed")
            elif GRAD_W == "scratch":
                # Counted from the first token of this launch.
                i_entry = tl.program_id(0).to(tl.int64) * K + i_k
                tl.store(p_sink + i_entry * D + o_d, b_grad, mask=m_d)

            b_error -= b_value * b_wide
            b_row = b_next
            i_row = i_next
        tl.store(p_suffix + i_n * D + o_d, b_suffix, mask=m_d)


@triton.jit
@no_type_check
def _row(p_table, i_row, o_d, D, F):
    """A piece of a row; NaN beyond its end, and everywhere if there is no such row."""
    m_row = o_d < _width(i_row, D, F)
    return tl.load(p_table + i_row * D + o_d, mask=m_row, other=float("nan"))


@triton.jit
@no_type_check
def _width(i_row, D, F):
    """The width of a row; 0 if there is no such row.

    Compared with this, because the interpreter of Triton 3.9 cannot join masks of
    different shapes.
    """
    return tl.where((i_row >= 0) & (i_row < F), D, 0)
