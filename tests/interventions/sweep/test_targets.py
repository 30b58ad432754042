"""Targets are the next tokens at the scored positions, special tokens left out."""

import pytest
import tiny
import torch

from sae_lens_ext.hosts import host_for
from sae_lens_ext.interventions.sweep.targets import Targets, scored_positions


def test_special_tokens_do_not_count():
    host = host_for(tiny.hf_model("gemma2"))
    tokens = torch.tensor([[2, 5, 1, 9], [2, 6, 7, 8]])
    targets = Targets.of(host, tokens, None)
    assert targets.tokens.tolist() == [[5, 1, 9], [6, 7, 8]]
    assert targets.counts.tolist() == [[True, False, True], [True, True, True]]
    assert targets.n_scored == 5


@pytest.mark.parametrize(
    "score",
    [
        slice(None, None, 2),
        [0, 2, 4],
        torch.tensor([0, 2, 4], dtype=torch.int32),
        torch.arange(5) % 2 == 0,
        torch.arange(6) % 2 == 0,
    ],
    ids=["slice", "list", "tensor", "mask", "mask with the last position"],
)
def test_a_choice_of_positions_can_be_written_in_any_way(score):
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    positions = scored_positions(tokens, score)
    assert positions.dtype == torch.int64
    assert positions.tolist() == [0, 2, 4]
