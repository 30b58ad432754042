"""``hierarchical_loss`` on a GPU, in Triton: the walk of ``cpu.py``, by one warp for every token and piece of a row.

A warp adds up the error over the ranks, then walks them down again; its rows come from the second-level cache the second time, and
each row is asked for one rank ahead. The gradient of ``W_dec`` is the only sum over tokens in it: added by atomics, or, to give the
same bits every time, written to scratch memory for as many tokens as stay in the cache and added up there feature by feature.
"""

from collections.abc import Callable
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.hierarchical_loss import operator
from sae_lens_ext.kernels.hierarchical_loss.operator import Results, Task

# Scratch of the deterministic mode: what is written is read again by the next launch, so it should stay in a GPU's second-level
# cache, which holds 40 to 50 MB on an A100 or H100.
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
        "hierarchical_loss_gpu", values, indices, W_dec, b_dec, target, task
    )


def _results(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    target: Tensor,
    task: Task,
) -> Results:
    (n, k), (n_features, width) = values.shape, W_dec.shape
    values, indices, W_dec, b_dec, target = (
        tensor.contiguous() for tensor in (values, indices, W_dec, b_dec, target)
    )
    block = gpu_rows.tile(width)
    tiles = triton.cdiv(width, block)

    def floats(*shape: int, when: bool = True) -> Tensor:
        return torch.empty(
            shape if when else (0,), dtype=torch.float32, device=values.device
        )

    with_gradients = any(task.needs)
    # One number per level, program and rank would be much; the loss alone needs one per program.
    losses, squares = floats(tiles, n), floats(tiles, n, k, when=task.details)
    error = floats(n, width, when=task.details)
    dots, suffix = (
        floats(tiles, n, k, when=with_gradients),
        floats(n, width, when=with_gradients),
    )
    grad_W = (
        torch.zeros_like(W_dec, dtype=torch.float32) if task.needs[1] else floats(0)
    )
    # With the factor of the gradients in the weights nothing of their size is passed over again.
    factor = 2.0 / target.numel()
    weights = torch.tensor(
        [weight * factor for weight in task.rank_weights(k)], device=values.device
    )
    mode = "no" if not task.needs[1] else "scratch" if task.deterministic else "atomic"
    flags = with_gradients, mode, task.details, block

    def walk(first: int, stop: int, sink: Tensor) -> None:
        tensors = (
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
        )
        gpu_rows.launch(
            _walk,
            (stop - first, tiles),
            *tensors,
            first,
            n,
            k,
            width,
            n_features,
            *flags,
            num_warps=1,
        )

    if mode == "scratch":
        _in_chunks(walk, grad_W, indices)
    else:
        walk(0, n, grad_W)
    per_level = (
        squares.sum((0, 1))[[level - 1 for level in task.levels]] / target.numel()
        if task.details
        else floats(0)
    )
    return Results(
        (losses.sum() / 2).to(values.dtype),
        per_level,
        error.add_(target) if task.details else floats(0),
        dots.sum(0) if task.needs[0] else floats(0),
        grad_W,
        suffix.sum(0) if task.needs[2] else floats(0),
        suffix.neg_() if task.needs[3] else floats(0),
    )


operator.register("hierarchical_loss_gpu", _results)


def _in_chunks(
    walk: Callable[[int, int, Tensor], None], grad_W: Tensor, indices: Tensor
) -> None:
    """The walk for some tokens at a time into scratch memory, and from there into ``grad_W``, in a fixed order."""
    (n, k), (n_features, width) = indices.shape, grad_W.shape
    tokens = min(n, max(1, _SCRATCH_BYTES // (4 * k * width)))
    scratch = grad_W.new_empty(tokens * k, width)
    ones = grad_W.new_ones(tokens * k)
    # Sorted by chunk first, every chunk's entries stay where they were; the first of each feature adds up all of them.
    chunk = torch.arange(n, device=indices.device).div(tokens, rounding_mode="floor")
    features, order = torch.sort(
        (chunk[:, None] * n_features + indices.clamp(0, n_features - 1)).flatten(),
        stable=True,
    )
    places = torch.arange(n * k, device=indices.device)
    stops = torch.searchsorted(features, features, right=True)
    starts = torch.where(features == features.roll(1), stops, places).where(
        places > 0, 0
    )
    targets = features % n_features
    for first in range(0, n, tokens):
        stop = min(first + tokens, n)
        walk(first, stop, scratch)
        mine = slice(first * k, stop * k)
        segments = targets[mine], starts[mine] - first * k, stops[mine] - first * k
        gpu_rows.add_segments(
            grad_W,
            *segments,
            ones,
            order[mine] - first * k,
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
    # Of what is one number per program and rank.
    i_part = (i_d * N + i_n) * K

    b_error = tl.load(p_b + o_d, mask=m_d, other=0).to(tl.float32)  # [BD], as all below
    b_error -= tl.load(p_target + i_n * D + o_d, mask=m_d, other=0).to(tl.float32)
    b_loss = 0.0
    i_row = tl.load(p_indices)
    b_row = _row(p_W, i_row, o_d, D, F)
    for i_k in range(0, K):
        # The next row is on its way while this one is worked on; after the last one, that one again.
        i_next = tl.load(p_indices + tl.minimum(i_k + 1, K - 1))
        b_next = _row(p_W, i_next, o_d, D, F)
        b_error = tl.where(
            m_d,
            b_error + tl.load(p_values + i_k).to(tl.float32) * b_row.to(tl.float32),
            0,
        )
        b_square = tl.sum(b_error * b_error)
        b_loss += tl.load(p_weights + i_k) * b_square
        if DETAILS:
            tl.store(p_squares + i_part + i_k, b_square)
        b_row = b_next
    tl.store(p_losses + i_d * N + i_n, b_loss)
    if DETAILS:
        tl.store(p_error + i_n * D + o_d, b_error, mask=m_d)

    if GRADIENTS:
        b_suffix = tl.zeros([BD], tl.float32)
        i_row = tl.load(p_indices + K - 1)
        for i_back in range(0, K):
            i_k = K - 1 - i_back
            i_next = tl.load(p_indices + tl.maximum(i_k - 1, 0))
            b_next = _row(p_W, i_next, o_d, D, F)
            b_value = tl.load(p_values + i_k).to(tl.float32)
            b_wide = tl.where(m_d, b_row.to(tl.float32), 0)
            b_suffix += tl.load(p_weights + i_k) * b_error
            tl.store(p_dots + i_part + i_k, tl.sum(b_wide * b_suffix))
            if GRAD_W == "atomic":
                m_sink = o_d < _width(i_row, D, F)
                tl.atomic_add(
                    p_sink + i_row * D + o_d,
                    b_value * b_suffix,
                    mask=m_sink,
                    sem="relaxed",
                )
            elif GRAD_W == "scratch":
                i_entry = tl.program_id(0).to(tl.int64) * K + i_k
                tl.store(p_sink + i_entry * D + o_d, b_value * b_suffix, mask=m_d)
            b_error -= b_value * b_wide
            b_row = b_next
            i_row = i_next
        tl.store(p_suffix + i_n * D + o_d, b_suffix, mask=m_d)


@triton.jit
@no_type_check
def _row(p_table, i_row, o_d, D, F):
    """A piece of a row; NaN beyond its end, and all of it when there is no such row."""
    return tl.load(
        p_table + i_row * D + o_d, mask=o_d < _width(i_row, D, F), other=float("nan")
    )


@triton.jit
@no_type_check
def _width(i_row, D, F):
    """How much there is of a row. (A comparison with this, because the interpreter of Triton 3.9 cannot join masks of other shapes.)"""
    return tl.where((i_row >= 0) & (i_row < F), D, 0)
