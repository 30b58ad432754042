"""Scores are sums over the tokens that count, against the bare model's predictions."""

import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy, kl_div

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for
from sae_lens_ext.interventions.sweep import BareScores, rows_that_fit


def test_cross_entropy_and_kl_divergence_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    bare = torch.randn(2, 5, 7, generator=generator)
    other = torch.randn(2, 5, 7, generator=generator)
    targets = torch.randint(7, (2, 5), generator=generator)
    counts = torch.rand(2, 5, generator=generator) > 0.4
    scores = BareScores(bare, targets, counts)
    ce, kl = scores.compare(other)

    def summed_ce(logits):
        loss = cross_entropy(logits[counts], targets[counts], reduction="sum")
        return loss.item()

    expected_kl = kl_div(
        other[counts].log_softmax(-1),
        bare[counts].log_softmax(-1),
        log_target=True,
        reduction="sum",
    )
    assert scores.ce == pytest.approx(summed_ce(bare), rel=1e-5)
    assert ce == pytest.approx(summed_ce(other), rel=1e-5)
    assert kl == pytest.approx(expected_kl.item(), rel=1e-5)
    assert scores.compare(bare) == (scores.ce, 0.0)


def test_as_many_rows_fit_as_their_logits_take():
    host = host_for(tiny.hf_model("gemma2"))
    scored = torch.arange(10)
    # A row of logits is 96 words times 10 positions in float32.
    assert rows_that_fit(host, scored, memory_mb=1) == 2**20 // (4 * 96 * 10)
    assert rows_that_fit(host, torch.arange(10**6), memory_mb=1) == 1


def test_rejects_a_model_of_unknown_vocabulary():
    host = host_for(torch.nn.Linear(2, 2))
    with pytest.raises(sle.UnsupportedHost, match="give a language model"):
        rows_that_fit(host, torch.arange(3), memory_mb=1)
