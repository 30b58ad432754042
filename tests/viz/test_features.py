"""The strongest features of a text are read from its code."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.viz import strongest_features

CODE = sle.SparseCode(
    torch.tensor([[3.0, 1.0], [2.0, 0.0]]), torch.tensor([[4, 0], [0, 5]]), d_sae=6
)


def test_the_strongest_features_are_those_of_the_code():
    first, second = strongest_features(CODE, n=5)
    assert (first.feature, first.activations) == (4, (3.0, 0.0))
    assert (second.feature, second.activations) == (0, (1.0, 2.0))
    assert second.fires_on(["a", "b"]) == [("b", 2.0), ("a", 1.0)]


def test_returns_at_most_n_features():
    assert [feature.feature for feature in strongest_features(CODE, n=1)] == [4]


def test_rejects_the_code_of_several_texts():
    batch = sle.SparseCode(
        torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, dtype=torch.int64), 4
    )
    with pytest.raises(
        sle.ShapeMismatch, match=r"give the code of one text, \[pos, k\]"
    ):
        strongest_features(batch)
