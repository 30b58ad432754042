"""Tokens outside of a mask are not encoded, and have codes of zeros."""

import pytest
import tiny
import torch

from sae_lens_ext.interventions.encoding import encode_at


@pytest.fixture
def x():
    return torch.randn(2, 4, 32, dtype=torch.float64)


MASK = torch.tensor([[False, True, True, False], [True, True, False, False]])


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("token_norm", ["none", "layer_norm"])
def test_codes_of_the_chosen_tokens_are_their_own(x, k, token_norm):
    sae = tiny.sae_of_kind("relu", token_norm=token_norm)
    code = encode_at(sae, x, MASK, k)
    alone = sae.encode(x[MASK], k)
    assert torch.equal(code[MASK].dense(), alone.dense())
    assert not code.values[~MASK].any()
    torch.testing.assert_close(sae.decode(code)[MASK], sae.decode(alone))
    everything = torch.ones_like(MASK)
    assert torch.equal(
        encode_at(sae, x, everything, k).values, encode_at(sae, x, None, k).values
    )


def test_an_uncapped_code_is_as_wide_as_the_widest_chosen_token(x):
    sae = tiny.sae_of_kind("relu")
    # Zeros would have the features of the bias, and large tokens more than others.
    x[~MASK] *= 100
    code = encode_at(sae, x, MASK, None)
    assert code.k == code.l0().max() == sae.encode(x[MASK]).k


def test_other_tokens_may_hold_nan(x):
    x[~MASK] = float("nan")
    sae = tiny.sae_of_kind("relu")
    assert torch.isfinite(encode_at(sae, x, MASK, 4).values).all()


def test_gradients_reach_the_chosen_tokens_alone(x):
    x.requires_grad_()
    encode_at(tiny.sae_of_kind("relu"), x, MASK, None).values.sum().backward()
    assert x.grad[MASK].any(-1).all()
    assert not x.grad[~MASK].any()


def test_no_token_at_all_has_a_code_of_zeros(x):
    code = encode_at(tiny.sae_of_kind("relu"), x, torch.zeros_like(MASK), None)
    assert code.values.shape == (2, 4, 1)
    assert not code.values.any()
