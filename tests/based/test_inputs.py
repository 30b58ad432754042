"""The forward pass computes valid arguments exactly, and rejects others by name."""

import numpy
import pytest
import tiny
import torch
from transformers import DynamicCache

import sae_lens_ext as sle
from sae_lens_ext.based import BasedCache

TOKENS = tiny.tokens(2, 11)
N_WORDS = len(tiny.WORDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"input_ids": torch.zeros(4, dtype=torch.int64)},
            r"input_ids must be \[batch, pos\] .*; got \[4\]; for one text",
        ),
        (
            {"input_ids": torch.zeros(2, 0, dtype=torch.int64)},
            r"at least one token each; got \[2, 0\]",
        ),
        (
            {"input_ids": [[1, 2]]},
            "input_ids must be a tensor of integers, int64 or int32, .*; "
            "got an object of type list",
        ),
        (
            {"input_ids": numpy.zeros((2, 3), dtype=int)},
            "input_ids must be a tensor of integers, .*; got an object of type ndarray",
        ),
        (
            {"input_ids": torch.zeros(2, 3)},
            "input_ids must be a tensor of integers, .*; got torch.float32",
        ),
        (
            {"input_ids": torch.tensor([[1, N_WORDS, N_WORDS + 1]])},
            "input_ids must be from 0 to 95, the last of the vocabulary; got 96",
        ),
        (
            {"input_ids": torch.tensor([[1, -3]])},
            "input_ids must be from 0 to 95, the last of the vocabulary; got -3",
        ),
        (
            {"attention_mask": torch.full((2, 11), 0.5)},
            "attention_mask must be 1 for text and 0 for padding; it holds other",
        ),
        (
            {"attention_mask": [[1] * 11] * 2},
            "attention_mask must be a tensor; got an object of type list",
        ),
        ({"input_ids": None}, "give either input_ids or inputs_embeds"),
        ({"atention_mask": torch.ones(2, 11)}, "has no argument atention_mask"),
        (
            {"output_attentions": True},
            "this model returns no attentions; read them with hooks",
        ),
        (
            {"attention_mask": torch.ones(2, 1, 11, 11)},
            r"attention_mask must be \[batch, pos\], \[2, 11\]; got \[2, 1, 11, 11\]",
        ),
        (
            {"past_key_values": DynamicCache()},
            "past_key_values must be the BasedCache .* got a DynamicCache",
        ),
        ({"past_key_values": BasedCache(1)}, "past_key_values must be the BasedCache"),
        (
            {"logits_to_keep": -1},
            "logits_to_keep must be a non-negative integer, how many of the last "
            "positions get logits, 0 for all, .*; got -1",
        ),
        (
            {"logits_to_keep": 2.5},
            r"logits_to_keep must be .*, or a tensor \[n\] of positions; got 2.5",
        ),
        ({"logits_to_keep": True}, "logits_to_keep must be .*; got True"),
        (
            {"logits_to_keep": torch.tensor([0, 11])},
            "must name positions of the text, of which there are 11: .* 11 ",
        ),
        (
            {"position_ids": torch.arange(1, 12)[None]},
            "counts positions itself, here from 0 to 10 .*no other position_ids; leave",
        ),
        ({"position_ids": torch.arange(10)[None]}, "accepts no other position_ids"),
        ({"position_ids": list(range(11))}, "accepts no other position_ids"),
        (
            {"logits_to_keep": 1, "labels": torch.zeros(2, 11, dtype=torch.int64)},
            r"shape \[2, 1\] of the positions that get logits; got \[2, 11\]",
        ),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_invalid_argument(options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        tiny.based()(**{"input_ids": TOKENS, **options})


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_tokens_and_embeddings_together():
    model = tiny.based()
    embeddings = model.get_input_embeddings()(TOKENS)
    with pytest.raises(sle.InvalidArgument, match="give either input_ids or"):
        model(TOKENS, inputs_embeds=embeddings)


def test_embeddings_stand_for_tokens():
    model = tiny.based()
    embeddings = model.get_input_embeddings()(TOKENS)
    torch.testing.assert_close(
        model(inputs_embeds=embeddings).logits, model(TOKENS).logits
    )


def test_rejects_a_cache_of_other_texts():
    model = tiny.based()
    cache = model(TOKENS).past_key_values
    message = "the cache holds 2 texts; got tokens of 1 texts"
    with pytest.raises(sle.InvalidArgument, match=message):
        model(TOKENS[:1], past_key_values=cache)


def test_padding_on_the_right_changes_nothing_before_it():
    model = tiny.based()
    mask = torch.ones_like(TOKENS)
    mask[0, 8:] = 0
    torch.testing.assert_close(
        model(TOKENS, attention_mask=mask).logits, model(TOKENS).logits
    )


def test_rejects_padding_before_a_token():
    model = tiny.based()
    mask = torch.ones_like(TOKENS)
    mask[0, 8:] = 0
    message = "cannot skip padding before a token: pad on the right"
    with pytest.raises(sle.InvalidArgument, match=message):
        model(TOKENS, attention_mask=mask.flip(1))


def test_accepts_a_boolean_mask():
    model = tiny.based()
    mask = torch.ones_like(TOKENS, dtype=torch.bool)
    mask[0, 8:] = False
    torch.testing.assert_close(
        model(TOKENS, attention_mask=mask).logits, model(TOKENS).logits
    )


def test_accepts_positions_that_count_the_text():
    model = tiny.based()
    logits = model(TOKENS).logits
    mask = torch.ones_like(TOKENS)
    mask[0, 8:] = 0
    own = torch.arange(TOKENS.shape[1])
    # As transformers counts: padding has position 1.
    from_mask = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    for positions in (own, own[None], own.expand(2, -1), from_mask):
        outputs = model(TOKENS, attention_mask=mask, position_ids=positions)
        torch.testing.assert_close(outputs.logits, logits)

    cache = model(TOKENS[:, :6], use_cache=True).past_key_values
    outputs = model(TOKENS[:, 6:], past_key_values=cache, position_ids=own[None, 6:])
    torch.testing.assert_close(outputs.logits, logits[:, 6:])

    options = {"max_new_tokens": 5, "do_sample": False}
    plain = model.generate(TOKENS, **options)
    counted = model.generate(TOKENS, position_ids=own.expand(2, -1), **options)
    assert torch.equal(plain, counted)


def test_logits_of_chosen_positions():
    model = tiny.based()
    logits = model(TOKENS).logits
    positions = torch.tensor([0, 3])
    torch.testing.assert_close(
        model(TOKENS, logits_to_keep=positions).logits, logits[:, positions]
    )
    torch.testing.assert_close(model(TOKENS, logits_to_keep=2).logits, logits[:, -2:])


@pytest.mark.parametrize("number", [numpy.int64(2), torch.tensor(2)])
@pytest.mark.usefixtures("without_shape_checks")
def test_logits_to_keep_accepts_integers_of_numpy_and_torch(number):
    model = tiny.based()
    torch.testing.assert_close(
        model(TOKENS, logits_to_keep=number).logits, model(TOKENS).logits[:, -2:]
    )
