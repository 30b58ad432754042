"""Perplexity and its split, against numbers computed by hand and a loop over the text."""

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
    """A model that knows nothing but the token before: its logits are a table."""

    def __init__(self, logits):
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(logits, freeze=False)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, tokens, use_cache=None):
        return SimpleNamespace(logits=self.embedding(tokens))


# Of 1 after 0, 2 after 1, 0 after 2, 0 after 1; the rest of each row is on tokens that do not occur.
HALVES = {(0, 1): 1, (1, 2): 2, (2, 0): 1, (1, 0): 3}
TEXT = torch.tensor([[0, 1, 2, 0, 1, 0]])  # losses, in bits: 1, 2, 1, 1, 3


def table():
    probabilities = torch.full((4, 4), 1e-9)
    for (before, after), bits in HALVES.items():
        probabilities[before, after] = 0.5**bits
    probabilities[:, 3] = 1 - probabilities[:, :3].sum(1)
    return Table(probabilities.log())


@pytest.mark.parametrize(
    ("recall", "of_recall", "of_other", "share"),
    # "token": the losses 1, 1, 3 of tokens seen before, and 1, 2. "ngram": only the second (0, 1) is a pair again.
    [("token", 2 ** (5 / 3), 2 ** (3 / 2), 3 / 5), ("ngram", 2.0, 2 ** (7 / 4), 1 / 5)],
)
def test_perplexity_is_that_computed_by_hand(recall, of_recall, of_other, share):
    found = perplexity(table(), TEXT, recall)
    assert found.all == pytest.approx(2 ** (8 / 5), rel=1e-5)
    assert found.recall == pytest.approx(of_recall, rel=1e-5)
    assert found.other == pytest.approx(of_other, rel=1e-5)
    assert found.recall_share == pytest.approx(share)
    assert found.tokens == 5


def test_recall_is_what_a_loop_over_the_text_finds():
    rows = torch.randint(0, 6, (7, 23), generator=torch.Generator().manual_seed(3))
    for row, by_token, by_pair in zip(
        rows.tolist(),
        recall_mask(rows).tolist(),
        recall_mask(rows, "ngram").tolist(),
        strict=True,
    ):
        assert by_token == [row[at] in row[:at] for at in range(1, 23)]
        pairs = list(itertools.pairwise(row))
        assert by_pair == [pair in pairs[:at] for at, pair in enumerate(pairs)]
    assert 0 < recall_mask(rows, "ngram").sum() < recall_mask(rows).sum()


def test_a_set_without_tokens_has_no_perplexity():
    found = perplexity(table(), torch.tensor([[0, 1, 2]]))
    assert found.recall is None
    assert found.recall_share == 0
    assert found.other == found.all


def test_losses_do_not_depend_on_the_batch_and_the_model_stays_in_training():
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "feature_dim": 4,
    }
    model = BasedForCausalLM(BasedConfig(vocab_size=24, **shape)).train()
    rows = torch.randint(0, 24, (5, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        token_losses(model, rows, batch_size=2),
        token_losses(model, rows, batch_size=5),
        rtol=1e-6,
        atol=0,
    )
    assert model.training


@pytest.mark.parametrize(
    ("rows", "recall", "said"),
    [
        (
            torch.tensor([[0, 1, 9]]),
            "token",
            "the rows hold token 9 and the model knows 0 to 3; tokenize the text with the tokenizer",
        ),
        (torch.tensor([[0, -100]]), "token", "the rows hold token -100 and"),
        (
            torch.tensor([[0]]),
            "token",
            r"perplexity needs rows of at least 2 tokens, \[row, pos\]; got \[1, 1\]",
        ),
        (TEXT, "bigram", "recall must be one of token, ngram; got 'bigram'"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_what_has_no_perplexity_is_refused(rows, recall, said):
    with pytest.raises(sle.InvalidArgument, match=said):
        perplexity(table(), rows, recall)


def test_a_broken_model_is_said():
    model = table()
    with torch.no_grad():
        model.embedding.weight[2] = float("nan")
    with pytest.raises(
        sle.NonFinite, match="the losses of 1 of 5 tokens are NaN or infinite"
    ):
        perplexity(model, TEXT)


def test_a_perplexity_beyond_all_numbers_is_infinite():
    found = split(torch.full((1, 4), 800.0), torch.tensor([[True, True, False, False]]))
    assert found.all == found.recall == found.other == float("inf")
