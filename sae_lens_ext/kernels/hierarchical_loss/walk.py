"""The walk of ``cpu.py`` for one token and a narrow piece of its rows.

It is written as instructions on vectors, so that it stays in registers.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sae_lens_ext.kernels.hierarchical_loss.vectors import LANES, Vectors

WIDTH = 4 * LANES
"""Width of the piece: error and S take 8 of the 32 registers of a new processor."""


@intrinsic
def walk_token(
    typingctx: Any,
    values: Any,
    indices: Any,
    table: Any,
    grads: Any,
    weights: Any,
    dots: Any,
    squares: Any,
    error: Any,
    tail: Any,
    token: Any,
) -> Any:
    """Walk the ranks of a token up and down.

    Args:
        typingctx: numba's.
        values: [tokens, k], float32 or float64, as all arrays but ``indices``.
        indices: [tokens, k], int64, rows of ``table``.
        table: [rows, WIDTH], the piece of the decoder.
        grads: [rows, WIDTH], to which the piece's gradient is added.
        weights: [k].
        dots: [tokens, k], to which the products of each rank's row with S are added.
        squares: [k, LANES], to which the squares of each rank's error are added, any of
            them in any lane.
        error: [WIDTH], the error without any feature; becomes that of all features.
        tail: [WIDTH], becomes S at the first rank.
        token: the token's number.
    """
    signature = types.void(
        values,
        indices,
        table,
        grads,
        weights,
        dots,
        squares,
        error,
        tail,
        token,
    )

    def generate(
        context: Any,
        builder: Any,
        signature: Any,
        arguments: Any,
    ) -> Any:
        *array_types, _ = signature.args
        *array_values, token = arguments
        arrays = [
            context.make_array(array_type)(context, builder, array)
            for array_type, array in zip(array_types, array_values, strict=True)
        ]

        table_type = array_types[2]
        number = context.get_value_type(table_type.dtype)
        walk = _Walk(builder, number, arrays, token)
        walk.up()
        walk.down()
        # What a function without a result returns.
        return context.get_dummy_value()

    return signature, generate


class _Walk:
    """The instructions of one token's walk. ``p_`` is a pointer."""

    def __init__(
        self,
        builder: Any,
        number: ir.Type,
        arrays: list[Any],
        token: Any,
    ) -> None:
        self._builder = builder
        self._vectors = Vectors(builder, number)
        (
            self._p_values,
            self._p_indices,
            self._p_table,
            self._p_grads,
            self._p_weights,
            self._p_dots,
            self._p_squares,
            self._p_error,
            self._p_tail,
        ) = [array.data for array in arrays]

        self._index = token.type
        _, self._n_ranks = cgutils.unpack_tuple(builder, arrays[0].shape, 2)
        self._first = builder.mul(token, self._n_ranks)

        # A register, or a few, for every vector of the piece. LLVM makes registers of
        # variables whose address is used for loads and stores alone.
        vectors = self._vectors
        starts = range(0, WIDTH, LANES)
        self._offsets = [self._constant(start) for start in starts]
        self._errors = [
            vectors.variable(vectors.load(self._p_error, offset))
            for offset in self._offsets
        ]
        self._tails = [vectors.variable(vectors.zero) for _ in self._offsets]

    def up(self) -> None:
        """Add all features to the error."""
        builder = self._builder
        vectors = self._vectors
        with cgutils.for_range(builder, self._n_ranks) as loop:
            _, row, value = self._rank_at(loop.index)

            # A loop here, and none in the function that is written: every vector of the
            # piece gets instructions of its own.
            for offset, error in zip(self._offsets, self._errors, strict=True):
                in_row = builder.add(row, offset)
                entry = vectors.load(self._p_table, in_row)

                error_before = builder.load(error)
                error_after = vectors.plus_product(error_before, value, entry)
                builder.store(error_after, error)

        self._write(self._errors, self._p_error)

    def down(self) -> None:
        """Compute the gradients, and take the features from the error again."""
        builder = self._builder
        vectors = self._vectors
        with cgutils.for_range(builder, self._n_ranks) as loop:
            last = builder.sub(self._n_ranks, self._constant(1))
            rank = builder.sub(last, loop.index)
            place, row, value = self._rank_at(rank)

            p_weight = builder.gep(self._p_weights, [rank])
            weight_number = builder.load(p_weight)
            weight = vectors.filled(weight_number)

            dot = vectors.zero
            square = vectors.zero
            pieces = zip(self._offsets, self._errors, self._tails, strict=True)
            for offset, error, tail in pieces:
                in_row = builder.add(row, offset)
                entry = vectors.load(self._p_table, in_row)
                grad = vectors.load(self._p_grads, in_row)

                # S, up to this rank.
                error_now = builder.load(error)
                tail_before = builder.load(tail)
                tail_now = vectors.plus_product(tail_before, weight, error_now)

                square = vectors.plus_product(square, error_now, error_now)
                dot = vectors.plus_product(dot, entry, tail_now)
                grad = vectors.plus_product(grad, value, tail_now)
                vectors.store(grad, self._p_grads, in_row)

                # The error of the prefix before, for the next turn.
                error_before = vectors.minus_product(error_now, value, entry)
                builder.store(error_before, error)
                builder.store(tail_now, tail)

            # Added, because the other pieces of the row belong to the same product.
            p_dot = builder.gep(self._p_dots, [place])
            dot_before = builder.load(p_dot)
            dot_total = vectors.total(dot)
            dot_after = builder.fadd(dot_before, dot_total)
            builder.store(dot_after, p_dot)

            # Lane by lane: only the caller needs their sum, once for many tokens.
            lanes = builder.mul(rank, self._constant(LANES))
            squares_before = vectors.load(self._p_squares, lanes)
            squares_after = vectors.plus(square, squares_before)
            vectors.store(squares_after, self._p_squares, lanes)

        self._write(self._tails, self._p_tail)

    def _rank_at(self, rank: Any) -> tuple[Any, Any, Any]:
        """Where a rank's numbers are, where its row begins, and its value."""
        builder = self._builder
        place = builder.add(self._first, rank)

        p_feature = builder.gep(self._p_indices, [place])
        feature = builder.load(p_feature)
        row = builder.mul(feature, self._constant(WIDTH))

        p_value = builder.gep(self._p_values, [place])
        number = builder.load(p_value)
        value = self._vectors.filled(number)
        return place, row, value

    def _write(self, variables: list[Any], pointer: Any) -> None:
        for offset, variable in zip(self._offsets, variables, strict=True):
            vector = self._builder.load(variable)
            self._vectors.store(vector, pointer, offset)

    def _constant(self, number: int) -> Any:
        return ir.Constant(self._index, number)
