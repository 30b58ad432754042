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


def test_scatter_sum(code):
    values, indices, table, _, _ = code.values()
    expected = dense(values, indices, len(table)).sum(0)
    torch.testing.assert_close(cpu.scatter_sum(values, indices, len(table)), expected)
