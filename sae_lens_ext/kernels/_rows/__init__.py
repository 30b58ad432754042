"""Sums over table rows that are chosen by index.

Every sparse step of an SAE comes down to this arithmetic. A code of N tokens with K
features each is an N x F matrix A with K entries per row. The kernels need A @ table,
the products of a dense row with the chosen table rows (the entries of G @ table.T where
A has entries), and A.T @ rows. ``cpu.py`` and ``gpu.py`` are two implementations.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Rows(Protocol):
    """An implementation.

    Floating-point tensors are contiguous and of one dtype, which is that of the
    results; sums are made in float32 or wider. Indices are int64.
    """

    def weighted_row_sum(
        self,
        values: Tensor,
        indices: Tensor,
        table: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Compute A @ table + bias.

        Row n is the sum over j of ``values[n, j] * table[indices[n, j]]``.
        [N, K], [N, K], [F, D], [D] -> [N, D].
        """
        ...

    def row_dots(self, rows: Tensor, indices: Tensor, table: Tensor) -> Tensor:
        """Compute the products of rows with the chosen rows of a table.

        Entry (n, j) is the product of ``rows[n]`` with ``table[indices[n, j]]``.
        [N, D], [N, K], [F, D] -> [N, K].
        """
        ...

    def scatter_row_sum(
        self,
        values: Tensor,
        indices: Tensor,
        rows: Tensor,
        n_rows: int,
    ) -> Tensor:
        """Compute A.T @ rows, with sums in a fixed order.

        Row f is the sum of ``values[n, j] * rows[n]`` where ``indices[n, j] == f``.
        [N, K], [N, K], [N, D] -> [n_rows, D].
        """
        ...

    def scatter_sum(self, values: Tensor, indices: Tensor, n: int) -> Tensor:
        """Compute the column sums of A, in a fixed order.

        Entry f is the sum of ``values`` where ``indices == f``.
        [N, K], [N, K] -> [n].
        """
        ...
