"""The CPU version of ``hierarchical_loss`` agrees with its definition."""

import functools

import pytest
import torch
from harness import compare
from kernels.cases import CASES

from sae_lens_ext.kernels import hierarchical_loss
from sae_lens_ext.kernels.hierarchical_loss import chunked, compiled, cpu


def levels_and_weights(k):
    """Subsets of levels, and weights, that fit k."""
    return [
        (None, None),
        ([k], None),
        (sorted({1, max(1, k // 2), k}), None),
        (list(range(1, k + 1)), [1.0 / (j + 1) for j in range(k)]),
        ([1], [3.0]),
    ]


@pytest.fixture(params=["compiled", "torch"])
def walk_name(request, monkeypatch):
    """Both walks that the CPU path can take."""
    monkeypatch.setattr(cpu, "has_numba", lambda: request.param == "compiled")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("walk_name")
def test_loss_and_all_gradients_agree_with_the_definition(case, dtype):
    for levels, weights in levels_and_weights(case.k):
        loss = functools.partial(hierarchical_loss, levels=levels, weights=weights)
        compare(
            functools.partial(loss, backend="cpu"),
            functools.partial(loss, backend="reference"),
            case.code(),
            dtype,
        )


def test_the_compiled_walk_runs_exactly_where_numba_is_installed(
    walk_name, monkeypatch
):
    calls = []

    def recording(name, walk):
        def recorded(*args):
            calls.append(name)
            return walk(*args)

        return recorded

    monkeypatch.setattr(chunked, "walk", recording("torch", chunked.walk))
    monkeypatch.setattr(compiled, "walk", recording("compiled", compiled.walk))

    inputs = CASES[2].code()
    inputs["W_dec"].requires_grad_()
    hierarchical_loss(**inputs)
    assert calls == [walk_name]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_gradients_the_loss_is_the_same(case):
    for levels, weights in levels_and_weights(case.k):
        loss = functools.partial(
            hierarchical_loss, **case.code(), levels=levels, weights=weights
        )
        torch.testing.assert_close(
            loss(), loss(backend="reference"), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("name", ["values", "W_dec", "b_dec", "target"])
@pytest.mark.usefixtures("walk_name")
def test_one_gradient_alone_is_that_of_the_definition(name):
    gradients = []
    for backend in ("cpu", "reference"):
        inputs = CASES[3].code()
        inputs[name].requires_grad_()
        hierarchical_loss(**inputs, backend=backend).backward()
        gradients.append(inputs[name].grad)
    torch.testing.assert_close(*gradients)
