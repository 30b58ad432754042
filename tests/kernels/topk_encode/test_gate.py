"""The gate keeps active features, and puts the first of the others behind them."""

import pytest
import torch

from sae_lens_ext.kernels.topk_encode import cpu, gate

NAN = float("nan")
INF = float("inf")


def test_the_floor_is_the_threshold_or_0():
    threshold = torch.tensor([0.5, -2.0, NAN, INF])
    b_enc = torch.ones(4)
    assert gate.floor_of(threshold, b_enc, 3).tolist() == [0.5, 0.0, INF, INF]
    assert gate.floor_of(None, b_enc, None).tolist() == [0.0] * 4
    assert gate.floor_of(None, b_enc, 3) is None


def test_features_at_their_floor_are_not_active_and_nan_is():
    pre = torch.tensor([[0.5, 0.6, -1.0, INF], [0.4, NAN, 0.0, 7.0]])
    floor = torch.tensor([0.5, 0.5, 0.0, INF])
    gated = gate.gated(pre, floor)
    expected = torch.tensor([[0.0, 0.6, 0.0, 0.0], [0.0, NAN, 0.0, 0.0]])
    torch.testing.assert_close(gated, expected, equal_nan=True)
    assert gate.widest(pre, floor) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_widest_token_is_counted_in_pieces(dtype, monkeypatch):
    monkeypatch.setattr(cpu, "_COUNTED_AT_ONCE", 3 * 700)
    g = torch.Generator().manual_seed(0)
    pre = torch.randn(10, 700, generator=g).to(dtype)
    floor = torch.rand(700, generator=g).to(dtype)
    for rows in (pre, pre.flip(0), torch.full_like(pre, -1), torch.full_like(pre, NAN)):
        assert cpu._widest(rows, floor) == gate.widest(rows, floor)


@pytest.mark.parametrize("filled_at_once", [1, 9, 1 << 20])
def test_inactive_features_are_filled_in_by_number(filled_at_once, monkeypatch):
    monkeypatch.setattr(gate, "_FILLED_AT_ONCE", filled_at_once)
    values = torch.tensor(
        [[3.0, 2.0, 0.0, 0.0], [0.0] * 4, [4.0, 3.0, 2.0, 1.0], [NAN, 0.0, 0.0, 0.0]]
    )
    indices = torch.tensor([[90, 1, 7, 7], [5] * 4, [0, 2, 80, 3], [2, 0, 0, 0]])
    gate.fill_inactive(values, indices)
    assert indices.tolist() == [
        [90, 1, 0, 2],
        [0, 1, 2, 3],
        [0, 2, 80, 3],
        [2, 0, 1, 3],
    ]


def test_codes_of_different_widths_are_joined():
    narrow = (torch.tensor([[2.0]]), torch.tensor([[8]]))
    wide = (torch.tensor([[3.0, 1.0], [1.0, 0.0]]), torch.tensor([[4, 5], [6, 0]]))
    values, indices = gate.joined([narrow, wide, narrow], torch.empty(4, 3))
    assert values.tolist() == [[2.0, 0.0], [3.0, 1.0], [1.0, 0.0], [2.0, 0.0]]
    assert indices.tolist() == [[8, 0], [4, 5], [6, 0], [8, 0]]
    assert gate.joined([], torch.empty(0, 3), 5)[0].shape == (0, 5)
