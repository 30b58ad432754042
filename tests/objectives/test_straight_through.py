"""Jumps and the gradients of their thresholds."""

import math

import pytest
import torch

from sae_lens_ext.objectives.straight_through import jump, step

# Below, at the edges of the rectangle of width 1 around 2, on it, near it, above.
PRE = [0.0, 1.5, 1.6, 2.0, 2.4, 2.5, 3.0]


def run(function):
    pre = torch.tensor(PRE, requires_grad=True)
    threshold = torch.full((7,), 2.0, requires_grad=True)
    result = function(pre, threshold, 1.0)
    result.backward(torch.full((7,), 10.0))
    return result.tolist(), pre.grad, threshold.grad.tolist()


def test_a_jump_passes_its_input_and_trains_near_thresholds():
    result, grad_pre, grad_threshold = run(jump)
    assert result == pytest.approx([0, 0, 0, 0, 2.4, 2.5, 3.0])
    assert grad_pre.tolist() == [0, 0, 0, 0, 10, 10, 10]
    assert grad_threshold == [0, 0, -20, -20, -20, 0, 0]


def test_a_step_has_no_gradient_but_the_threshold():
    result, grad_pre, grad_threshold = run(step)
    assert result == [0, 0, 0, 0, 1, 1, 1]
    assert grad_pre is None
    assert grad_threshold == [0, 0, -10, -10, -10, 0, 0]


def test_gradients_grow_as_the_width_shrinks():
    threshold = torch.full((1,), 2.0, requires_grad=True)
    jump(torch.tensor([2.01]), threshold, 0.05).backward()
    assert threshold.grad.item() == pytest.approx(-40)


def test_the_estimate_is_the_gradient_of_the_expected_loss():
    """Of 2 P(z > θ) + E[z; z > θ] for a standard normal z."""
    pre = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    threshold = torch.tensor(0.7, requires_grad=True)
    thresholds = threshold.expand_as(pre)
    loss = 2 * step(pre, thresholds, 0.1).mean() + jump(pre, thresholds, 0.1).mean()
    loss.backward()
    density = math.exp(-(0.7**2) / 2) / math.sqrt(2 * math.pi)
    assert threshold.grad.item() == pytest.approx(-(2 + 0.7) * density, rel=0.02)
