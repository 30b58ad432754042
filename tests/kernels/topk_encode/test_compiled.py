"""The compiled selection keeps the order of its definition, on difficult rows too."""

import pytest
import torch

from sae_lens_ext.kernels import topk_encode
from sae_lens_ext.kernels.topk_encode import compiled, cpu

K = 5


def make_rows(kind, n, columns):
    rows = torch.randn(n, columns, generator=torch.Generator().manual_seed(columns))
    if kind == "rising":
        return rows.sort(dim=1).values
    if kind == "falling":
        return rows.sort(dim=1, descending=True).values
    if kind == "one value":
        return torch.full_like(rows, -2.0)
    if kind == "few values":
        return rows.round()

    if kind == "one group":
        # All large numbers share a remainder, so that the bound is far too low.
        rows[:, 7::64] += 100
    if kind == "infinite":
        rows[rows > 2.5] = float("inf")
        rows[rows < 0] = -float("inf")
    if kind == "hardly any":
        rows[:, :-2] = -float("inf")
    if kind == "zeros of both signs":
        rows = torch.where(rows > 0, 0.0, -0.0)
    if kind == "NaN":
        rows[:, [3, 67, 900]] = float("nan")
    if kind == "NaN beside infinity":
        rows[:, [3, 67, 68, 900]] = float("inf")
        rows[:, [5, 66]] = float("nan")
    return rows


def assert_selects_in_order(rows, k, n_threads):
    values = torch.full((len(rows), k), torch.nan, dtype=rows.dtype)
    indices = torch.full((len(rows), k), -1)
    compiled.select(n_threads, rows, None, values, indices)

    expected = rows.sort(dim=1, descending=True, stable=True)
    assert torch.equal(indices, expected.indices[:, :k])
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(values, expected.values[:, :k], **exactly)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("columns", [1024, 1025, 4099])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "rising",
        "falling",
        "one value",
        "few values",
        "zeros of both signs",
        "one group",
        "infinite",
        "hardly any",
        "NaN",
        "NaN beside infinity",
    ],
)
def test_it_selects_in_the_order_of_a_stable_sort(kind, columns, n_threads):
    assert_selects_in_order(make_rows(kind, 7, columns), K, n_threads)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_every_dtype(dtype):
    rows = make_rows("plain", 3, 2048).to(dtype)
    assert_selects_in_order(rows, 32, 2)


@pytest.mark.parametrize("k", [1, 2, 40, 41, 42, 64])
def test_a_cut_between_equal_numbers_takes_those_of_the_first_columns(k):
    rows = torch.zeros(4, 4099)
    # Far apart, so that they lie in different segments and groups, and the larger ones
    # behind the smaller.
    rows[:, 5::103] = 1.0
    rows[:, -1] = 2.0
    assert_selects_in_order(rows, k, 2)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("columns", [1024, 4099])
@pytest.mark.parametrize("height", [-1.0, 0.5, 2.0, 3.5, float("inf")])
@pytest.mark.parametrize(
    "kind", ["plain", "few values", "one group", "infinite", "hardly any", "NaN"]
)
def test_with_a_floor_it_selects_from_the_numbers_above(
    kind, height, columns, n_threads
):
    rows = make_rows(kind, 7, columns)
    g = torch.Generator().manual_seed(0)
    # None is below 0, and some numbers equal their floor.
    floor = (torch.randn(columns, generator=g).round() + height).clamp_min(0)
    values = torch.full((7, K), torch.nan)
    indices = torch.full((7, K), -1)
    compiled.select(n_threads, rows, floor, values, indices)

    gated = torch.where(rows <= floor, 0, rows)
    expected = gated.sort(dim=1, descending=True, stable=True)
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(values, expected.values[:, :K], **exactly)
    is_active = values != 0
    assert torch.equal(indices[is_active], expected.indices[:, :K][is_active])


def test_accepts_zero_rows():
    indices = torch.empty(0, 3, dtype=torch.int64)
    compiled.select(2, torch.empty(0, 2048), None, torch.empty(0, 3), indices)


@pytest.mark.parametrize("k", [1, 31, 64])
def test_the_encoder_uses_it_for_long_rows_with_the_same_result(k, monkeypatch):
    x = torch.randn(300, 16)
    W_enc = torch.randn(16, 2048)
    b_enc = torch.randn(2048)

    calls = []
    select = compiled.select

    def recording(n_threads, *arguments):
        calls.append(n_threads)
        select(n_threads, *arguments)

    monkeypatch.setattr(compiled, "select", recording)
    fast = topk_encode(x, W_enc, b_enc, k)
    assert calls

    monkeypatch.setattr(cpu, "has_numba", lambda: False)
    plain = topk_encode(x, W_enc, b_enc, k)
    assert all(torch.equal(a, b) for a, b in zip(fast, plain, strict=True))
