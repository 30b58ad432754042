"""By default a splice leaves alone the tokens that its SAE was not trained on."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for
from sae_lens_ext.interventions.positions import SplicedPositions, Window


@pytest.fixture(scope="module")
def host():
    """A tiny model whose config names its special tokens."""
    return host_for(tiny.hf_model("gemma2"))


@pytest.mark.parametrize(
    ("excluded", "expected"),
    [
        (False, [True, True, True]),
        (True, [False, True, True]),
        ((5,), [True, False, True]),
    ],
)
def test_the_default_follows_the_config_of_the_sae(host, excluded, expected):
    sae = tiny.sae(exclude_special_tokens=excluded)
    positions = SplicedPositions.of(host, sae, None)
    assert positions.are_all == (excluded is False)
    assert positions.mask_of(torch.tensor([[2, 5, 9]])).tolist() == [expected]


def test_without_an_sae_special_tokens_are_left_alone(host):
    positions = SplicedPositions.of(host, None, None)
    mask = positions.mask_of(torch.tensor([[2, 5, 9]]))
    assert mask.tolist() == [[False, True, True]]


def test_a_choice_overrides_the_default(host):
    sae = tiny.sae(exclude_special_tokens=True)
    assert SplicedPositions.of(host, sae, "all").are_all
    positions = SplicedPositions.of(host, sae, [0])
    assert positions.mask(Window.counted(1, 3), None).tolist() == [[True, False, False]]


def test_rejects_a_default_that_needs_unknown_special_tokens():
    sae = tiny.sae(exclude_special_tokens=True)
    host = host_for(torch.nn.Linear(2, 2))
    with pytest.raises(
        sle.InvalidArgument, match="this SAE was trained without special tokens"
    ):
        SplicedPositions.of(host, sae, None)
