"""Activations in memory are a stream that can be gone on with."""

import pytest
import small_training
import torch
from small_training import SITE

import sae_lens_ext as sle
from sae_lens_ext.training import Activations
from sae_lens_ext.training.epochs import Epochs
from sae_lens_ext.training.stream import ActivationStream

ACTIVATIONS = Activations(small_training.values(50), SITE, n_special=2, n_outliers=1)


def new_stream(activations=ACTIVATIONS):
    return Epochs(activations, 3, torch.Generator().manual_seed(0), "tiny")


def batches(stream, n):
    return [stream.next_batch(20)[SITE] for _ in range(n)]


def test_gives_every_token_once_an_epoch():
    stream = new_stream()
    assert isinstance(stream, ActivationStream)
    assert (stream.n_tokens, stream.n_batches(20)) == (150, 9)
    parts = batches(stream, 9)
    assert [len(part) for part in parts] == [20, 20, 10] * 3
    for epoch in range(3):
        rows = torch.cat(parts[3 * epoch : 3 * epoch + 3])
        assert torch.equal(rows.sort(0).values, ACTIVATIONS.values.sort(0).values)
    assert not torch.equal(parts[0], parts[3])
    assert dict(stream.counts) == {"given": 150, "special": 2, "outliers": 1}
    assert len(stream.next_batch(20)[SITE]) == 0


@pytest.mark.parametrize("n_before", [0, 1, 3, 5, 9])
def test_goes_on_from_any_state(n_before):
    stream = new_stream()
    batches(stream, n_before)
    state = stream.state()
    rest = batches(stream, 10 - n_before)

    other = Epochs(ACTIVATIONS, 3, torch.Generator().manual_seed(9), "tiny")
    other.restore(state)
    assert other.counts["given"] == min(150, (n_before // 3) * 50 + n_before % 3 * 20)
    for expected, part in zip(rest, batches(other, 10 - n_before), strict=True):
        assert torch.equal(part, expected)


def test_rejects_the_state_of_other_activations():
    state = new_stream().state()
    other = Activations(small_training.values(50, seed=1), SITE)
    with pytest.raises(sle.FormatError, match="the run was on other activations"):
        new_stream(other).restore(state)
