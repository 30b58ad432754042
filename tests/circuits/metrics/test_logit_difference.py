"""Logit differences of rows, and the tokens that users name."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.circuits import logit_difference
from sae_lens_ext.hosts import host_for

LOGITS = torch.tensor([[1.0, 5.0, 2.0], [0.0, 3.0, 9.0]])


@pytest.fixture(scope="module")
def host():
    return host_for(tiny.bridge("gpt2"))


def score(host, metric, logits=LOGITS):
    return metric.bound(host, len(logits), lambda _: logits)(logits).tolist()


def test_one_token_serves_every_row(host):
    assert score(host, logit_difference(1, 2)) == [3.0, -6.0]


def test_rows_have_tokens_of_their_own(host):
    metric = logit_difference(torch.tensor([1, 2]), [0, 0])
    assert score(host, metric) == [4.0, 9.0]


def test_strings_are_tokens_of_the_model(host):
    logits = torch.arange(2.0 * len(tiny.WORDS)).view(2, -1)
    assert score(host, logit_difference("w3", ["w1", "w0"]), logits) == [2.0, 3.0]


@pytest.mark.parametrize("tokens", [1.5, [], None, [1, None], -1, True])
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_tokens(tokens):
    with pytest.raises(sle.InvalidArgument, match="no must"):
        logit_difference(1, tokens)


def test_rejects_a_string_of_several_tokens(host):
    with pytest.raises(sle.InvalidArgument, match=r"yes='w1 w2' is 2 tokens"):
        score(host, logit_difference("w1 w2", 0))


def test_rejects_an_id_that_the_model_does_not_have(host):
    with pytest.raises(sle.InvalidArgument, match="no=96 is not a token"):
        score(host, logit_difference(1, 96))


def test_rejects_another_number_of_rows(host):
    with pytest.raises(sle.ShapeMismatch, match="yes has 3 tokens, and there are 2"):
        score(host, logit_difference([1, 1, 1], 0))


def test_rejects_text_for_a_model_without_a_tokenizer():
    host = host_for(tiny.hf_model("gpt2"))
    with pytest.raises(sle.InvalidArgument, match="has no tokenizer; give token ids"):
        score(host, logit_difference("w1", 0))


def test_rejects_a_position_that_is_not_an_integer(without_shape_checks):
    with pytest.raises(sle.InvalidArgument, match="position must be an integer"):
        logit_difference(1, 2, position="last")
