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
        place = self._at(pointer, offset)
        return self._builder.load(place, align=self._alignment)

    def store(self, vector: Any, pointer: Any, offset: Any) -> None:
        """Write a vector from ``pointer[offset]`` on."""
        place = self._at(pointer, offset)
        self._builder.store(vector, place, align=self._alignment)

    def filled(self, number: Any) -> Any:
        """Make a vector of one number."""
        builder = self._builder
        undefined = ir.Constant(self._type, ir.Undefined)

        # LLVM knows this pair as a broadcast: the number goes to lane 0, and every lane
        # takes what is in lane 0.
        index = ir.IntType(32)
        lane_0 = ir.Constant(index, 0)
        first = builder.insert_element(undefined, number, lane_0)

        lane_numbers = ir.VectorType(index, LANES)
        every_lane = ir.Constant(lane_numbers, [0] * LANES)
        return builder.shuffle_vector(first, undefined, every_lane)

    def plus(self, a: Any, b: Any) -> Any:
        """Compute ``a + b``."""
        return self._builder.fadd(a, b)

    def plus_product(self, vector: Any, a: Any, b: Any) -> Any:
        """Compute ``vector + a * b``."""
        builder = self._builder
        product = builder.fmul(a, b, flags=_JOINED)
        return builder.fadd(vector, product, flags=_JOINED)

    def minus_product(self, vector: Any, a: Any, b: Any) -> Any:
        """Compute ``vector - a * b``."""
        builder = self._builder
        product = builder.fmul(a, b, flags=_JOINED)
        return builder.fsub(vector, product, flags=_JOINED)

    def total(self, vector: Any) -> Any:
        """Sum the numbers of a vector, in any order."""
        builder = self._builder
        number = self._number

        # LLVM has one such function per type of vector, which its name contains.
        bits = 8 * self._alignment
        name = f"llvm.vector.reduce.fadd.v{LANES}f{bits}"
        function = ir.FunctionType(number, [number, self._type])
        add = cgutils.get_or_insert_function(
            builder.module,
            function,
            name,
        )

        # Without leave to reassociate, it adds one lane after the other.
        start = ir.Constant(number, 0.0)
        return builder.call(add, [start, vector], fastmath=("reassoc",))

    @property
    def _alignment(self) -> int:
        # In bytes, of one number: numpy's arrays promise no more.
        if str(self._number) == "float":
            return 4
        return 8

    def _at(self, pointer: Any, offset: Any) -> Any:
        # Offsets count numbers, so the pointer becomes one to a vector only then.
        place = self._builder.gep(pointer, [offset])
        p_vector = self._type.as_pointer()
        return self._builder.bitcast(place, p_vector)
