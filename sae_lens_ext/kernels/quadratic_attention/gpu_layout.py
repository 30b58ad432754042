"""How the Triton programs of ``quadratic_attention`` divide their work.

Tokens are divided into chunks: scores are computed within a chunk, and what came before
it is read from a state. Tiles are the pieces that a program works on at a time.
Features come in kinds: those of degree 0, those of degree 1, and those of each
distance.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sae_lens_ext.kernels._rows import gpu as gpu_rows
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap

# With larger tiles or fewer warps, registers are spilled on one target or another
# (``python -m benchmarks resources``).
_TOKENS = 32
WARPS = 8
GRAD_WARPS = 4


class Tiles(NamedTuple):
    """How much of each axis a program works on at a time."""

    tokens: int
    d: int
    d_v: int


def tiles(d: int, d_v: int) -> Tiles:
    """Tiles that fit into the registers of ``WARPS`` warps.

    tl.dot multiplies nothing smaller than 16.
    """
    return Tiles(
        tokens=_TOKENS,
        d=max(triton.next_power_of_2(d), 16),
        d_v=min(64, max(triton.next_power_of_2(d_v), 16)),
    )


def grad_tiles(d: int, d_v: int) -> Tiles:
    """Tiles for the gradient of scores, which holds more at a time."""
    return tiles(d, d_v)._replace(tokens=16, d_v=16)


def constants(feature_map: FeatureMap, precision: str) -> tuple[float | str, ...]:
    """What the programs are compiled for.

    Returns:
        c0, c1, c2 and the scale; the factors of features of degree 0, of degree 1, of
        squares and of other pairs; and the precision of products.
    """
    c0, c1, c2 = feature_map.c
    scale = feature_map.scale
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
    """The precision of all products for inputs of this dtype, as tl.dot names it.

    Weights, features and states are float32, whatever the inputs are. For float32
    inputs products are those of float32. For half precision they are made of more than
    one product of the fast units, which is about as exact: a pattern sums to 1 as
    nearly as its rounding to half precision shows. Not all of AMD's GPUs have tf32.
    """
    if dtype == torch.float32:
        return "ieee"
    return "bf16x6" if is_amd else "tf32x3"


class Layout:
    """The sizes, tiles and constants of the programs for tensors of one shape.

    Attributes:
        n: the number of sequences.
        d_v: the width of values.
        n_features: the number of features.
        n_kinds: the number of kinds of features.
        n_chunks: the number of chunks, at least 1.
        eps: added to the sum of the weights.
        tiles: the tiles of all programs but the gradient of scores.
        grad_tiles: the tiles of that one.
        sizes: the arguments T, D, V, F, CHUNK and SLOTS of the programs.
        constants: see ``constants``.
    """

    def __init__(
        self,
        q: Tensor,
        v: Tensor,
        feature_map: FeatureMap,
        chunk: int,
    ) -> None:
        """Lay out attention of ``q`` [n, pos, d] and ``v`` [n, pos, d_v].

        ``chunk`` is the number of tokens in a chunk, a multiple of those in a tile; 0
        is one chunk of all tokens.
        """
        c0, c1, c2 = feature_map.c
        self.n, self._pos, d = q.shape
        self.d_v = v.shape[-1]
        self.n_features = n_features(d, feature_map.c)
        self.n_kinds = (c0 != 0) + (c1 != 0) + (d // 2 + 1) * (c2 != 0)
        self.eps = feature_map.eps

        self.tiles = tiles(d, self.d_v)
        self.grad_tiles = grad_tiles(d, self.d_v)
        if not chunk:
            chunk = max(1, self.n_blocks(self.tiles)) * self.tiles.tokens
        self.n_chunks = max(1, triton.cdiv(self._pos, chunk))

        n_slots = self.n_chunks + 1
        self.sizes = (self._pos, d, self.d_v, self.n_features, chunk, n_slots)
        self.constants = constants(feature_map, precision(q.dtype))

    def n_blocks(self, shape: Tiles) -> int:
        """The number of tiles that all tokens of a sequence make."""
        return triton.cdiv(self._pos, shape.tokens)

    def n_value_blocks(self) -> int:
        """The number of tiles that the width of values makes."""
        return triton.cdiv(self.d_v, self.tiles.d_v)


def launch(
    program: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int = WARPS,
) -> None:
    """Run a Triton program, if there is anything for it to do."""
    if all(grid):
        gpu_rows.launch(program, grid, *arguments, num_warps=num_warps)
