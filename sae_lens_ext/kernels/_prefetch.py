"""A hint to the processor, for loops that numba compiles: a row is read soon.

Rows that are chosen by index are waited for one after the other. Asked for one step
ahead, a row arrives while the row before it is worked on. This pays where the rows do
not fit into the second-level cache.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LINE = 16
"""Floats in a cache line, which is what one hint brings."""


@intrinsic
def prefetch(
    typingctx: Any,
    table: Any,
    row: Any,
    column: Any,
) -> Any:
    """Ask for the cache line of ``table[row, column]``.

    Nothing happens where the table has no such place.
    """

    def generate(
        context: Any,
        builder: Any,
        signature: Any,
        arguments: Any,
    ) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])

        # The address, from the strides in bytes.
        row_stride, column_stride = cgutils.unpack_tuple(builder, array.strides, 2)
        offset = builder.add(
            builder.mul(arguments[1], row_stride),
            builder.mul(arguments[2], column_stride),
        )
        start = builder.ptrtoint(array.data, offset.type)
        address = builder.inttoptr(builder.add(start, offset), cgutils.voidptr_t)

        number = ir.IntType(32)
        hint = ir.FunctionType(
            ir.VoidType(), [cgutils.voidptr_t, number, number, number]
        )
        function = cgutils.get_or_insert_function(
            builder.module, hint, "llvm.prefetch.p0"
        )
        # For reading (0), into all levels of the cache (3), of data (1).
        constants = [ir.Constant(number, value) for value in (0, 3, 1)]
        builder.call(function, [address, *constants])
        return context.get_dummy_value()

    return types.void(table, row, column), generate
