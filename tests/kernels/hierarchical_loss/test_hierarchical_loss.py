"""``hierarchical_loss`` means what it says, and so do its parts and options."""

import functools

import pytest
import torch
from harness import compare
from kernels.cases import CASES, cast

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import (
    hierarchical_loss,
    hierarchical_loss_parts,
    sparse_decode,
)
from sae_lens_ext.kernels.hierarchical_loss import cpu

LEAVES = ("values", "W_dec", "b_dec", "target")

both_backends = pytest.mark.parametrize("backend", ["cpu", "reference"])


@pytest.fixture(params=["compiled", "torch"])
def _both_walks(request, monkeypatch):
    """Both walks that the CPU path can take."""
    monkeypatch.setattr(cpu, "has_numba", lambda: request.param == "compiled")


@both_backends
def test_gradients_match_finite_differences(backend):
    inputs = CASES[1].code()
    leaves = [inputs[name].requires_grad_() for name in LEAVES]

    def loss(values, W_dec, b_dec, target):
        return hierarchical_loss(
            values,
            inputs["indices"],
            W_dec,
            b_dec,
            target,
            [1, 3, 7],
            [1.0, 2.0, 0.5],
            backend=backend,
        )

    assert torch.autograd.gradcheck(loss, leaves)


@both_backends
@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.usefixtures("_both_walks")
def test_the_parts_are_those_of_separate_calls(backend, with_gradients):
    inputs = CASES[3].code()
    levels = [9, 2, 5, 30]
    weights = [2.0, 1.0, 0.0, 4.0]
    inputs["W_dec"].requires_grad_(with_gradients)
    parts = hierarchical_loss_parts(
        **inputs, levels=levels, weights=weights, backend=backend
    )
    assert parts.loss.requires_grad is with_gradients
    assert not parts.per_level.requires_grad
    assert not parts.reconstruction.requires_grad

    loss = hierarchical_loss(**inputs, levels=levels, weights=weights)
    torch.testing.assert_close(parts.loss, loss)

    losses = [hierarchical_loss(**inputs, levels=[j]).detach() for j in levels]
    torch.testing.assert_close(parts.per_level, torch.stack(losses))

    code = {
        name: inputs[name].detach() for name in ("values", "indices", "W_dec", "b_dec")
    }
    torch.testing.assert_close(parts.reconstruction, sparse_decode(**code))


@both_backends
def test_the_parts_have_the_shape_of_the_batch(backend):
    inputs = cast(CASES[3].code(), torch.float16)
    for name in ("values", "indices", "target"):
        inputs[name] = inputs[name].view(2, 65, -1)
    parts = hierarchical_loss_parts(**inputs, backend=backend)
    assert parts.reconstruction.shape == (2, 65, 70)
    assert parts.per_level.dtype == parts.reconstruction.dtype == torch.float32


def test_one_level_is_the_topk_loss():
    inputs = CASES[3].code()
    for j in (1, 7, 33):
        reconstruction = sparse_decode(
            inputs["values"][:, :j],
            inputs["indices"][:, :j],
            inputs["W_dec"],
            inputs["b_dec"],
        )
        expected = (reconstruction - inputs["target"]).square().mean()
        torch.testing.assert_close(hierarchical_loss(**inputs, levels=[j]), expected)


def test_the_loss_is_the_weighted_mean_over_levels():
    inputs = CASES[3].code()
    single = {j: hierarchical_loss(**inputs, levels=[j]).item() for j in (2, 5, 9)}

    mean = hierarchical_loss(**inputs, levels=[2, 5, 9]).item()
    assert mean == pytest.approx(sum(single.values()) / 3)

    weighted = hierarchical_loss(
        **inputs, levels=[9, 2, 5], weights=[30.0, 10.0, 0.0]
    ).item()
    assert weighted == pytest.approx((3 * single[9] + single[2]) / 4)


def test_the_order_of_features_matters():
    inputs = CASES[3].code()
    reversed_inputs = {
        **inputs,
        "values": inputs["values"].flip(1),
        "indices": inputs["indices"].flip(1),
    }
    loss = hierarchical_loss(**inputs).item()
    assert hierarchical_loss(**reversed_inputs).item() != pytest.approx(loss, rel=0.01)
    torch.testing.assert_close(
        hierarchical_loss(**reversed_inputs, levels=[33]),
        hierarchical_loss(**inputs, levels=[33]),
    )


def test_any_leading_shape():
    inputs = CASES[3].code()
    reshaped = dict(inputs)
    for name in ("values", "indices", "target"):
        reshaped[name] = inputs[name].view(2, 65, -1)
    torch.testing.assert_close(
        hierarchical_loss(**reshaped), hierarchical_loss(**inputs)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@both_backends
@pytest.mark.usefixtures("_both_walks")
def test_half_precision_inputs_are_summed_in_float32(dtype, backend):
    inputs = cast(CASES[3].code(), dtype)
    exact = hierarchical_loss(**cast(inputs, torch.float64), backend="reference")

    leaves = [inputs[name].requires_grad_() for name in LEAVES]
    loss = hierarchical_loss(**inputs, backend=backend)
    loss.backward()
    # Nothing happens in half precision.
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert all(leaf.grad.dtype == dtype for leaf in leaves)
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@both_backends
@pytest.mark.parametrize("levels", [None, [33], [2, 30]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("_both_walks")
def test_a_loss_beyond_float16_is_finite_with_its_parts_and_gradients(
    dtype, levels, backend
):
    inputs = CASES[3].code()
    inputs["target"] = inputs["target"] * 400
    inputs = cast(inputs, dtype)
    exact_inputs = cast(inputs, torch.float64, requires_grad=True)
    exact = hierarchical_loss_parts(**exact_inputs, levels=levels, backend="reference")
    assert exact.loss.item() > torch.finfo(torch.float16).max

    leaves = [inputs[name].requires_grad_() for name in LEAVES]
    parts = hierarchical_loss_parts(**inputs, levels=levels, backend=backend)
    assert all(part.dtype == torch.float32 for part in parts)
    assert_close_to_the_largest(parts.loss, exact.loss, 1e-5)
    assert_close_to_the_largest(parts.per_level, exact.per_level, 1e-5)
    # The target is hundreds of times as large as the reconstruction.
    assert_close_to_the_largest(parts.reconstruction, exact.reconstruction, 1e-3)

    # A factor as in the loss scaling of mixed-precision training, which float16 lacks.
    factor = 2.0**17
    gradients = torch.autograd.grad(parts.loss * factor / factor, leaves)
    exact_gradients = torch.autograd.grad(
        exact.loss, [exact_inputs[name] for name in LEAVES]
    )
    for gradient, exact_gradient in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == dtype
        assert_close_to_the_largest(gradient, exact_gradient, torch.finfo(dtype).eps)


def assert_close_to_the_largest(result, exact, share):
    error = (result.double() - exact).abs().max()
    assert error <= share * exact.abs().max()


@both_backends
def test_autocast_leaves_the_loss_in_float32(backend):
    inputs = cast(CASES[3].code(), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = hierarchical_loss(**inputs, backend=backend)
    assert torch.equal(loss, hierarchical_loss(**inputs, backend=backend))


@pytest.mark.usefixtures("_both_walks")
def test_the_same_call_gives_the_same_bits():
    def loss_and_gradients():
        inputs = cast(CASES[3].code(), torch.float32, requires_grad=True)
        loss = hierarchical_loss(**inputs)
        loss.backward()
        return [loss.detach(), *(inputs[name].grad for name in LEAVES)]

    first = loss_and_gradients()
    for _ in range(3):
        again = loss_and_gradients()
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def reference_loss(levels=None):
    return functools.partial(hierarchical_loss, levels=levels, backend="reference")


def forget_the_first_level(**inputs):
    levels = list(range(2, inputs["values"].shape[1] + 1))
    return reference_loss(levels)(**inputs)


def swap_two_ranks(values, indices, **rest):
    order = [1, 0, *range(2, values.shape[1])]
    return reference_loss()(values=values[:, order], indices=indices[:, order], **rest)


def detach_the_target(target, **rest):
    return reference_loss()(target=target.detach() + 0 * target, **rest)


@pytest.mark.parametrize(
    "sabotage", [forget_the_first_level, swap_two_ranks, detach_the_target]
)
def test_the_comparison_catches_planted_errors(sabotage):
    with pytest.raises(AssertionError, match="over budget"):
        compare(sabotage, reference_loss(), CASES[2].code(), torch.float32)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_an_invalid_deterministic():
    message = r"deterministic must be True or False; got 1"
    with pytest.raises(InvalidArgument, match=message):
        hierarchical_loss(**CASES[2].code(), deterministic=1)
