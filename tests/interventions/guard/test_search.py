"""Divergences are those of the definition, also where logits are infinite."""

import math

import torch

from sae_lens_ext.interventions.guard.search import divergences


def test_divergences_of_next_token_distributions():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, 0.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    torch.testing.assert_close(
        divergences(logits, 2), torch.tensor([[expected], [0.0]])
    )


def test_what_the_reference_excludes_counts_nothing():
    logits = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, -math.inf]])
    assert divergences(logits, 1).tolist() == [[0.0]]
    logits[1, 2] = 0.0
    torch.testing.assert_close(divergences(logits, 1), torch.tensor([[math.log(1.5)]]))


def test_what_a_candidate_alone_excludes_is_infinitely_far():
    logits = torch.tensor([[0.0, 0.0], [0.0, -math.inf]])
    assert divergences(logits, 1).tolist() == [[math.inf]]
