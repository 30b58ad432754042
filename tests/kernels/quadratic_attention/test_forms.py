"""Dense, chunked and recurrent are one function, with one gradient, at every edge."""

import pytest
import torch
from kernels.attention_cases import (
    BASED,
    CASES,
    FEATURE_MAPS,
    IMPLEMENTATIONS,
    Attention,
)

from sae_lens_ext.kernels import quadratic_attention, quadratic_attention_with_state


def results_and_gradients(attention, inputs):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    out = attention(**leaves)
    gradients = torch.autograd.grad(out.sin().sum(), list(leaves.values()))
    return {"out": out, **dict(zip(leaves, gradients, strict=True))}


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize(("form", "backend"), IMPLEMENTATIONS[1:])
def test_all_forms_agree_in_float64(name, form, backend):
    c = FEATURE_MAPS[name]
    for case in CASES:
        for with_state in (False, True):
            inputs = case.inputs(c, with_state)
            results = results_and_gradients(Attention(c, form, backend), inputs)
            expected = results_and_gradients(Attention(c, "dense", "reference"), inputs)
            for key, truth in expected.items():
                torch.testing.assert_close(
                    results[key],
                    truth,
                    rtol=1e-10,
                    atol=1e-10 * truth.detach().abs().max().item(),
                    msg=key,
                )


@pytest.mark.parametrize(("form", "backend"), IMPLEMENTATIONS)
def test_queries_nearly_at_right_angles_to_all_keys_read_no_noise(
    form, backend, monkeypatch
):
    # Chunks of their real size.
    monkeypatch.undo()
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, 16, generator=g, dtype=torch.float64)
    k, v = (torch.randn(2000, d, generator=g) for d in (16, 3))
    direction = (q / q.norm()).squeeze(0)

    for distance in (1e-4, 3e-4, 1e-3):
        # Exactly so far from a right angle, before rounding.
        keys = k.double()
        offsets = distance * torch.randn(2000, generator=g, dtype=torch.float64)
        keys = keys + torch.outer(offsets - keys @ direction, direction)

        out = quadratic_attention(
            q.float().expand(2000, 16), keys.float(), v, form=form, backend=backend
        )

        assert out.abs().max() <= v.abs().max() * (1 + 1e-3)


@pytest.mark.parametrize(("form", "backend"), IMPLEMENTATIONS)
def test_autocast_changes_nothing(form, backend):
    inputs = CASES[2].inputs(BASED, with_state=True)
    results = []
    for is_on in (False, True):
        leaves = {
            name: tensor.float().requires_grad_() for name, tensor in inputs.items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            out = Attention(BASED, form, backend)(**leaves)
        gradients = torch.autograd.grad(out.square().sum(), list(leaves.values()))
        results.append((out, *gradients))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("form", ["dense", "chunked", "recurrent"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_token_whose_weights_are_all_zero_gets_zero_and_finite_gradients(form, dtype):
    q, k, v = (torch.zeros(9, d, dtype=dtype, requires_grad=True) for d in (4, 4, 2))

    out = quadratic_attention(q, k, v + 1, form=form)

    assert out.tolist() == [[0.0, 0.0]] * 9
    for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
        assert torch.isfinite(gradient).all()


def test_half_precision_inputs_are_summed_in_float32():
    q = torch.full((300, 16), 30.0, dtype=torch.float16)
    v = torch.ones(300, 1, dtype=torch.float16)

    assert quadratic_attention(q, q, v).tolist() == [[1.0]] * 300


@pytest.mark.parametrize("form", ["auto", "dense", "chunked", "recurrent"])
def test_single_token_gets_its_own_value(form):
    v = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(
        quadratic_attention(torch.ones(1, 2), torch.ones(1, 2), v, form=form), v
    )


@pytest.mark.parametrize("form", ["auto", "dense", "chunked", "recurrent"])
def test_accepts_zero_tokens(form):
    out, state = quadratic_attention_with_state(
        torch.ones(2, 0, 3), torch.ones(2, 0, 3), torch.ones(2, 0, 4), form=form
    )
    assert out.shape == (2, 0, 4)
    assert state.kv.tolist() == torch.zeros(2, 6, 4).tolist()
