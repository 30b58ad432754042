"""A state stands for the tokens before it, and belongs to the caller."""

import pytest
import torch
from kernels.attention_cases import CASES, FEATURE_MAPS, IMPLEMENTATIONS, REBASED

from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_with_state,
)


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("split", [0, 1, 6, 11])
def test_continuing_from_a_state_gives_the_same_as_one_call(name, split):
    c = FEATURE_MAPS[name]
    inputs = CASES[2].inputs(c)
    first_inputs = {key: tensor[..., :split, :] for key, tensor in inputs.items()}
    second_inputs = {key: tensor[..., split:, :] for key, tensor in inputs.items()}

    whole = quadratic_attention_with_state(**inputs, c=c)
    first = quadratic_attention_with_state(**first_inputs, c=c)
    second = quadratic_attention_with_state(**second_inputs, c=c, state=first.state)

    torch.testing.assert_close(torch.cat([first.out, second.out], dim=-2), whole.out)
    torch.testing.assert_close(tuple(second.state), tuple(whole.state))


@pytest.mark.parametrize(("form", "backend"), IMPLEMENTATIONS)
def test_returned_state_can_be_changed_without_changing_the_given_one(form, backend):
    inputs = CASES[1].inputs(REBASED)
    first = quadratic_attention_with_state(**inputs, form=form, backend=backend).state
    original = [part.clone() for part in first]

    no_tokens = {name: tensor[..., :0, :] for name, tensor in inputs.items()}
    for later_inputs in (inputs, no_tokens):
        later = quadratic_attention_with_state(
            **later_inputs, form=form, backend=backend, state=first
        ).state
        assert all(part.is_contiguous() for part in later)
        for part in later:
            part.fill_(7.0)
        assert all(torch.equal(*parts) for parts in zip(first, original, strict=True))


@pytest.mark.parametrize(("form", "backend"), IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_weights_that_cancel_in_a_state_count_as_zero(form, backend, dtype):
    """Every score is exactly 0; the sum over features is not, as sqrt(2) is rounded."""
    q = torch.ones(9, 2, dtype=dtype)
    k, v = (
        torch.arange(1, 10, dtype=dtype).unsqueeze(1) * torch.tensor(row, dtype=dtype)
        for row in ([1.0, -1.0], [1.0])
    )
    state = quadratic_attention_with_state(q, k, v).state
    leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v, *state)]

    result = quadratic_attention_with_state(
        *leaves[:3], form=form, backend=backend, state=AttentionState(*leaves[3:])
    )

    assert result.out.eq(0).all()
    for gradient in torch.autograd.grad(result.out.sum(), leaves):
        assert gradient.eq(0).all()

    # With one more token, whose score is not 0, there is something to read again.
    detached = AttentionState(*(part.detach() for part in state))
    out = quadratic_attention(
        q[:1], q[:1], v[:1] + 4, form=form, backend=backend, state=detached
    )
    torch.testing.assert_close(out, v[:1] + 4, rtol=1e-2, atol=1e-2)
