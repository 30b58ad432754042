"""Padded batches are run with their padding on the right."""

import pytest
import torch
from transformers import LlamaConfig, T5Config

import sae_lens_ext as sle
from sae_lens_ext.hosts import TokenBatch
from sae_lens_ext.hosts.padding import check_decoder_only, run_right_padded

IDS = torch.tensor([[0, 0, 2, 5], [2, 7, 8, 9]])
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()


@pytest.fixture
def calls():
    return []


@pytest.fixture
def run(calls):
    """A model whose only logit is the token."""

    def model(ids, **options):
        calls.append((ids.tolist(), options))
        return ids.unsqueeze(-1).float()

    return model


@pytest.mark.parametrize("takes_mask", [True, False])
def test_results_come_back_in_the_columns_of_the_batch(run, calls, takes_mask):
    logits = run_right_padded(run, TokenBatch(IDS, MASK), takes_mask=takes_mask)
    assert logits.squeeze(-1).tolist() == IDS.tolist()
    ((ids, options),) = calls
    assert ids == [[2, 5, 0, 0], [2, 7, 8, 9]]
    assert list(options) == ["attention_mask"] * takes_mask
    if takes_mask:
        assert options["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_batch_without_padding_is_run_without_a_mask(run, calls):
    run_right_padded(run, IDS, takes_mask=True)
    assert calls == [(IDS.tolist(), {})]


def test_a_batch_that_is_padded_on_the_right_keeps_its_width(run, calls):
    batch = TokenBatch(IDS, torch.ones_like(MASK)).right_padded()[:1]
    narrow = TokenBatch(batch.ids, torch.tensor([[True, True, False, False]]))
    assert run_right_padded(run, narrow, takes_mask=False).shape == (1, 4, 1)
    assert calls[0][0] == [[0, 0, 2, 5]]


def test_logits_of_some_positions_have_no_columns(run):
    logits = run_right_padded(
        lambda ids, **_: run(ids)[:, :2], TokenBatch(IDS, MASK), takes_mask=False
    )
    assert logits.squeeze(-1).tolist() == [[2, 5], [2, 7]]


def test_rejects_a_model_that_reads_two_texts():
    check_decoder_only(None)
    check_decoder_only(LlamaConfig())
    with pytest.raises(sle.UnsupportedHost, match="a t5 has an encoder and a decoder"):
        check_decoder_only(T5Config())
