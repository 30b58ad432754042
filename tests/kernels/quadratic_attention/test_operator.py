"""The operator takes any leading shape, and has second derivatives and autocast."""

import pytest
import torch
from kernels.attention_cases import BASED, CASES, REBASED, Attention

from sae_lens_ext.kernels import quadratic_attention, quadratic_attention_with_state


def test_second_derivatives_are_correct():
    inputs = {
        name: tensor[:1, :3].requires_grad_()
        for name, tensor in CASES[1].inputs(BASED).items()
    }
    for c in (BASED, REBASED):
        assert torch.autograd.gradgradcheck(
            lambda q, k, v, c=c: quadratic_attention(q, k, v, c, form="chunked"),
            tuple(inputs.values()),
        )


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("c", [BASED, REBASED], ids=["based", "rebased"])
def test_second_derivatives_through_the_final_state_are_the_definition_s(c, with_state):
    inputs = CASES[2].inputs(c, with_state=with_state)
    penalty_gradients = {}
    for form in ("chunked", "dense"):
        leaves = {
            name: tensor.clone().requires_grad_() for name, tensor in inputs.items()
        }
        results = Attention(c, form, None)(**leaves)
        # The sizes of the output and of the state meet in the penalty, so that a state
        # that is left out or has the wrong sign shows.
        n_out = inputs["v"].numel()
        total = results[:n_out].square().sum() + results[n_out:].square().sum()

        variables = list(leaves.values())
        gradients = torch.autograd.grad(total, variables, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        penalty_gradients[form] = torch.autograd.grad(penalty, variables)

    for fast, plain in zip(*penalty_gradients.values(), strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("create_graph", [False, True])
def test_autocast_does_not_change_gradients_computed_inside_it(create_graph):
    inputs = CASES[2].inputs(BASED, with_state=True)
    gradients = []
    for is_on in (False, True):
        leaves = {
            name: tensor.float().requires_grad_() for name, tensor in inputs.items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            out = Attention(BASED, "chunked", "cpu")(**leaves)
            gradients.append(
                torch.autograd.grad(
                    out.square().sum(), list(leaves.values()), create_graph=create_graph
                )
            )
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_takes_any_leading_shape(shape):
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(*shape, 9, d, generator=g, dtype=torch.float64) for d in (3, 3, 2)
    )
    state = quadratic_attention_with_state(q, k, v).state
    assert state.kv.shape == (*shape, 6, 2)

    result = quadratic_attention_with_state(q, k, v, state=state)
    expected = quadratic_attention_with_state(q, k, v, state=state, form="recurrent")

    torch.testing.assert_close(result.out, expected.out)
    torch.testing.assert_close(tuple(result.state), tuple(expected.state))
