"""Perplexity and its split are those computed by hand and by a loop over the text."""

import itertools
from types import SimpleNamespace

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.based import BasedConfig, BasedForCausalLM
from sae_lens_ext.experiments.pretraining.perplexity import (
    perplexity,
    recall_mask,
    split,
    token_losses,
)


class Table(torch.nn.Module):
    """A model that knows only the token before: its logits are a table."""

    def __init__(self, logits):
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(logits, freeze=False)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, tokens, use_cache=None):
        return SimpleNamespace(logits=self.embedding(tokens))


# (token, next token) -> the loss in bits. What is left of each row of probabilities is
# on a token that does not occur.
BITS = {(0, 1): 1, (1, 2): 2, (2, 0): 1, (1, 0): 3}
# The losses, in bits: 1, 2, 1, 1, 3.
TEXT = torch.tensor([[0, 1, 2, 0, 1, 0]])


def table():
    probabilities = torch.full((4, 4), 1e-9)
    for (token, next_token), bits in BITS.items():
        probabilities[token, next_token] = 0.5**bits
    probabilities[:, 3] = 1 - probabilities[:, :3].sum(1)
    return Table(probabilities.log())


@pytest.mark.parametrize(
    ("recall", "of_recall", "of_other", "share"),
    [
        # The losses 1, 1, 3 of tokens seen before, and 1, 2.
        ("token", 2 ** (5 / 3), 2 ** (3 / 2), 3 / 5),
        # Only the second (0, 1) is a pair again.
        ("ngram", 2.0, 2 ** (7 / 4), 1 / 5),
    ],
)
def test_perplexity_is_that_computed_by_hand(recall, of_recall, of_other, share):
    result = perplexity(table(), TEXT, recall)
    assert result.all == pytest.approx(2 ** (8 / 5), rel=1e-5)
    assert result.recall == pytest.approx(of_recall, rel=1e-5)
    assert result.other == pytest.approx(of_other, rel=1e-5)
    assert result.recall_share == pytest.approx(share)
    assert result.tokens == 5


def test_recall_is_what_a_loop_over_the_text_finds():
    rows = torch.randint(0, 6, (7, 23), generator=torch.Generator().manual_seed(3))
    by_token = recall_mask(rows)
    by_pair = recall_mask(rows, "ngram")
    for number, row in enumerate(rows.tolist()):
        seen = [row[at] in row[:at] for at in range(1, 23)]
        assert by_token[number].tolist() == seen
        pairs = list(itertools.pairwise(row))
        seen = [pair in pairs[:at] for at, pair in enumerate(pairs)]
        assert by_pair[number].tolist() == seen
    assert 0 < by_pair.sum() < by_token.sum()


def test_a_set_without_tokens_has_no_perplexity():
    result = perplexity(table(), torch.tensor([[0, 1, 2]]))
    assert result.recall is None
    assert result.recall_share == 0
    assert result.other == result.all


def test_losses_do_not_depend_on_the_batch_and_the_model_stays_in_training():
    config = BasedConfig(
        vocab_size=24,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        feature_dim=4,
    )
    model = BasedForCausalLM(config).train()
    rows = torch.randint(0, 24, (5, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        token_losses(model, rows, batch_size=2),
        token_losses(model, rows, batch_size=5),
        rtol=1e-6,
        atol=0,
    )
    assert model.training


@pytest.mark.parametrize(
    ("rows", "recall", "message"),
    [
        (
            torch.tensor([[0, 1, 9]]),
            "token",
            "the rows hold token 9, and the model has 0 to 3; tokenize the text with "
            "the tokenizer",
        ),
        (torch.tensor([[0, -100]]), "token", "the rows hold token -100, and"),
        (
            torch.tensor([[0]]),
            "token",
            r"perplexity needs rows of at least 2 tokens, \[row, pos\]; got \[1, 1\]",
        ),
        (
            torch.tensor([[0.0, 1.0]]),
            "token",
            "perplexity needs token ids, which are integers; got torch.float32",
        ),
        (TEXT, "bigram", "recall must be one of token, ngram; got 'bigram'"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_rows_without_a_perplexity(rows, recall, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        perplexity(table(), rows, recall)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_an_invalid_batch_size():
    with pytest.raises(
        sle.InvalidArgument, match="batch_size must be a positive integer; got 0"
    ):
        perplexity(table(), TEXT, batch_size=0)


def test_a_broken_model_raises():
    model = table()
    with torch.no_grad():
        model.embedding.weight[2] = float("nan")
    with pytest.raises(
        sle.NonFinite, match="the losses of 1 of 5 tokens are NaN or infinite"
    ):
        perplexity(model, TEXT)


def test_a_perplexity_beyond_all_numbers_is_infinite():
    is_recall = torch.tensor([[True, True, False, False]])
    result = split(torch.full((1, 4), 800.0), is_recall)
    assert result.all == result.recall == result.other == float("inf")
