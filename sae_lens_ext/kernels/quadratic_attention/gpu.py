"""``quadratic_attention`` on a GPU, in Triton: scores of the tokens of one chunk with each other, and a state for all before it.

The dense form is that with one chunk for all tokens: quadratic in their number, with nothing quadratic kept. In the chunked form the
state before every chunk is found first, for all chunks at once; so is, in the backward pass, its gradient after every chunk. The
mathematics is that of ``cpu.py``. Queries and keys change roles in the backward pass and time runs the other way, so each kernel
serves twice. Features are made one distance at a time (see ``features.py``) and never kept.

In the names of the kernels ``i_`` is an index, ``o_`` are offsets, ``m_`` a mask, ``p_`` a pointer and ``b_`` a loaded block.
"""

import functools
import math
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_lens_ext.kernels import _rows_gpu
from sae_lens_ext.kernels.quadratic_attention import operator
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.operator import Results
from sae_lens_ext.kernels.quadratic_attention.reference import AttentionState, Kernel

# Tokens of a chunk, a multiple of those of any tile. Counted for d = 16 and d_v = 64: its scores cost less than reading its state.
_CHUNK = 256
# From so many tokens on the chunked form multiplies less than half as often as the dense one, counted for the same sizes.
_CHUNKED_FROM = 2048
# With more tokens in a tile, or fewer warps, registers are spilled on one target or another (``python -m benchmarks resources``).
_TOKENS = 32
_WARPS = 8


class Values(NamedTuple):
    """What the tokens bring along: a row, and one number beside it that belongs to the sum of the weights."""

    rows: Tensor
    """[n, pos, d_v]."""
    beside: Tensor
    """[n, pos], float32."""


class States(NamedTuple):
    """One for every chunk, in float32."""

    kv: Tensor
    """[n, chunks, features, d_v]."""
    k: Tensor
    """[n, chunks, features]."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, state: AttentionState | None, wants_state: bool, form: str
) -> tuple[Tensor, AttentionState | None]:
    """See ``operator.run``; ``form`` is "auto", "dense" or "chunked"."""
    if form == "auto":
        form = "chunked" if q.shape[-2] >= _CHUNKED_FROM else "dense"
    return operator.run(f"quadratic_attention_gpu_{form}", q, k, v, kernel, state, wants_state)


def _attend(is_chunked: bool, q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, kernel: Kernel, wants_state: bool) -> Results:
    call, values = _Call(q, v, kernel, is_chunked), Values(v, torch.ones(q.shape[:2], dtype=torch.float32, device=q.device))
    states, after = None, values.beside.new_empty(0)
    if before is not None or wants_state or call.n_chunks > 1:
        sums = call.sum_features(k, values)
        states = _added_up(sums, before)
        after = _last(states, sums) if wants_state else after
    out, denominator = torch.empty_like(v), torch.empty_like(values.beside)
    call.weigh(q, k, v, states, out, denominator)
    return Results(out, denominator, after)


def _gradients(
    is_chunked: bool,
    grad_out: Tensor,
    grad_after: Tensor | None,
    out: Tensor,
    denominator: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    before: Tensor | None,
    kernel: Kernel,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call, values = _Call(q, v, kernel, is_chunked), Values(v, torch.ones_like(denominator))
    grad_rows = grad_out.float() / (denominator + kernel.eps).unsqueeze(-1)
    grad_sums = Values(grad_rows, -(grad_rows * out).sum(-1))
    states = grad_states = None
    grad_before = denominator.new_empty(0)
    if before is not None or call.n_chunks > 1:
        states = _added_up(call.sum_features(k, values), before)
    if before is not None or grad_after is not None or call.n_chunks > 1:
        sums = States(*(one.flip(1) for one in call.sum_features(q, grad_sums)))
        backwards = _added_up(sums, grad_after)
        grad_states = States(*(one.flip(1) for one in backwards))
        grad_before = _last(backwards, sums) if before is not None else grad_before
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    call.grad_scores(q, grad_sums, k, values, states, grad_q, is_reverse=False)
    call.grad_scores(k, values, q, grad_sums, grad_states, grad_k, is_reverse=True)
    call.weigh(k, q, grad_rows, grad_states, grad_v, None)
    return grad_q, grad_k, grad_v, grad_before


for _form in ("dense", "chunked"):
    parts = functools.partial(_attend, _form == "chunked"), functools.partial(_gradients, _form == "chunked")
    operator.register(f"quadratic_attention_gpu_{_form}", *parts)


def _added_up(sums: States, before: Tensor | None) -> States:
    """The state before every chunk, from the sums over every chunk and the state before the first."""
    first = [torch.zeros_like(one[:, :1]) for one in sums] if before is None else [before[:, None, :, :-1], before[:, None, :, -1]]
    return States(*(torch.cat([start, one[:, :-1]], dim=1).cumsum(1) for start, one in zip(first, sums, strict=True)))


def _last(states: States, sums: States) -> Tensor:
    """The state after the last chunk, in one piece."""
    kv, k = (one[:, -1] + more[:, -1] for one, more in zip(states, sums, strict=True))
    return torch.cat([kv, k.unsqueeze(-1)], dim=-1)


class Tiles(NamedTuple):
    """How much of each axis a program works on at a time."""

    tokens: int
    d: int
    d_v: int


def tiles(d: int, d_v: int) -> Tiles:
    """Small enough for the registers of ``_WARPS`` warps; tl.dot multiplies nothing smaller than 16."""
    whole_d = max(triton.next_power_of_2(d), 16)
    return Tiles(_TOKENS if whole_d <= 64 else 16, whole_d, min(64, max(triton.next_power_of_2(d_v), 16)))


def grad_tiles(d: int, d_v: int) -> Tiles:
    """The same for the gradient of scores, which holds more at a time."""
    return tiles(d, d_v)._replace(tokens=16, d_v=min(32, tiles(d, d_v).d_v))


def constants(kernel: Kernel, dtype: torch.dtype) -> tuple[float | str, ...]:
    """What the kernels are compiled for: c0, c1, c2, the scale, the factor of each kind of feature, and how to multiply."""
    (c0, c1, c2), scale = kernel.c, kernel.scale
    factors = math.sqrt(c0), math.sqrt(c1 * scale), math.sqrt(c2) * scale, math.sqrt(2 * c2) * scale
    return c0, c1, c2, scale, *factors, precision(dtype)


def precision(dtype: torch.dtype) -> str:
    """How to multiply. Half precision is exact in tf32, which has the exponents of float32: weights are squares, and large."""
    return "ieee" if dtype == torch.float32 else "tf32"


class _Call:
    """The kernels, for tensors of one shape."""

    def __init__(self, q: Tensor, v: Tensor, kernel: Kernel, is_chunked: bool) -> None:
        self._n, pos, d = q.shape
        self._d_v, self._tiles = v.shape[-1], tiles(d, v.shape[-1])
        self._blocks = triton.cdiv(pos, self._tiles.tokens)
        chunk = _CHUNK if is_chunked else max(1, self._blocks) * self._tiles.tokens
        self.n_chunks = max(1, triton.cdiv(pos, chunk))
        self._features, self._eps = n_features(d, kernel.c), kernel.eps
        self._kinds = (kernel.c[0] != 0) + (kernel.c[1] != 0) + (d // 2 + 1) * (kernel.c[2] != 0)
        self._sizes = pos, d, self._d_v, self._features, chunk, self.n_chunks
        self._constants = *constants(kernel, q.dtype), *self._tiles

    def weigh(self, x: Tensor, y: Tensor, rows: Tensor, states: States | None, out: Tensor, denominator: Tensor | None) -> None:
        """For every x the weighted sum of the rows of all y before it, divided by the sum of the weights, which is ``denominator``.

        Without a denominator: of all y after it, and not divided.
        """
        tensors = x, y, rows, *(states or (rows, rows)), out, rows if denominator is None else denominator
        numbers = *self._sizes, self._blocks, self._kinds, self._eps, denominator is None, states is not None, *self._constants
        self._launch(_weigh, (self._n * self._blocks, triton.cdiv(self._d_v, self._tiles.d_v)), *tensors, *numbers)

    def grad_scores(
        self, x: Tensor, of_x: Values, y: Tensor, of_y: Values, states: States | None, out: Tensor, *, is_reverse: bool
    ) -> None:
        """The gradient of every x, when that of the weight of x and y is the product of what they bring along."""
        tensors = x, *of_x, y, *of_y, *(states or (x, x)), out
        pos, d, d_v, *_ = self._sizes
        shape = grad_tiles(d, d_v)
        blocks = triton.cdiv(pos, shape.tokens)
        numbers = *self._sizes, blocks, is_reverse, states is not None, *self._constants[: -len(shape)], *shape
        self._launch(_grad_scores, (self._n * blocks,), *tensors, *numbers)

    def sum_features(self, x: Tensor, of_x: Values) -> States:
        """For every chunk the sum over its tokens of features times what they bring along."""
        shape = self._n, self.n_chunks, self._features
        states = States(of_x.beside.new_empty(*shape, self._d_v), of_x.beside.new_empty(shape))
        grid = self._n * self.n_chunks, self._kinds, max(1, triton.cdiv(self._d_v, self._tiles.d_v))
        self._launch(_sum_features, grid, x, *of_x, *states, *self._sizes, *self._constants)
        return states

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any) -> None:
        if all(grid):
            _rows_gpu.launch(kernel, grid, *arguments, num_warps=_WARPS)


@triton.jit
@no_type_check
def _tile(p_x, i_n, o_t, o_d, T, D):
    m_x = (o_t < T)[:, None] & (o_d < D)[None, :]
    return tl.load(p_x + (i_n * T + o_t)[:, None] * D + o_d[None, :], mask=m_x, other=0).to(tl.float32)


@triton.jit
@no_type_check
def _rows_of(i_kind, D, C0: tl.constexpr, C1: tl.constexpr):
    """Where the features of one kind begin, and how many there are: of degree 0, of degree 1, then a kind for each distance."""
    i_distance = i_kind - (C0 != 0) - (C1 != 0)
    i_row = (C0 != 0) + (C1 != 0) * D + i_distance * D
    n_rows = tl.where(2 * i_distance == D, D // 2, D)
    i_row = tl.where(i_distance < 0, tl.where(i_kind == 0, 0, 1), i_row)
    n_rows = tl.where(i_distance < 0, tl.where((C0 != 0) & (i_kind == 0), 1, D), n_rows)
    return i_row, n_rows


@triton.jit
@no_type_check
def _phi(p_x, i_n, o_t, o_d, i_kind, T, D, C0: tl.constexpr, C1: tl.constexpr, W0, W1, W_SQUARE, W_PAIR):
    i_distance = i_kind - (C0 != 0) - (C1 != 0)
    o_shifted = (o_d + tl.maximum(i_distance, 0)) % D
    b_x = _tile(p_x, i_n, o_t, o_d, T, D)
    b_phi = b_x * _tile(p_x, i_n, o_t, o_shifted, T, D) * tl.where(i_distance == 0, W_SQUARE, W_PAIR)
    if C1 != 0:
        b_phi = tl.where(i_distance == -1, b_x * W1, b_phi)
    if C0 != 0:
        b_phi = tl.where(i_kind == 0, W0, b_phi)
    _, n_rows = _rows_of(i_kind, D, C0, C1)
    return tl.where((o_t < T)[:, None] & (o_d < n_rows)[None, :], b_phi, 0.0)


@triton.jit
@no_type_check
def _weigh(
    p_x,
    p_y,
    p_rows,
    p_kv,
    p_k,
    p_out,
    p_denominator,
    T,
    D,
    V,
    F,
    CHUNK,
    CHUNKS,
    BLOCKS,
    KINDS,
    eps,
    REVERSE: tl.constexpr,
    HAS_STATE: tl.constexpr,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SCALE: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W_SQUARE: tl.constexpr,
    W_PAIR: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BV: tl.constexpr,
):
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_block = tl.program_id(0) % BLOCKS
    i_v = tl.program_id(1)
    o_t = i_block * BT + tl.arange(0, BT)
    o_d = tl.arange(0, BD)
    o_v = i_v * BV + tl.arange(0, BV)
    i_chunk = i_block * BT // CHUNK
    b_x = _tile(p_x, i_n, o_t, o_d, T, D)
    b_sum = tl.zeros([BT, BV], tl.float32)
    b_total = tl.zeros([BT], tl.float32)
    i_first = i_block * BT if REVERSE else i_chunk * CHUNK
    i_stop = tl.minimum((i_chunk + 1) * CHUNK, T) if REVERSE else tl.minimum((i_block + 1) * BT, T)
    for i_y in range(i_first, i_stop, BT):
        o_y = i_y + tl.arange(0, BT)
        b_scores = tl.dot(b_x, tl.trans(_tile(p_y, i_n, o_y, o_d, T, D)), input_precision=PRECISION) * SCALE
        m_pair = o_y[None, :] >= o_t[:, None] if REVERSE else o_y[None, :] <= o_t[:, None]
        b_weights = tl.where(m_pair & (o_y < T)[None, :], C0 + b_scores * (C1 + C2 * b_scores), 0.0)
        b_sum += tl.dot(b_weights, _tile(p_rows, i_n, o_y, o_v, T, V), input_precision=PRECISION)
        b_total += tl.sum(b_weights, 1)
    if HAS_STATE:
        i_state = (i_n * CHUNKS + i_chunk) * F
        for i_kind in range(0, KINDS):
            b_phi = _phi(p_x, i_n, o_t, o_d, i_kind, T, D, C0, C1, W0, W1, W_SQUARE, W_PAIR)
            i_row, n_rows = _rows_of(i_kind, D, C0, C1)
            o_row = i_state + i_row + o_d
            m_kv = (o_d < n_rows)[:, None] & (o_v < V)[None, :]
            b_kv = tl.load(p_kv + o_row[:, None] * V + o_v[None, :], mask=m_kv, other=0)
            b_sum += tl.dot(b_phi, b_kv, input_precision=PRECISION)
            if not REVERSE:
                b_k = tl.load(p_k + o_row, mask=o_d < n_rows, other=0)
                b_total += tl.sum(b_phi * b_k[None, :], 1)
    if not REVERSE:
        b_sum = b_sum / (b_total + eps)[:, None]
        if i_v == 0:
            tl.store(p_denominator + i_n * T + o_t, b_total, mask=o_t < T)
    m_out = (o_t < T)[:, None] & (o_v < V)[None, :]
    tl.store(p_out + (i_n * T + o_t)[:, None] * V + o_v[None, :], b_sum.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
@no_type_check
def _grad_scores(
    p_x,
    p_x_rows,
    p_x_beside,
    p_y,
    p_y_rows,
    p_y_beside,
    p_kv,
    p_k,
    p_out,
    T,
    D,
    V,
    F,
    CHUNK,
    CHUNKS,
    BLOCKS,
    REVERSE: tl.constexpr,
    HAS_STATE: tl.constexpr,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SCALE: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W_SQUARE: tl.constexpr,
    W_PAIR: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BV: tl.constexpr,
):
    i_n = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i_block = tl.program_id(0) % BLOCKS
    o_t = i_block * BT + tl.arange(0, BT)
    o_d = tl.arange(0, BD)
    i_chunk = i_block * BT // CHUNK
    b_x = _tile(p_x, i_n, o_t, o_d, T, D)
    b_x_beside = tl.load(p_x_beside + i_n * T + o_t, mask=o_t < T, other=0)
    b_grad = tl.zeros([BT, BD], tl.float32)
    i_first = i_block * BT if REVERSE else i_chunk * CHUNK
    i_stop = tl.minimum((i_chunk + 1) * CHUNK, T) if REVERSE else tl.minimum((i_block + 1) * BT, T)
    for i_y in range(i_first, i_stop, BT):
        o_y = i_y + tl.arange(0, BT)
        b_y = _tile(p_y, i_n, o_y, o_d, T, D)
        b_scores = tl.dot(b_x, tl.trans(b_y), input_precision=PRECISION) * SCALE
        b_y_beside = tl.load(p_y_beside + i_n * T + o_y, mask=o_y < T, other=0)
        b_grad_weights = b_x_beside[:, None] * b_y_beside[None, :]
        for i_v in range(0, V, BV):
            o_v = i_v + tl.arange(0, BV)
            b_x_rows = _tile(p_x_rows, i_n, o_t, o_v, T, V)
            b_y_rows = _tile(p_y_rows, i_n, o_y, o_v, T, V)
            b_grad_weights += tl.dot(b_x_rows, tl.trans(b_y_rows), input_precision=PRECISION)
        m_pair = o_y[None, :] >= o_t[:, None] if REVERSE else o_y[None, :] <= o_t[:, None]
        b_grad_scores = tl.where(m_pair, b_grad_weights * (C1 + 2 * C2 * b_scores) * SCALE, 0.0)
        b_grad += tl.dot(b_grad_scores, b_y, input_precision=PRECISION)
    if HAS_STATE:
        i_state = (i_n * CHUNKS + i_chunk) * F
        if C1 != 0:
            o_row = i_state + (C0 != 0) + o_d
            b_phi = _grad_features(p_x_rows, b_x_beside, p_kv, p_k, i_n, o_t, o_d, o_row, T, D, V, PRECISION, BT, BD, BV)
            b_grad += b_phi * W1
        if C2 != 0:
            # Every coordinate with every other, each pair from both sides.
            for i_shift in range(0, D):
                o_other = (o_d + i_shift) % D
                i_distance = tl.minimum(i_shift, D - i_shift)
                o_first = tl.where(2 * i_shift < D, o_d, tl.where(2 * i_shift == D, tl.minimum(o_d, o_other), o_other))
                o_row = i_state + (C0 != 0) + (C1 != 0) * D + i_distance * D + o_first
                b_phi = _grad_features(p_x_rows, b_x_beside, p_kv, p_k, i_n, o_t, o_d, o_row, T, D, V, PRECISION, BT, BD, BV)
                b_grad += b_phi * _tile(p_x, i_n, o_t, o_other, T, D) * tl.where(i_shift == 0, 2 * W_SQUARE, W_PAIR)
    m_out = (o_t < T)[:, None] & (o_d < D)[None, :]
    tl.store(p_out + (i_n * T + o_t)[:, None] * D + o_d[None, :], b_grad.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit
@no_type_check
def _grad_features(
    p_rows,
    b_beside,
    p_kv,
    p_k,
    i_n,
    o_t,
    o_d,
    o_row,
    T,
    D,
    V,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BV: tl.constexpr,
):
    """The gradient of the features in some rows of a state, [BT, BD]."""
    b_k = tl.load(p_k + o_row, mask=o_d < D, other=0)
    b_phi = b_beside[:, None] * b_k[None, :]
    for i_v in range(0, V, BV):
        o_v = i_v + tl.arange(0, BV)
        b_kv = tl.load(p_kv + o_row[:, None] * V + o_v[None, :], mask=(o_d < D)[:, None] & (o_v < V)[None, :], other=0)
        b_phi += tl.dot(_tile(p_rows, i_n, o_t, o_v, T, V), tl.trans(b_kv), input_precision=PRECISION)
    return b_phi


@triton.jit
@no_type_check
def _sum_features(
    p_x,
    p_rows,
    p_beside,
    p_kv,
    p_k,
    T,
    D,
    V,
    F,
    CHUNK,
    CHUNKS,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SCALE: tl.constexpr,
    W0: tl.constexpr,
    W1: tl.constexpr,
    W_SQUARE: tl.constexpr,
    W_PAIR: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
    BV: tl.constexpr,
):
    i_state = tl.program_id(0).to(tl.int64)
    i_kind = tl.program_id(1)
    i_v = tl.program_id(2)
    i_n = i_state // CHUNKS
    i_chunk = i_state % CHUNKS
    o_d = tl.arange(0, BD)
    o_v = i_v * BV + tl.arange(0, BV)
    b_kv = tl.zeros([BD, BV], tl.float32)
    b_k = tl.zeros([BD], tl.float32)
    for i_t in range(i_chunk * CHUNK, tl.minimum((i_chunk + 1) * CHUNK, T), BT):
        o_t = i_t + tl.arange(0, BT)
        b_phi = _phi(p_x, i_n, o_t, o_d, i_kind, T, D, C0, C1, W0, W1, W_SQUARE, W_PAIR)
        b_kv += tl.dot(tl.trans(b_phi), _tile(p_rows, i_n, o_t, o_v, T, V), input_precision=PRECISION)
        b_beside = tl.load(p_beside + i_n * T + o_t, mask=o_t < T, other=0)
        b_k += tl.sum(b_phi * b_beside[:, None], 0)
    i_row, n_rows = _rows_of(i_kind, D, C0, C1)
    o_row = i_state * F + i_row + o_d
    m_row = o_d < n_rows
    tl.store(p_kv + o_row[:, None] * V + o_v[None, :], b_kv, mask=m_row[:, None] & (o_v < V)[None, :])
    if i_v == 0:
        tl.store(p_k + o_row, b_k, mask=m_row)
