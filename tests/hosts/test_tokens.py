"""Every form in which tokens can be passed becomes ``[batch, pos]`` ids."""

import numpy
import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for, token_rows


@pytest.fixture(scope="module")
def host():
    return host_for(tiny.hosted("transformers_model"))


@pytest.mark.parametrize(
    "tokens",
    [
        [2, 5, 6],
        [[2, 5, 6]],
        ([2, 5, 6],),
        numpy.array([[2, 5, 6]], dtype=numpy.int32),
        torch.tensor([2, 5, 6], dtype=torch.int32),
        "w1 w2",
        ["w1 w2"],
    ],
    ids=str,
)
def test_one_row_in_any_form_is_the_same_row(host, tokens):
    rows = token_rows(host, tokens)
    assert rows.dtype == torch.int64
    assert rows.tolist() == [[2, 5, 6]]


def test_texts_of_one_length_are_rows(host):
    assert token_rows(host, ("w1 w2", "w3 w4")).tolist() == [[2, 5, 6], [2, 7, 8]]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["w1", "w1 w2"], r"the texts have different lengths \(2, 3 tokens\)"),
        ([], r"at least one of each; got torch.float32 \[1, 0\]"),
        (torch.zeros(2, 0, dtype=torch.int64), r"at least one of each; got .*\[2, 0\]"),
        (torch.tensor([[True]]), r"tokens must be ids .*; got torch.bool \[1, 1\]"),
        ([[[5]]], r"tokens must be ids .*; got torch.int64 \[1, 1, 1\]"),
        ([[5], [5, 6]], "tokens must be ids .* or text; got an object of type list"),
        (object(), "tokens must be ids .* or text; got an object of type object"),
        ([5, -1], "must be from 0 to 95 for this model; they run from -1 to 5"),
    ],
)
def test_rejects_invalid_tokens(host, tokens, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        token_rows(host, tokens)
