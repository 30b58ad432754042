"""KL divergences of predictions from those of a reference."""

import math

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits import kl
from sae_lens_ext.hosts import host_for

# Probabilities 3/4 and 1/4, and 1/2 and 1/2, for a vocabulary of two tokens.
SKEWED = torch.tensor([[math.log(3.0), 0.0]])
EVEN = torch.zeros(1, 2)


class HostOfTwo:
    d_vocab = 2
    tokenizer = None


@pytest.fixture
def host(without_shape_checks):
    return HostOfTwo()


def test_the_divergence_is_that_of_the_reference_from_the_run(host):
    score = kl("corrupted").bound(host, 1, {"corrupted": SKEWED}.get)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert score(EVEN).item() == pytest.approx(expected, rel=1e-6)
    assert score(SKEWED).item() == 0


def test_logits_of_one_row_serve_every_row(host):
    score = kl(SKEWED[0]).bound(host, 2, None)
    divergence = score(torch.cat([SKEWED, EVEN]))
    assert divergence[0] == 0
    assert divergence[1] > 0.1


def test_rejects_another_vocabulary(host):
    with pytest.raises(sle.ShapeMismatch, match=r"reference is \[1, 3\]"):
        kl(torch.zeros(1, 3)).bound(host, 1, None)


def test_rejects_infinite_logits(host):
    logits = torch.tensor([[0.0, -math.inf]])
    with pytest.raises(sle.NonFinite, match="logits of the reference"):
        kl(logits).bound(host, 1, None)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_another_reference():
    with pytest.raises(sle.InvalidArgument, match="reference must be one of clean"):
        kl("bare")
    with pytest.raises(sle.ShapeMismatch, match="reference must be logits"):
        kl(torch.zeros(1, 2, 3))


def test_the_divergence_from_the_corrupted_run_has_a_gradient(gpt2):
    effects = sle.circuits.effects(
        gpt2,
        tiny.sae(),
        tiny.tokens(1, 5),
        tiny.tokens(1, 5, seed=1),
        metric=kl("corrupted"),
    )
    assert effects.metric_corrupted.abs().max() < 1e-6
    assert effects.metric_clean.min() > 1e-4
    assert effects.at(8).effect.abs().max() > 1e-5


def test_the_clean_run_is_compared_with_along_a_path(gpt2):
    arguments = (gpt2, tiny.sae(), tiny.tokens(2, 5), tiny.tokens(2, 5, seed=1))
    effects = sle.circuits.effects(
        *arguments, metric=kl(), method="integrated_gradients"
    )
    assert effects.metric_clean.abs().max() < 1e-6
    (gap,) = effects.completeness_gap.values()
    (total,) = effects.totals().values()
    assert gap.abs().max() < 1e-4 * total.abs().max()
    with pytest.raises(sle.InvalidArgument, match="no gradient at the clean run"):
        sle.circuits.effects(*arguments, metric=kl())


def test_without_a_corrupted_run_there_is_nothing_to_compare_with():
    host = host_for(tiny.hf_model("gpt2"))
    with pytest.raises(sle.InvalidArgument, match="corrupted run, and there is none"):
        sle.circuits.effects(
            host.model, tiny.sae(), tiny.tokens(), metric=kl("corrupted")
        )
