"""States of other streams are rejected, with the differences."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.training.stream.base import SiteStatistics
from sae_lens_ext.training.stream.states import (
    check_identity,
    differences,
    statistics_as_tensors,
    statistics_of_tensors,
)


def test_names_all_differences():
    before = {"seed": 1, "text": {"column": "a", "files": 3}, "gone": 2}
    now = {"seed": 2, "text": {"column": "b", "files": 3}}
    assert differences(before, now) == [
        "gone is 2 there and missing here",
        "seed is 1 there and 2 here",
        "text: column is 'a' there and 'b' here",
    ]
    assert differences(now, now) == []


def test_rejects_states_of_other_streams():
    state = {"kind": "ModelStream", "identity": {"seed": 0}}
    check_identity(state, "ModelStream", {"seed": 0})
    with pytest.raises(sle.FormatError, match="seed is 0 there and 1 here"):
        check_identity(state, "ModelStream", {"seed": 1})
    with pytest.raises(sle.FormatError, match="of a ModelStream, and this stream is a"):
        check_identity(state, "CacheStream", {"seed": 0})
    with pytest.raises(sle.FormatError, match="the state is of a None"):
        check_identity({}, "CacheStream", {})


def test_statistics_survive_flat_names():
    constants = SiteStatistics(torch.randn(3), torch.tensor(2.0), torch.tensor(9.0))
    tensors = statistics_as_tensors({"a": constants, "b": constants})
    assert len(tensors) == 6
    restored = statistics_of_tensors(tensors, ("a", "b"))
    assert torch.equal(restored["b"].mean, constants.mean)
    with pytest.raises(sle.FormatError, match="are missing: mean:c"):
        statistics_of_tensors(tensors, ("c",))
