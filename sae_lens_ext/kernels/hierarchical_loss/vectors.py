"""Arithmetic on vectors of numbers, written into functions that numba compiles.

Numba vectorises a loop over arrays only behind a check that they do not overlap, and
the check runs every time; for rows of a few dozen numbers it takes longer than the
arithmetic. The vectors here stay in registers.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16
"""Numbers in a vector; a processor with narrower registers takes more than one."""
# A product and a sum may be one instruction.
_JOINED = ("contract",)


class Vectors:
    """Instructions on vectors of one type of number.

    They are appended to what ``builder`` has written so far.
    """

    def __init__(self, builder: Any, number: ir.Type) -> None:
        """Use vectors of floats or doubles."""
        self._builder = builder
        self._number = number
        self._type = ir.VectorType(number, LANES)
        self.zero = ir.Constant(self._type, None)

    def variable(self, vector: Any) -> Any:
        """Make a variable that holds ``vector``; it becomes a register."""
        place = cgutils.alloca_once(self._builder, self._type)
        self._builder.store(vector, place)
        return place

    def load(self, pointer: Any, offset: Any) -> Any:
        """Read the numbers from ``pointer[offset]`` on."""
        return self._builder.load(self._at(pointer, offset), align=self._alignment)

    def store(self, vector: Any, pointer: Any, offset: Any) -> None:
        """Write a vector from ``pointer[offset]`` on."""
        self._builder.store(vector, self._at(pointer, offset), align=self._alignment)

    def filled(self, number: Any) -> Any:
        """Make a vector of one number."""
        undefined = ir.Constant(self._type, ir.Undefined)
        index = ir.IntType(32)
        first = self._builder.insert_element(undefined, number, ir.Constant(index, 0))
        every_lane = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        return self._builder.shuffle_vector(first, undefined, every_lane)

    def plus(self, a: Any, b: Any) -> Any:
        """Compute ``a + b``."""
        return self._builder.fadd(a, b)

    def plus_product(self, vector: Any, a: Any, b: Any) -> Any:
        """Compute ``vector + a * b``."""
        product = self._builder.fmul(a, b, flags=_JOINED)
        return self._builder.fadd(vector, product, flags=_JOINED)

    def minus_product(self, vector: Any, a: Any, b: Any) -> Any:
        """Compute ``vector - a * b``."""
        product = self._builder.fmul(a, b, flags=_JOINED)
        return self._builder.fsub(vector, product, flags=_JOINED)

    def total(self, vector: Any) -> Any:
        """Sum the numbers of a vector, in any order."""
        name = {"float": "f32", "double": "f64"}[str(self._number)]
        function = ir.FunctionType(self._number, [self._number, self._type])
        add = cgutils.get_or_insert_function(
            self._builder.module, function, f"llvm.vector.reduce.fadd.v{LANES}{name}"
        )
        start = ir.Constant(self._number, 0.0)
        return self._builder.call(add, [start, vector], fastmath=("reassoc",))

    @property
    def _alignment(self) -> int:
        # Of one number: numpy's arrays promise no more.
        return 4 if str(self._number) == "float" else 8

    def _at(self, pointer: Any, offset: Any) -> Any:
        place = self._builder.gep(pointer, [offset])
        return self._builder.bitcast(place, self._type.as_pointer())
