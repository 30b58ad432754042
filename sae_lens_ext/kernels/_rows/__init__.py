"""Sums over table rows that are chosen by index: the arithmetic that every sparse step of an SAE comes down to.

A code of N tokens with K features each is an N x F matrix A with K entries per row. The kernels need A @ table, the products of a
dense row with the chosen table rows (the entries of G @ table.T where A has entries), and A.T @ rows. ``cpu.py`` and
``gpu.py`` are two implementations.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Rows(Protocol):
    """An implementation. Tensors of floats are contiguous and of one dtype, which the results have too; indices are int64."""

    def weighted_row_sum(
        self, values: Tensor, indices: Tensor, table: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """A @ table + bias: row n is the sum over j of ``values[n, j] * table[indices[n, j]]``. [N, K], [N, K], [F, D] -> [N, D]."""
        ...

    def row_dots(self, rows: Tensor, indices: Tensor, table: Tensor) -> Tensor:
        """Entry (n, j) is the product of ``rows[n]`` with ``table[indices[n, j]]``. Shapes [N, D], [N, K], [F, D] -> [N, K]."""
        ...

    def scatter_row_sum(
        self, values: Tensor, indices: Tensor, rows: Tensor, n_rows: int
    ) -> Tensor:
        """A.T @ rows: row f is the sum of ``values[n, j] * rows[n]`` where ``indices[n, j] == f``, in a fixed order. -> [n_rows, D]."""
        ...

    def scatter_sum(self, values: Tensor, indices: Tensor, n: int) -> Tensor:
        """Column sums of A: entry f is the sum of ``values`` where ``indices == f``, in a fixed order. -> [n]."""
        ...
