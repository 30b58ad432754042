"""``quadratic_attention`` on a GPU, in Triton: scores of the tokens of one chunk with each other, and a state for all before it.

The dense form is that with one chunk for all tokens: quadratic in their number, with nothing quadratic kept. In the chunked form the
state before every chunk is found first, for all chunks at once; so is, in the backward pass, its gradient after every chunk. These
take features * (d_v + 1) * 4 / chunk bytes for every token and head, and only one of the two is there at a time. The mathematics is
that of ``chunked.py``. Queries and keys change roles in the backward pass and time runs the other way, so each program serves twice.
The programs are in ``gpu_programs.py``.

Where q and k are wider than 64, features are so many that nearly all is products of large matrices, which torch multiplies as fast as
anything: there the code of ``chunked.py`` runs, on the GPU, in either form, and ``torch.backends.cuda.matmul.allow_tf32`` has its say.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.quadratic_attention import chunked, gpu_programs, operator
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.operator import Results
from sae_lens_ext.kernels.quadratic_attention.reference import (
    AttentionState,
    FeatureMap,
)

# Tokens of a chunk, a multiple of those of any tile. Counted for d = 16 and d_v = 64: its scores cost less than reading its state.
_CHUNK = 256
# d up to which a tile holds whole queries: with more, registers are spilled, and shared memory runs out.
_WIDEST = 64
# With larger tiles, or fewer warps, registers are spilled on one target or another (``python -m benchmarks resources``).
_TOKENS = 32
_WARPS = 8
_GRAD_WARPS = 4
# Elements that one program of a prefix sum adds up.
_SCAN = 1024


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    state: AttentionState | None,
    wants_state: bool,
    form: str,
) -> tuple[Tensor, AttentionState | None]:
    """See ``operator.run``; ``form`` is "auto", "dense" or "chunked"."""
    pos, d, d_v = *q.shape[-2:], v.shape[-1]
    if d > _WIDEST:
        return operator.run(
            "quadratic_attention_wide_gpu",
            q,
            k,
            v,
            feature_map,
            state,
            wants_state,
            chunked.CHUNK,
        )
    is_dense = form == "dense" or (
        form == "auto" and _is_short(pos, d, d_v, feature_map)
    )
    return operator.run(
        "quadratic_attention_gpu",
        q,
        k,
        v,
        feature_map,
        state,
        wants_state,
        0 if is_dense else _CHUNK,
    )


def _is_short(pos: int, d: int, d_v: int, feature_map: FeatureMap) -> bool:
    """Whether one chunk for all tokens multiplies at most twice as much: it needs no states in memory, and fewer launches."""
    # Half of all scores are of tokens that come later, and are left out.
    chunked = _CHUNK / 2 * (d + d_v) + 2 * n_features(d, feature_map.c) * (d_v + 1)
    return pos / 2 * (d + d_v) <= 2 * chunked


class Values(NamedTuple):
    """What the tokens bring along: to the sum of weighted values, and to the sum of the weights, the normalizer."""

    value: Tensor
    """[n, pos, d_v]."""
    normalizer: Tensor
    """[n, pos], float32."""


class States(NamedTuple):
    """A slot before the first chunk, and one after every chunk; in float32."""

    kv: Tensor
    """[n, slots, features, d_v]."""
    k: Tensor
    """[n, slots, features]."""

    def at(self, slot: int) -> Tensor:
        """One of them, in one piece."""
        return torch.cat([self.kv[:, slot], self.k[:, slot].unsqueeze(-1)], dim=-1)


def _find_sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: Tensor | None,
    feature_map: FeatureMap,
    chunk: int,
    wants_state: bool,
) -> Results:
    call, values = (
        _Call(q, v, feature_map, chunk),
        Values(v, torch.ones(q.shape[:2], dtype=torch.float32, device=q.device)),
    )
    out, divisor = torch.empty_like(v), torch.empty_like(values.normalizer)
    reads = initial_state is not None or call.n_chunks > 1
    states = (
        call.prefix_sums(k, values, initial_state) if reads or wants_state else None
    )
    call.sum_values(q, k, v, states if reads else None, out, divisor)
    return Results(
        out,
        divisor,
        states.at(-1) if wants_state and states is not None else divisor.new_empty(0),
    )


def _find_gradients(
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    out: Tensor,
    divisor: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: Tensor | None,
    feature_map: FeatureMap,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call, values = _Call(q, v, feature_map, chunk), Values(v, torch.ones_like(divisor))
    grad_value = grad_out.float() / divisor.unsqueeze(-1)
    grad_sums = Values(grad_value, -(grad_value * out).sum(-1))
    grad_q, grad_k, grad_v = (
        torch.empty_like(q),
        torch.empty_like(k),
        torch.empty_like(v),
    )
    states = (
        call.prefix_sums(k, values, initial_state)
        if initial_state is not None or call.n_chunks > 1
        else None
    )
    call.grad_scores(q, grad_sums, k, values, states, grad_q, is_reverse=False)
    # All states, or all their gradients: never both.
    states, grad_initial_state = None, divisor.new_empty(0)
    has_after = grad_final_state is not None or call.n_chunks > 1
    if has_after or initial_state is not None:
        states = call.prefix_sums(q, grad_sums, grad_final_state, is_reverse=True)
        grad_initial_state = (
            grad_initial_state if initial_state is None else states.at(0)
        )
    after = states if has_after else None
    call.grad_scores(k, values, q, grad_sums, after, grad_k, is_reverse=True)
    call.sum_values(k, q, grad_value, after, grad_v, None)
    return grad_q, grad_k, grad_v, grad_initial_state


operator.register("quadratic_attention_gpu", _find_sums, _find_gradients)
operator.register(
    "quadratic_attention_wide_gpu", chunked.find_sums, chunked.find_gradients
)


class Tiles(NamedTuple):
    """How much of each axis a program works on at a time."""

    tokens: int
    d: int
    d_v: int


def tiles(d: int, d_v: int) -> Tiles:
    """Small enough for the registers of ``_WARPS`` warps; tl.dot multiplies nothing smaller than 16."""
    return Tiles(
        _TOKENS,
        max(triton.next_power_of_2(d), 16),
        min(64, max(triton.next_power_of_2(d_v), 16)),
    )


def grad_tiles(d: int, d_v: int) -> Tiles:
    """The same for the gradient of scores, which holds more at a time."""
    return tiles(d, d_v)._replace(tokens=16, d_v=16)


def constants(feature_map: FeatureMap, precision: str) -> tuple[float | str, ...]:
    """What the programs are compiled for: c0, c1, c2, the scale, the factor of each kind of feature, and how to multiply."""
    (c0, c1, c2), scale = feature_map.c, feature_map.scale
    factors = (
        math.sqrt(c0),
        math.sqrt(c1 * scale),
        math.sqrt(c2) * scale,
        math.sqrt(2 * c2) * scale,
    )
    return c0, c1, c2, scale, *factors, precision


def precision(
    dtype: torch.dtype, *, is_amd: bool = torch.version.hip is not None
) -> str:
    """How to multiply, all products alike: as float32, in which weights, features and states are, whatever the inputs.

    For float32 inputs exactly so. For half precision in several products of the fast units, which are about as exact: a pattern sums to
    1 as nearly as its rounding to half precision shows. Not all of AMD's have tf32.
    """
    return "ieee" if dtype == torch.float32 else "bf16x6" if is_amd else "tf32x3"


class _Call:
    """The programs, for tensors of one shape."""

    def __init__(
        self, q: Tensor, v: Tensor, feature_map: FeatureMap, chunk: int
    ) -> None:
        self._n, pos, d = q.shape
        self._d_v, self._tiles = v.shape[-1], tiles(d, v.shape[-1])
        self._blocks = triton.cdiv(pos, self._tiles.tokens)
        chunk = chunk or max(1, self._blocks) * self._tiles.tokens
        self.n_chunks = max(1, triton.cdiv(pos, chunk))
        self._features, self._eps = n_features(d, feature_map.c), feature_map.eps
        self._kinds = (
            (feature_map.c[0] != 0)
            + (feature_map.c[1] != 0)
            + (d // 2 + 1) * (feature_map.c[2] != 0)
        )
        self._sizes = pos, d, self._d_v, self._features, chunk, self.n_chunks + 1
        self._constants = *constants(feature_map, precision(q.dtype)), *self._tiles

    def sum_values(
        self,
        x: Tensor,
        y: Tensor,
        value: Tensor,
        states: States | None,
        out: Tensor,
        divisor: Tensor | None,
    ) -> None:
        """For every x the weighted sum of the values of all y before it, divided by ``divisor``, which is found and written too.

        Without a divisor: of all y after it, and not divided.
        """
        norm = value if states is None else torch.linalg.vector_norm(states.k, dim=-1)
        tensors = (
            x,
            y,
            value,
            *(states or (value, value)),
            norm,
            out,
            value if divisor is None else divisor,
        )
        numbers = (
            *self._sizes,
            self._blocks,
            self._kinds,
            self._eps,
            divisor is None,
            states is not None,
            *self._constants,
        )
        grid = self._n * self._blocks, triton.cdiv(self._d_v, self._tiles.d_v)
        self._launch(gpu_programs.sum_values, grid, *tensors, *numbers)

    def grad_scores(
        self,
        x: Tensor,
        of_x: Values,
        y: Tensor,
        of_y: Values,
        states: States | None,
        out: Tensor,
        *,
        is_reverse: bool,
    ) -> None:
        """The gradient of every x, when that of the weight of x and y is the product of what they bring along."""
        tensors = x, *of_x, y, *of_y, *(states or (x, x)), out
        pos, d, d_v, *_ = self._sizes
        shape = grad_tiles(d, d_v)
        blocks = triton.cdiv(pos, shape.tokens)
        numbers = (
            *self._sizes,
            blocks,
            is_reverse,
            states is not None,
            *self._constants[: -len(shape)],
            *shape,
        )
        self._launch(
            gpu_programs.grad_scores,
            (self._n * blocks,),
            *tensors,
            *numbers,
            num_warps=_GRAD_WARPS,
        )

    def prefix_sums(
        self, x: Tensor, of_x: Values, start: Tensor | None, *, is_reverse: bool = False
    ) -> States:
        """The sum over all chunks before each slot, and from ``start`` on, of features times what the tokens bring along.

        In reverse over all chunks after each slot: then the start is in the last one.
        """
        shape = self._n, self.n_chunks + 1, self._features
        states = States(
            of_x.normalizer.new_empty(*shape, self._d_v),
            of_x.normalizer.new_empty(shape),
        )
        first = -1 if is_reverse else 0
        states.kv[:, first] = 0 if start is None else start[..., :-1]
        states.k[:, first] = 0 if start is None else start[..., -1]
        grid = (
            self._n * self.n_chunks,
            self._kinds,
            max(1, triton.cdiv(self._d_v, self._tiles.d_v)),
        )
        self._launch(
            gpu_programs.sum_features,
            grid,
            x,
            *of_x,
            *states,
            *self._sizes,
            is_reverse,
            *self._constants,
        )
        for sums in states:
            width = sums[0, 0].numel() if self._n else 0
            self._launch(
                gpu_programs.add_up,
                (self._n, triton.cdiv(width, _SCAN)),
                sums,
                self.n_chunks + 1,
                width,
                is_reverse,
                _SCAN,
            )
        return states

    def _launch(
        self,
        program: Any,
        grid: tuple[int, ...],
        *arguments: Any,
        num_warps: int = _WARPS,
    ) -> None:
        if all(grid):
            gpu_rows.launch(program, grid, *arguments, num_warps=num_warps)
