"""A sparse code: prefixes, dense views and indexing of tokens."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.sae.normalization import TokenStatistics


@pytest.fixture
def code():
    return tiny.sae().encode(torch.randn(2, 5, 32), k=8)


def test_a_prefix_is_the_code_of_a_smaller_k(code):
    assert torch.equal(code.prefix(3).values, code.values[..., :3])
    assert torch.equal(code.prefix(3).indices, code.indices[..., :3])
    assert code.prefix(3).values.data_ptr() == code.values.data_ptr(), (
        "a prefix should be a view"
    )


def test_dense_holds_every_value_at_its_feature(code):
    dense = code.dense()
    assert dense.shape == (2, 5, 48)
    assert torch.equal(dense.gather(-1, code.indices), code.values)
    assert torch.equal((dense > 0).sum(-1), code.l0())


def test_indexing_chooses_tokens_and_never_features(code):
    assert code[0].values.shape == (5, 8)
    assert code[0, 3].values.shape == (8,)
    assert code[:, -1].indices.shape == (2, 8)
    assert code[..., 1].values.shape == (2, 8)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 2] = True
    assert torch.equal(code[mask].values, code.values[1, 2:3])


def test_repr_shows_shapes(code):
    assert repr(code) == "SparseCode(batch=[2, 5], k=8, d_sae=48)"


@pytest.mark.parametrize("k", [0, 9, 2.0, True])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_prefix(code, k):
    with pytest.raises(
        sle.InvalidK,
        match=f"k of a prefix must be an integer from 1 to 8; got {k}; encode "
        "again for a code with more features",
    ):
        code.prefix(k)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_values_and_indices_of_different_shapes():
    with pytest.raises(
        sle.ShapeMismatch, match=r"one shape \[..., k\]; got \[2\] and \[3\]"
    ):
        sle.SparseCode(torch.zeros(2), torch.zeros(3, dtype=torch.int64), 4)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_values_and_indices():
    with pytest.raises(
        sle.InvalidArgument,
        match="values and indices of a code must be tensors; got list and list",
    ):
        sle.SparseCode([1.0], [2], 4)
    with pytest.raises(
        sle.InvalidArgument,
        match="indices of a code must be integers; got torch.float32",
    ):
        sle.SparseCode(torch.ones(2), torch.ones(2), 4)
    with pytest.raises(sle.InvalidArgument, match="names feature 4; d_sae=4"):
        sle.SparseCode(torch.ones(2), torch.tensor([0, 4]), 4).dense()


def test_at_most_is_the_prefix_or_the_whole_code(code):
    assert code.at_most(3).k == 3
    assert torch.equal(code.at_most(3).values, code.prefix(3).values)
    assert code.at_most(8) is code
    assert code.at_most(100) is code
    assert code.at_most(None) is code


def test_statistics_follow_the_tokens():
    statistics = TokenStatistics(torch.arange(6.0).view(2, 3), torch.ones(2, 3))
    values = torch.ones(2, 3, 4)
    indices = torch.zeros(2, 3, 4, dtype=torch.int64)
    code = sle.SparseCode(values, indices, d_sae=5, statistics=statistics)
    assert code[1, 1:].statistics.mean.tolist() == [4, 5]
    assert code[..., 2].statistics.mean.tolist() == [2, 5]
    assert code.prefix(2).statistics is statistics
    assert code.where(torch.zeros(2, 3, dtype=torch.bool)).statistics is statistics
    assert code.to("meta").statistics.scale.device.type == "meta"
