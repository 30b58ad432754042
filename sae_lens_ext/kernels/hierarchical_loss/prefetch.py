"""A hint to the processor, for loops that numba compiles: this row is read soon.

Rows that are chosen by index are waited for one after the other; asked for one step ahead, they arrive while the row before them
is worked on. It pays where there are too many rows for the second-level cache.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LINE = 16
"""Floats in a cache line: one hint brings this many."""


@intrinsic
def prefetch(typingctx: Any, table: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line that holds ``table[row, column]``; nothing happens where there is none."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        by_row, by_column = cgutils.unpack_tuple(builder, array.strides, 2)
        offset = builder.add(
            builder.mul(arguments[1], by_row), builder.mul(arguments[2], by_column)
        )
        address = builder.inttoptr(
            builder.add(builder.ptrtoint(array.data, offset.type), offset),
            cgutils.voidptr_t,
        )
        number = ir.IntType(32)
        hint = ir.FunctionType(
            ir.VoidType(), [cgutils.voidptr_t, number, number, number]
        )
        # For reading (0), into all levels of the cache (3), of data (1).
        constants = [ir.Constant(number, value) for value in (0, 3, 1)]
        builder.call(
            cgutils.get_or_insert_function(builder.module, hint, "llvm.prefetch.p0"),
            [address, *constants],
        )
        return context.get_dummy_value()

    return types.void(table, row, column), generate
