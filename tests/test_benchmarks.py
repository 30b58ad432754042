import pytest
import torch

from benchmarks import hierarchical_loss, measure
from sae_lens_ext.kernels.hierarchical_loss import cpu


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(hierarchical_loss, "D_MODEL", 32)
    return hierarchical_loss.inputs(k=8, n=16, d_sae=128)


def test_what_agrees_is_accepted(small):
    hierarchical_loss.check(small)


def test_what_differs_is_not_timed(small, monkeypatch):
    original = cpu.hierarchical_loss
    monkeypatch.setattr(cpu, "hierarchical_loss", lambda *a, **k: 1.001 * original(*a, **k))
    with pytest.raises(measure.Mismatch, match="not timed"):
        hierarchical_loss.check(small)


def _allocate(n):
    return (lambda: None), (lambda: torch.ones(n).sum())


def test_memory_is_measured_in_bytes():
    assert measure.peak_extra_bytes(_allocate, 50_000_000) == pytest.approx(200_000_000, rel=0.1)


def test_times_are_compared_within_a_round():
    # The second round ran on a machine ten times as slow.
    times = {"base": [1.0, 10.0, 1.0], "twice": [2.0, 20.0, 2.0]}
    assert measure.typical(times, lambda one: one["twice"] / one["base"]) == 2.0
    assert measure.typical(times, lambda one: one["twice"] - one["base"]) == 1.0


def test_calls_take_turns():
    order = []
    times = measure.side_by_side({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3, "one to warm up, then the rounds"
    assert [len(one) for one in times.values()] == [2, 2]
