"""The selection in torch keeps the order of a stable descending sort."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.kernels.topk_encode import ordered
from sae_lens_ext.kernels.topk_encode.ordered import first_in_order

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NUMBERS = [
    float("nan"),
    -float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -0.0,
    # Neighbours in half precision, and a number that is too small to be normal there.
    1.0,
    1.0078125,
    -1.0,
    -1.0078125,
    6e-8,
    -6e-8,
    3.5,
]


@st.composite
def rows_and_k(draw):
    n_columns = draw(st.integers(1, 12))
    row = st.lists(st.sampled_from(NUMBERS), min_size=n_columns, max_size=n_columns)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    return rows, draw(st.integers(1, n_columns))


def assert_in_order(rows, k):
    values, columns = first_in_order(rows, k)
    expected = rows.sort(dim=1, descending=True, stable=True)
    assert torch.equal(columns, expected.indices[:, :k])
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(values, expected.values[:, :k], **exactly)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(case=rows_and_k())
def test_awkward_numbers_and_ties(dtype, case):
    rows, k = case
    assert_in_order(torch.tensor(rows).to(dtype), k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 31, 299, 300])
def test_random_rows(dtype, k):
    rows = torch.randn(20, 300, generator=torch.Generator().manual_seed(k))
    assert_in_order(rows.to(dtype), k)


@pytest.mark.parametrize("n_columns", [ordered._PACKED_COLUMNS, 65537])
def test_half_precision_rows_of_any_length(n_columns):
    rows = torch.randn(2, n_columns, generator=torch.Generator().manual_seed(0))
    assert_in_order(rows.bfloat16(), 40)
    assert_in_order(torch.ones(2, n_columns, dtype=torch.bfloat16), n_columns - 1)


def test_accepts_zero_rows():
    for dtype in DTYPES:
        values, columns = first_in_order(torch.empty(0, 9, dtype=dtype), 3)
        assert values.shape == columns.shape == (0, 3)
