import functools

import pytest
import torch
from harness import compare

from kernels.cases import CASES
from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.kernels import (
    hierarchical_loss,
    hierarchical_loss_parts,
    sparse_decode,
)
from sae_lens_ext.kernels.hierarchical_loss import cpu
from sae_lens_ext.kernels.hierarchical_loss.operator import Task


def _loss(backend, levels=None, weights=None):
    return functools.partial(
        hierarchical_loss, levels=levels, weights=weights, backend=backend
    )


def _choices(k):
    """Level subsets and weights that fit k."""
    yield None, None
    yield [k], None
    yield sorted({1, max(1, k // 2), k}), None
    yield list(range(1, k + 1)), [1.0 / (j + 1) for j in range(k)]
    yield [1], [3.0]


@pytest.fixture(params=["compiled", "torch"])
def flavour(request, monkeypatch):
    """Both versions that the CPU path can run."""
    monkeypatch.setattr(cpu, "has_numba", lambda: request.param == "compiled")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("flavour")
def test_cpu_agrees_with_the_definition_in_the_loss_and_all_gradients(case, dtype):
    for levels, weights in _choices(case.k):
        compare(
            _loss("cpu", levels, weights),
            _loss("reference", levels, weights),
            case.code(),
            dtype,
        )


def test_the_flavour_that_is_asked_for_is_the_one_that_runs(flavour, monkeypatch):
    ran = []
    for name in ("_loss_and_gradients", "_compiled_loss_and_gradients"):
        original = getattr(cpu, name)
        monkeypatch.setattr(
            cpu,
            name,
            lambda *a, name=name, original=original: (ran.append(name), original(*a))[
                1
            ],
        )
    inputs = CASES[2].code()
    inputs["W_dec"].requires_grad_()
    hierarchical_loss(**inputs)
    assert ran == [
        "_compiled_loss_and_gradients"
        if flavour == "compiled"
        else "_loss_and_gradients"
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_gradients_the_loss_is_the_same(case):
    for levels, weights in _choices(case.k):
        expected = hierarchical_loss(
            **case.code(), levels=levels, weights=weights, backend="reference"
        )
        torch.testing.assert_close(
            hierarchical_loss(**case.code(), levels=levels, weights=weights),
            expected,
            rtol=1e-12,
            atol=0,
        )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradients_match_finite_differences(backend):
    inputs = {
        name: tensor.requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in CASES[1].code().items()
    }

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

    assert torch.autograd.gradcheck(
        loss, [inputs[name] for name in ("values", "W_dec", "b_dec", "target")]
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.usefixtures("flavour")
def test_the_parts_are_those_of_separate_calls(backend, with_gradients):
    inputs, levels, weights = CASES[3].code(), [9, 2, 5, 30], [2.0, 1.0, 0.0, 4.0]
    inputs["W_dec"].requires_grad_(with_gradients)
    parts = hierarchical_loss_parts(
        **inputs, levels=levels, weights=weights, backend=backend
    )
    assert parts.loss.requires_grad is with_gradients
    assert not parts.per_level.requires_grad
    assert not parts.reconstruction.requires_grad
    torch.testing.assert_close(
        parts.loss, hierarchical_loss(**inputs, levels=levels, weights=weights)
    )
    torch.testing.assert_close(
        parts.per_level,
        torch.stack([hierarchical_loss(**inputs, levels=[j]).detach() for j in levels]),
    )
    code = {
        name: inputs[name].detach() for name in ("values", "indices", "W_dec", "b_dec")
    }
    torch.testing.assert_close(parts.reconstruction, sparse_decode(**code))


def test_the_parts_have_the_shape_of_the_batch():
    inputs = {
        name: t.view(2, 65, -1) if name in ("values", "indices", "target") else t.half()
        for name, t in CASES[3].code().items()
    }
    inputs = {
        name: t.half() if t.is_floating_point() else t for name, t in inputs.items()
    }
    for backend in ("cpu", "reference"):
        parts = hierarchical_loss_parts(**inputs, backend=backend)
        assert parts.reconstruction.shape == (2, 65, 70)
        assert parts.per_level.dtype == parts.reconstruction.dtype == torch.float32


def test_only_the_gradients_that_are_wanted_are_there(flavour):
    del flavour
    for wanted in ("values", "W_dec", "b_dec", "target"):
        inputs = CASES[3].code()
        inputs[wanted].requires_grad_()
        expected = {name: tensor.detach().clone() for name, tensor in inputs.items()}
        expected[wanted].requires_grad_()
        hierarchical_loss(**inputs).backward()
        hierarchical_loss(**expected, backend="reference").backward()
        torch.testing.assert_close(inputs[wanted].grad, expected[wanted].grad)


def test_one_level_is_the_topk_loss():
    inputs = CASES[3].code()
    for j in (1, 7, 33):
        recons = sparse_decode(
            inputs["values"][:, :j],
            inputs["indices"][:, :j],
            inputs["W_dec"],
            inputs["b_dec"],
        )
        expected = (recons - inputs["target"]).square().mean()
        torch.testing.assert_close(hierarchical_loss(**inputs, levels=[j]), expected)


def test_levels_average_and_weights_weigh():
    inputs = CASES[3].code()
    single = {j: hierarchical_loss(**inputs, levels=[j]).item() for j in (2, 5, 9)}
    assert hierarchical_loss(**inputs, levels=[2, 5, 9]).item() == pytest.approx(
        sum(single.values()) / 3
    )
    weighted = hierarchical_loss(
        **inputs, levels=[9, 2, 5], weights=[30.0, 10.0, 0.0]
    ).item()
    assert weighted == pytest.approx((3 * single[9] + single[2]) / 4)


def test_the_order_of_features_matters():
    inputs = CASES[3].code()
    shuffled = {
        **inputs,
        "values": inputs["values"].flip(1),
        "indices": inputs["indices"].flip(1),
    }
    assert hierarchical_loss(**shuffled).item() != pytest.approx(
        hierarchical_loss(**inputs).item(), rel=0.01
    )
    torch.testing.assert_close(
        hierarchical_loss(**shuffled, levels=[33]),
        hierarchical_loss(**inputs, levels=[33]),
    )


def test_an_upstream_factor_scales_every_gradient():
    def gradients(factor):
        inputs = {
            name: tensor.clone().requires_grad_()
            if tensor.is_floating_point()
            else tensor
            for name, tensor in CASES[2].code().items()
        }
        (factor * hierarchical_loss(**inputs)).backward()
        return [tensor.grad for tensor in inputs.values() if tensor.is_floating_point()]

    for one, three in zip(gradients(1.0), gradients(3.0), strict=True):
        torch.testing.assert_close(3 * one, three)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("flavour")
def test_half_precision_inputs_are_summed_in_float32(dtype):
    inputs = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in CASES[3].code().items()
    }
    exact = hierarchical_loss(
        **{
            name: t.double() if t.is_floating_point() else t
            for name, t in inputs.items()
        },
        backend="reference",
    )
    leaves = [
        inputs[name].requires_grad_() for name in ("values", "W_dec", "b_dec", "target")
    ]
    loss = hierarchical_loss(**inputs)
    loss.backward()
    # One rounding of the result: nothing else happens in half precision.
    assert abs(loss.item() - exact.item()) <= torch.finfo(dtype).eps * exact.item()
    assert all(
        leaf.grad.dtype == dtype and leaf.grad.isfinite().all() for leaf in leaves
    )


def test_the_same_call_gives_the_same_bits(flavour):
    del flavour

    def run():
        inputs = {
            name: tensor.float().requires_grad_()
            if tensor.is_floating_point()
            else tensor
            for name, tensor in CASES[3].code().items()
        }
        loss = hierarchical_loss(**inputs)
        loss.backward()
        return [
            loss.detach(),
            *(tensor.grad for tensor in inputs.values() if tensor.is_floating_point()),
        ]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


def test_any_leading_shape():
    inputs = CASES[3].code()
    reshaped = {
        name: tensor.view(2, 65, -1)
        if name in ("values", "indices", "target")
        else tensor
        for name, tensor in inputs.items()
    }
    torch.testing.assert_close(
        hierarchical_loss(**reshaped), hierarchical_loss(**inputs)
    )


def _forget_the_first_level(**inputs):
    return _loss("reference", list(range(2, inputs["values"].shape[1] + 1)))(**inputs)


def _swap_two_ranks(values, indices, **rest):
    order = [1, 0, *range(2, values.shape[1])]
    return _loss("reference")(
        values=values[:, order], indices=indices[:, order], **rest
    )


def _detach_the_target(target, **rest):
    return _loss("reference")(target=target.detach() + 0 * target, **rest)


@pytest.mark.parametrize(
    "sabotage", [_forget_the_first_level, _swap_two_ranks, _detach_the_target]
)
def test_the_comparison_catches_planted_errors(sabotage):
    case = CASES[2]
    with pytest.raises(AssertionError, match="over budget"):
        compare(sabotage, _loss("reference"), case.code(), torch.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"levels": [0, 3]},
            InvalidK,
            r"each level must be a whole number from 1 to k=6, .*; got \[0, 3\]",
        ),
        (
            {"levels": [7]},
            InvalidK,
            r"from 1 to k=6, the number of features per token; got \[7\]",
        ),
        ({"levels": [2.0]}, InvalidK, r"got \[2.0\]"),
        ({"levels": torch.tensor([2, 2])}, InvalidArgument, r"none twice"),
        (
            {"indices": torch.full((17, 6), 29)},
            InvalidArgument,
            r"features from 0 to 28, by W_dec; they run from 29 to 29",
        ),
        (
            {"indices": torch.full((17, 6), -1)},
            InvalidArgument,
            r"they run from -1 to -1",
        ),
        (
            {"values": torch.zeros(17, 6)},
            InvalidArgument,
            r"these must be of one floating dtype, and are values torch.float32, W_dec torch.float64",
        ),
        ({"levels": [2, 2]}, InvalidArgument, r"none twice; got \[2, 2\]"),
        (
            {"levels": 3},
            InvalidK,
            r"each level must be a whole number from 1 to k=6, .*; got 3",
        ),
        (
            {"levels": [1, 2], "weights": 3},
            InvalidArgument,
            r"weights must be numbers, one per level; got 3",
        ),
        (
            {"levels": [1, 2], "weights": "ab"},
            InvalidArgument,
            r"weights must be numbers, one per level; got 'ab'",
        ),
        (
            {"target": torch.zeros(17, 13)},
            InvalidArgument,
            r"one floating dtype, and are target torch.float32, W_dec torch.float64",
        ),
        ({"levels": []}, InvalidArgument, r"at least one prefix length"),
        (
            {"levels": [1, 2], "weights": [1.0]},
            InvalidArgument,
            r"one number per level: 2 levels, 1 weights",
        ),
        ({"levels": [1], "weights": [-1.0]}, InvalidArgument, r"none below 0"),
        ({"levels": [1, 2], "weights": [0, 0]}, InvalidArgument, r"not all 0"),
        ({"weights": [float("nan")] * 6}, InvalidArgument, r"weights must be finite"),
        (
            {"deterministic": 1},
            InvalidArgument,
            r"deterministic must be True, False or None; got 1",
        ),
        (
            {"target": torch.zeros(17, 12)},
            ShapeMismatch,
            r"target must be \[..., d_model\] = \[17, 13\]",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_input_is_refused_in_words(options, error, message):
    with pytest.raises(error, match=message):
        hierarchical_loss(**{**CASES[2].code(), **options})


@pytest.mark.usefixtures("without_shape_checks")
def test_the_loss_of_no_token_is_refused():
    inputs = CASES[2].code()
    empty = {
        name: tensor[:0] if name in ("values", "indices", "target") else tensor
        for name, tensor in inputs.items()
    }
    with pytest.raises(ShapeMismatch, match="the loss of no token is not defined"):
        hierarchical_loss(**empty)


def test_extra_memory_does_not_grow_with_k():
    """What is held at once, counted by the sizes of live tensors while the rank loop runs."""

    def peak(k):
        from torch.utils._python_dispatch import TorchDispatchMode

        biggest = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                nonlocal biggest
                result = function(*args, **(kwargs or {}))
                for item in result if isinstance(result, tuple | list) else [result]:
                    if isinstance(item, torch.Tensor):
                        biggest = max(biggest, item.numel())
                return result

        g = torch.Generator().manual_seed(0)
        values = torch.rand(64, k, generator=g, requires_grad=True)
        indices = torch.randint(0, 512, (64, k), generator=g)
        weights = torch.full((k,), 1 / k)
        task = Task(
            list(range(1, k + 1)),
            weights.tolist(),
            [True] * 4,
            details=False,
            deterministic=False,
        )
        with Watch():
            cpu._loss_and_gradients(
                values.detach(),
                indices,
                torch.randn(512, 96),
                torch.randn(64, 96),
                weights,
                task,
            )
        return biggest

    assert peak(128) == peak(16) == 512 * 96, (
        "the largest tensor should be the gradient of W_dec"
    )


@pytest.mark.usefixtures("without_shape_checks")
def test_large_and_tiny_weights_are_only_ratios():
    inputs = CASES[2].code()
    expected = hierarchical_loss(**inputs, levels=[1, 2], weights=[1.0, 1.0])
    for size in (1e308, 5e-324):
        assert (
            hierarchical_loss(**inputs, levels=iter([1, 2]), weights=[size, size])
            == expected
        )


@pytest.mark.usefixtures("without_shape_checks")
def test_tensors_elsewhere_and_weights_that_are_no_numbers_are_refused():
    inputs = CASES[2].code()
    with pytest.raises(
        InvalidArgument,
        match="all tensors must be on one device; indices is on meta, others on cpu",
    ):
        hierarchical_loss(**{**inputs, "indices": inputs["indices"].to("meta")})
    for weights in ("123456", ["1"] * 6, dict.fromkeys(range(6)), [10**400] + [1] * 5):
        with pytest.raises(
            InvalidArgument, match="weights must be numbers, one per level; got"
        ):
            hierarchical_loss(**inputs, weights=weights)


def test_autocast_leaves_it_in_float32():
    inputs = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in CASES[3].code().items()
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hierarchical_loss(**inputs)
    assert torch.equal(found, hierarchical_loss(**inputs))


def test_a_batch_of_upstream_gradients():
    values = CASES[2].code()["values"].requires_grad_()
    loss = hierarchical_loss(**{**CASES[2].code(), "values": values})
    (found,) = torch.autograd.grad(
        loss,
        values,
        torch.tensor([1.0, 2.0], dtype=loss.dtype),
        is_grads_batched=True,
        retain_graph=True,
    )
    (once,) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(found, torch.stack([once, 2 * once]))
