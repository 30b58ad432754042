"""The walk of ``cpu.py`` for one token and a narrow piece of its rows, all of it in vector registers."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sae_lens_ext.kernels.hierarchical_loss.vectors import LANES, Vectors

WIDTH = 4 * LANES
"""How wide the piece is: error and S of 64 numbers take 8 of the 32 registers that new processors have."""


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
        values: [tokens, k], of float32 or float64, as all but indices.
        indices: [tokens, k], int64, rows of ``table``.
        table: [rows, WIDTH], the piece of the decoder.
        grads: like ``table``; what belongs to its gradient is added.
        weights: [k].
        dots: [tokens, k]; the products of each rank's row with S are added.
        squares: [k, LANES]; the squares of each rank's error are added, any of them in any lane.
        error: [WIDTH], that of no feature at all; becomes that of all.
        tail: [WIDTH], becomes S at the first rank.
        token: which one.
    """
    signature = types.void(
        values, indices, table, grads, weights, dots, squares, error, tail, token
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(kind)(context, builder, one)
            for kind, one in zip(signature.args[:-1], arguments[:-1], strict=True)
        ]
        (
            p_values,
            p_indices,
            p_table,
            p_grads,
            p_weights,
            p_dots,
            p_squares,
            p_error,
            p_tail,
        ) = [array.data for array in arrays]
        token = arguments[-1]
        n_ranks = cgutils.unpack_tuple(builder, arrays[0].shape, 2)[1]
        first = builder.mul(token, n_ranks)
        v = Vectors(builder, context.get_value_type(signature.args[2].dtype))
        offsets = [ir.Constant(token.type, start) for start in range(0, WIDTH, LANES)]
        errors = [v.variable(v.load(p_error, offset)) for offset in offsets]
        tails = [v.variable(v.zero) for _ in offsets]

        def rank_at(index: Any) -> tuple[Any, Any, Any]:
            """Where a rank's numbers are, where its row begins, and its value."""
            here = builder.add(first, index)
            row = builder.mul(
                builder.load(builder.gep(p_indices, [here])),
                ir.Constant(token.type, WIDTH),
            )
            return here, row, v.filled(builder.load(builder.gep(p_values, [here])))

        with cgutils.for_range(builder, n_ranks) as loop:
            _, row, value = rank_at(loop.index)
            for offset, error in zip(offsets, errors, strict=True):
                entry = v.load(p_table, builder.add(row, offset))
                builder.store(v.plus_product(builder.load(error), value, entry), error)
        for offset, error in zip(offsets, errors, strict=True):
            v.store(builder.load(error), p_error, offset)

        with cgutils.for_range(builder, n_ranks) as loop:
            rank = builder.sub(
                builder.sub(n_ranks, ir.Constant(token.type, 1)), loop.index
            )
            here, row, value = rank_at(rank)
            weight = v.filled(builder.load(builder.gep(p_weights, [rank])))
            dot = square = v.zero
            for offset, error, tail in zip(offsets, errors, tails, strict=True):
                place = builder.add(row, offset)
                entry, grad, old = (
                    v.load(p_table, place),
                    v.load(p_grads, place),
                    builder.load(error),
                )
                new = v.plus_product(builder.load(tail), weight, old)
                square, dot = (
                    v.plus_product(square, old, old),
                    v.plus_product(dot, entry, new),
                )
                v.store(v.plus_product(grad, value, new), p_grads, place)
                builder.store(v.minus_product(old, value, entry), error)
                builder.store(new, tail)
            p_dot = builder.gep(p_dots, [here])
            builder.store(builder.fadd(builder.load(p_dot), v.total(dot)), p_dot)
            lanes = builder.mul(rank, ir.Constant(token.type, LANES))
            v.store(v.plus(square, v.load(p_squares, lanes)), p_squares, lanes)
        for offset, tail in zip(offsets, tails, strict=True):
            v.store(builder.load(tail), p_tail, offset)
        return context.get_dummy_value()

    return signature, generate
