"""The definition is the attention that Based and ReBased name."""

import math

import pytest
import torch
from kernels.attention_cases import BASED, CASES, FEATURE_MAPS, REBASED

from sae_lens_ext.kernels import quadratic_attention, quadratic_attention_step


def test_based_cannot_ignore_a_token():
    """Claim 1: its polynomial is at least 1/2, and so is the weight of every token."""
    s = torch.linspace(-60, 60, 12001, dtype=torch.float64)
    based = 1 + s + s**2 / 2
    assert based.min() == 0.5
    assert s[based.argmin()] == pytest.approx(-1)

    values = torch.eye(3, dtype=torch.float64)
    q = torch.tensor([[1.0], [1.0], [1.0]], dtype=torch.float64)
    k = torch.tensor([[-1.0], [5.0], [2.0]], dtype=torch.float64)
    pattern = quadratic_attention(q, k, values, BASED, scale=1.0)
    others = sum(1 + s + s**2 / 2 for s in (5.0, 2.0))
    torch.testing.assert_close(
        pattern[2, 0], torch.tensor(0.5 / (0.5 + others), dtype=torch.float64)
    )

    for n_others, expected_score in ((255, 46.9), (2047, 134.7)):
        # The score that gets 90 percent of the mass, with all others at the minimum.
        score = -1 + math.sqrt(2 * 0.9 * 0.5 * n_others / 0.1 - 1)
        assert score == pytest.approx(expected_score, abs=0.05)


def test_rebased_can_ignore_a_token():
    """Claim 2: its polynomial is 0 at a score of 0."""
    q = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    k = torch.tensor([[1.0, 0.0], [1.0, 1.0]])

    pattern = quadratic_attention(q, k, torch.eye(2), REBASED)

    assert pattern.tolist() == [[0.0, 0.0], [0.5, 0.5]]


def test_pattern_sums_to_one_and_is_causal():
    for name, c in FEATURE_MAPS.items():
        inputs = CASES[2].inputs(c)
        pos = inputs["q"].shape[-2]
        values = torch.eye(pos, dtype=torch.float64)
        values = values.expand(*inputs["q"].shape[:-1], pos)

        pattern = quadratic_attention(inputs["q"], inputs["k"], values, c)

        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        assert torch.equal(pattern, pattern.tril())
        assert (pattern >= 0).all() or name == "linear"


def test_scaling_all_scores_changes_based_and_not_rebased():
    inputs = CASES[2].inputs(BASED)
    scaled = {**inputs, "q": inputs["q"] * 3}

    torch.testing.assert_close(
        quadratic_attention(**scaled, c=REBASED),
        quadratic_attention(**inputs, c=REBASED),
    )
    assert not torch.allclose(
        quadratic_attention(**scaled, c=BASED),
        quadratic_attention(**inputs, c=BASED),
        rtol=0.01,
    )


def test_tokens_one_by_one_give_the_same_as_one_call():
    inputs = CASES[2].inputs(BASED)
    state = None
    outs = []
    for token in range(inputs["q"].shape[-2]):
        out, state = quadratic_attention_step(
            *(tensor[..., token, :] for tensor in inputs.values()), state, c=BASED
        )
        outs.append(out)
    torch.testing.assert_close(
        torch.stack(outs, dim=-2), quadratic_attention(**inputs, c=BASED)
    )


def test_first_token_gets_its_own_value_however_small_its_score():
    """A score that is squared as a number is small, and not noise."""
    g = torch.Generator().manual_seed(0)
    q, k = (
        torch.nn.functional.layer_norm(torch.randn(20_000, 16, generator=g), (16,))
        for _ in range(2)
    )
    v = torch.randn(20_000, 2, generator=g)

    out = quadratic_attention_step(q, k, v, None).out

    # Smaller scores are comparable with eps, and with the rounding of the score.
    is_large = ((q * k).sum(-1) / 4).abs() > 1e-3
    torch.testing.assert_close(out[is_large], v[is_large], rtol=1e-3, atol=0)
    assert (out.abs() <= v.abs() * 1.001).all()
