"""The compiled selection chooses as ``torch.topk`` does, also from difficult rows."""

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
    if kind == "NaN":
        rows[:, [3, 67, 900]] = float("nan")
    return rows


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
        "one group",
        "infinite",
        "hardly any",
        "NaN",
    ],
)
def test_it_chooses_as_torch_does(kind, columns, n_threads):
    rows = make_rows(kind, 7, columns)
    values = torch.full((7, K), torch.nan)
    indices = torch.full((7, K), -1)
    with compiled.selection(n_threads) as select:
        select(rows, values, indices)

    # NaN counts as the largest, as in torch, but has no order against infinity here.
    expected = rows.topk(K).values
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(values, expected, **exactly)
    torch.testing.assert_close(rows.gather(1, indices), values, **exactly)
    assert all(len(set(row)) == K for row in indices.tolist())


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_every_dtype(dtype):
    rows = make_rows("plain", 3, 2048).to(dtype)
    values = torch.empty(3, 32, dtype=dtype)
    indices = torch.empty(3, 32, dtype=torch.int64)
    with compiled.selection(2) as select:
        select(rows, values, indices)
    assert torch.equal(values, rows.topk(32).values)


def test_accepts_zero_rows():
    indices = torch.empty(0, 3, dtype=torch.int64)
    with compiled.selection(2) as select:
        select(torch.empty(0, 2048), torch.empty(0, 3), indices)


@pytest.mark.parametrize("k", [1, 31, 64])
def test_the_encoder_uses_it_for_long_rows_with_the_same_result(k, monkeypatch):
    x = torch.randn(300, 16)
    W_enc = torch.randn(16, 2048)
    b_enc = torch.randn(2048)

    calls = []
    selection = compiled.selection

    def recording(n_threads):
        calls.append(n_threads)
        return selection(n_threads)

    monkeypatch.setattr(compiled, "selection", recording)
    fast = topk_encode(x, W_enc, b_enc, k)
    assert calls

    monkeypatch.setattr(cpu, "has_numba", lambda: False)
    plain = topk_encode(x, W_enc, b_enc, k)
    assert all(torch.equal(a, b) for a, b in zip(fast, plain, strict=True))
