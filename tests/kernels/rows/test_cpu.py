"""The sums over chosen rows on a CPU are those of dense algebra."""

import pytest
import torch
from kernels.cases import CASES

from sae_lens_ext.kernels._rows import Rows, cpu


def dense(values, indices, n_rows):
    """A code as a matrix [N, F]; entries of one feature are added."""
    matrix = torch.zeros(len(values), n_rows, dtype=values.dtype)
    return matrix.scatter_add(1, indices, values)


@pytest.fixture(params=CASES, ids=str)
def code(request):
    return request.param.code()


def test_the_module_is_an_implementation():
    assert isinstance(cpu, Rows)


def test_weighted_row_sum(code):
    values, indices, table, bias, _ = code.values()
    expected = dense(values, indices, len(table)) @ table
    torch.testing.assert_close(cpu.weighted_row_sum(values, indices, table), expected)
    torch.testing.assert_close(
        cpu.weighted_row_sum(values, indices, table, bias), expected + bias
    )


def test_row_dots(code):
    _, indices, table, _, rows = code.values()
    expected = (rows @ table.T).gather(1, indices)
    torch.testing.assert_close(cpu.row_dots(rows, indices, table), expected)


def test_scatter_row_sum(code):
    values, indices, table, _, rows = code.values()
    expected = dense(values, indices, len(table)).T @ rows
    sums = cpu.scatter_row_sum(values, indices, rows, len(table))
    torch.testing.assert_close(sums, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_of_half_precision_are_made_in_float32(dtype):
    # In half precision, a sum of ones stops growing at 256 or 2048.
    n = 4096
    column = torch.ones(n, 1, dtype=dtype)
    row = torch.ones(1, n, dtype=dtype)
    first = torch.zeros(n, 1, dtype=torch.int64)
    table = torch.ones(1, n, dtype=dtype)

    sums = [
        cpu.scatter_sum(column, first, 1),
        cpu.scatter_row_sum(column, first, column, 1),
        cpu.row_dots(row, first[:1], table),
        cpu.weighted_row_sum(row, first.T, column[:1]),
    ]
    for total in sums:
        assert total.dtype == dtype
        assert total.item() == n


def test_scatter_sum(code):
    values, indices, table, _, _ = code.values()
    expected = dense(values, indices, len(table)).sum(0)
    torch.testing.assert_close(cpu.scatter_sum(values, indices, len(table)), expected)
