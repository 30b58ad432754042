"""Arithmetic on vectors of numbers, written into functions that numba compiles.

Numba vectorises loops over arrays only after it has made sure that they do not overlap, every time anew; for rows of a few dozen
numbers that takes longer than the arithmetic. What is written here stays in registers.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16
"""Numbers in a vector; a processor with narrower registers takes several."""
_JOINED = ("contract",)  # a product and a sum may be one instruction


class Vectors:
    """Instructions on vectors of one kind of number, at the end of what ``builder`` has written so far."""

    def __init__(self, builder: Any, number: ir.Type) -> None:
        """Of floats or doubles."""
        self._builder, self._number = builder, number
        self._type = ir.VectorType(number, LANES)
        self.zero = ir.Constant(self._type, None)

    def variable(self, vector: Any) -> Any:
        """A place for a vector, which becomes a register."""
        place = cgutils.alloca_once(self._builder, self._type)
        self._builder.store(vector, place)
        return place

    def load(self, pointer: Any, offset: Any) -> Any:
        """The numbers from ``pointer[offset]`` on."""
        return self._builder.load(self._at(pointer, offset), align=self._alignment)

    def store(self, vector: Any, pointer: Any, offset: Any) -> None:
        """Write them there."""
        self._builder.store(vector, self._at(pointer, offset), align=self._alignment)

    def filled(self, number: Any) -> Any:
        """A vector of one number."""
        nothing, index = ir.Constant(self._type, ir.Undefined), ir.IntType(32)
        first = self._builder.insert_element(nothing, number, ir.Constant(index, 0))
        return self._builder.shuffle_vector(
            first, nothing, ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        )

    def plus(self, one: Any, other: Any) -> Any:
        """``one + other``."""
        return self._builder.fadd(one, other)

    def plus_product(self, vector: Any, one: Any, other: Any) -> Any:
        """``vector + one * other``."""
        return self._builder.fadd(
            vector, self._builder.fmul(one, other, flags=_JOINED), flags=_JOINED
        )

    def minus_product(self, vector: Any, one: Any, other: Any) -> Any:
        """``vector - one * other``."""
        return self._builder.fsub(
            vector, self._builder.fmul(one, other, flags=_JOINED), flags=_JOINED
        )

    def total(self, vector: Any) -> Any:
        """The sum of its numbers, in any order."""
        kind = {"float": "f32", "double": "f64"}[str(self._number)]
        function = ir.FunctionType(self._number, [self._number, self._type])
        add = cgutils.get_or_insert_function(
            self._builder.module, function, f"llvm.vector.reduce.fadd.v{LANES}{kind}"
        )
        return self._builder.call(
            add, [ir.Constant(self._number, 0.0), vector], fastmath=("reassoc",)
        )

    @property
    def _alignment(self) -> int:
        # Of one number: arrays of numpy promise no more.
        return 4 if str(self._number) == "float" else 8

    def _at(self, pointer: Any, offset: Any) -> Any:
        return self._builder.bitcast(
            self._builder.gep(pointer, [offset]), self._type.as_pointer()
        )
