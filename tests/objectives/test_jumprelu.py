"""JumpReLU's straight-through gradients, written out, and its thresholds."""

import math

import pytest
import tiny
import torch

import sae_lens_ext as sle
from objectives import cases
from sae_lens_ext.objectives import JumpReLU

# Of a width of 1 around every threshold.
BANDWIDTH = 1 / math.sqrt(32)


def by_hand(sae, u, target, penalty_slope):
    """Loss without penalty, L0 and all gradients, from the paper's equations.

    ``penalty_slope(l0)`` is the derivative of the penalty with respect to L0.
    """
    W_enc, b_enc, W_dec, b_dec, theta = (
        getattr(sae, name).detach()
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    )
    has_pre_bias = sae.config.apply_b_dec_to_input
    n = len(u)
    centred = u - b_dec if has_pre_bias else u
    pre = centred @ W_enc + b_enc
    is_on = (pre > theta).double()
    acts = pre * is_on
    recons = acts @ W_dec + b_dec
    if sae.W_skip is not None:
        recons = recons + u @ sae.W_skip.detach()
    error = recons - target
    l0 = is_on.sum(1).mean()

    grad_recons = 2 * error / error.numel()
    grad_acts = grad_recons @ W_dec.T
    grad_pre = grad_acts * is_on
    near = ((pre - theta).abs() < 0.5).double()
    grad_theta = (-theta * near * grad_acts).sum(0)
    grad_theta += penalty_slope(l0) / n * -near.sum(0)

    grad_b_dec = grad_recons.sum(0)
    if has_pre_bias:
        grad_b_dec = grad_b_dec - W_enc @ grad_pre.sum(0)
    gradients = {
        "W_enc": centred.T @ grad_pre,
        "b_enc": grad_pre.sum(0),
        "W_dec": acts.T @ grad_recons,
        "b_dec": grad_b_dec,
        "threshold": grad_theta,
    }
    if sae.W_skip is not None:
        gradients["W_skip"] = u.T @ grad_recons
    return error.square().mean(), l0, gradients


@pytest.mark.parametrize("form", cases.FORMS)
@pytest.mark.parametrize("coefficient", [None, 0.03])
@pytest.mark.parametrize("shift", [0.0, 8.0], ids=["dense", "sparse"])
def test_gradients_are_those_of_the_paper(form, coefficient, shift):
    sae = cases.sae_for("jumprelu", form)
    sae.threshold.data.clamp_(min=0.5).add_(shift)
    u, target = cases.batch(form, n=70)
    what = u if target is None else target

    def slope(l0):
        return 2 * (l0 / 8 - 1) / 8 if coefficient is None else coefficient

    error, l0, gradients = by_hand(sae, u, what, slope)
    penalty = (l0 / 8 - 1) ** 2 if coefficient is None else coefficient * l0

    objective = JumpReLU(bandwidth=BANDWIDTH, coefficient=coefficient)
    loss = objective(sae, u, 8, target=target)
    found = cases.value_and_gradients(loss.value, sae)
    torch.testing.assert_close(found.pop("loss"), error + penalty)
    assert gradients["threshold"].abs().max() > 1e-4
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


def test_the_code_is_the_encoders():
    sae = cases.sae_for("jumprelu", "sae")
    sae.threshold.data.clamp_(min=0.5)
    u, _ = cases.batch("sae")
    code = JumpReLU(bandwidth=BANDWIDTH)(sae, u, 8).code
    torch.testing.assert_close(code.dense(), sae.encode(u).dense())
    assert code.k == sae.encode(u).k
    assert (code.values.diff(dim=1) <= 0).all()


def test_thresholds_stay_at_half_a_bandwidth_or_more():
    """They start at 0, where the loss takes them for half a bandwidth."""
    sae = sle.SAE(sle.SAEConfig(d_model=32, d_sae=48, kind="jumprelu"))
    u = torch.randn(20, 32)
    objective = JumpReLU()
    at_zero = objective(sae, u, 8)
    objective.after_step(sae, at_zero.code)
    smallest = 0.001 * math.sqrt(32) / 2
    torch.testing.assert_close(sae.threshold.data, torch.full((48,), smallest))
    torch.testing.assert_close(objective(sae, u, 8).value, at_zero.value)


def test_training_brings_l0_to_k():
    torch.manual_seed(0)
    config = sle.SAEConfig(d_model=16, d_sae=64, kind="jumprelu")
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(0))
    objective = JumpReLU()
    optimizer = torch.optim.Adam(sae.parameters(), lr=2e-2)
    for _ in range(400):
        optimizer.zero_grad()
        loss = objective(sae, torch.randn(256, 16), 6)
        loss.value.backward()
        optimizer.step()
        objective.after_step(sae, loss.code)
    assert sae.encode(torch.randn(512, 16)).l0().double().mean() == pytest.approx(
        6, rel=0.25
    )


def test_rejects_an_sae_in_half_precision():
    sae = tiny.sae_of_kind("jumprelu").bfloat16()
    with pytest.raises(sle.InvalidArgument, match="trains SAEs in float32.*bfloat16"):
        JumpReLU()(sae, torch.randn(4, 32, dtype=torch.bfloat16), 8)


@pytest.mark.parametrize("options", [{"bandwidth": 0}, {"coefficient": -1}])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_options(options):
    with pytest.raises(sle.InvalidArgument, match=f"{next(iter(options))} must be a"):
        JumpReLU(**options)


def test_the_oracle_is_sensitive_to_the_kernel():
    sae = cases.sae_for("jumprelu", "sae")
    sae.threshold.data.clamp_(min=0.5)
    u, _ = cases.batch("sae")
    _, _, gradients = by_hand(sae, u, u, lambda l0: 0.0)
    loss = JumpReLU(bandwidth=BANDWIDTH / 2, coefficient=0.0)(sae, u, 8)
    found = cases.value_and_gradients(loss.value, sae)
    assert not torch.allclose(found["threshold"], gradients["threshold"])
    assert torch.allclose(found["W_enc"], gradients["W_enc"])
