"""Every form in which tokens can be passed becomes rows of ids with their text."""

import numpy
import pandas
import pytest
import tiny
import torch
from transformers import BatchEncoding

import sae_lens_ext as sle
from sae_lens_ext.hosts import host_for, token_rows


@pytest.fixture(scope="module")
def host():
    return host_for(tiny.hosted("transformers_model"))


LEFT = {
    "input_ids": [[0, 0, 2, 5], [2, 7, 8, 9]],
    "attention_mask": [[0, 0, 1, 1], [1, 1, 1, 1]],
}


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
        numpy.array(["w1 w2"]),
        pandas.Series(["w1 w2"]),
        {"input_ids": [2, 5, 6]},
        {"input_ids": torch.tensor([2, 5, 6]), "attention_mask": [1, 1, 1]},
    ],
    ids=str,
)
def test_one_row_in_any_form_is_the_same_row(host, tokens):
    batch = token_rows(host, tokens)
    assert batch.ids.dtype == torch.int64
    assert batch.ids.tolist() == [[2, 5, 6]]
    assert batch.mask.tolist() == [[True, True, True]]


def test_texts_of_one_length_are_rows(host):
    batch = token_rows(host, ("w1 w2", "w3 w4"))
    assert batch.ids.tolist() == [[2, 5, 6], [2, 7, 8]]
    assert not batch.is_padded


@pytest.mark.parametrize(
    "tokens",
    [
        ["w1", "w3 w4 w5"],
        [[2, 5], [2, 7, 8, 9]],
        [torch.tensor([2, 5]), torch.tensor([2, 7, 8, 9], dtype=torch.int32)],
        (numpy.array([2, 5]), numpy.array([2, 7, 8, 9])),
        {"input_ids": [[2, 5], [2, 7, 8, 9]]},
        LEFT,
        BatchEncoding(LEFT),
        {name: torch.tensor(rows) for name, rows in LEFT.items()},
        {
            "input_ids": [[2, 5, 0, 0], [2, 7, 8, 9]],
            "attention_mask": [[1, 1, 0, 0], [1, 1, 1, 1]],
        },
        # What stands at padding does not matter, whether the model has it or not.
        {
            "input_ids": [[2, 5, -100, 999], [2, 7, 8, 9]],
            "attention_mask": [[1, 1, 0, 0], [1, 1, 1, 1]],
        },
    ],
    ids=lambda tokens: type(tokens).__name__,
)
def test_rows_of_two_lengths_in_any_form_are_the_same_rows(host, tokens):
    batch = token_rows(host, tokens)
    assert batch.lengths.tolist() == [2, 4]
    right = batch.right_padded()
    assert right.ids.tolist() == [[2, 5, 0, 0], [2, 7, 8, 9]]
    assert right.mask.tolist() == [[True, True, False, False], [True] * 4]


def test_a_tokenizer_that_pads_on_the_left_keeps_its_columns(host):
    batch = token_rows(host, LEFT)
    assert batch.ids.tolist() == LEFT["input_ids"]
    assert batch.mask.int().tolist() == LEFT["attention_mask"]
    assert token_rows(host, batch).ids.tolist() == LEFT["input_ids"]


def test_token_batch_takes_a_tokenizer_for_a_model_without_one():
    model = tiny.hf_model("gemma2")
    with pytest.raises(sle.InvalidArgument, match="has no tokenizer; give token ids"):
        sle.token_batch(model, "w1 w2")
    batch = sle.token_batch(model, ["w1 w2", "w1"], tokenizer=tiny.tokenizer())
    assert batch.ids.tolist() == [[2, 5, 6], [2, 5, 0]]
    assert repr(batch) == "TokenBatch(2 rows of 2 to 3 tokens)"


@pytest.mark.parametrize("host", ["torch", "lens", "nnsight"])
def test_a_row_has_a_position_for_every_token(host):
    model = tiny.hosted(host, "gpt2")
    padded = {
        "input_ids": torch.full((2, 70), 5),
        "attention_mask": (torch.arange(70) < 64).long().expand(2, 70),
    }
    assert sle.token_batch(model, padded).mask.sum(1).tolist() == [64, 64]
    with pytest.raises(
        sle.ShapeMismatch, match="has 64 positions, and a row .* has 65"
    ):
        sle.token_batch(model, torch.full((1, 65), 5))
    rotary = tiny.hosted(host)
    assert sle.token_batch(rotary, torch.full((1, 300), 5)).ids.shape == (1, 300)


@pytest.mark.parametrize("pad_token_id", [None, 7, 96, -1])
def test_any_id_of_the_model_stands_at_padding(pad_token_id):
    model = tiny.hf_model("gpt2")
    model.config.pad_token_id = pad_token_id
    batch = sle.token_batch(model, [[5], [5, 6]])
    assert batch.ids[0, 1] == (7 if pad_token_id == 7 else 0)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "tokens must have at least one row; got none"),
        (torch.zeros(2, 0, dtype=torch.int64), r"at least one of each; got .*\[2, 0\]"),
        (torch.tensor([[True]]), r"tokens must be ids .*; got torch.bool \[1, 1\]"),
        ([[[5]]], r"tokens must be ids .*; got torch.int64 \[1, 1, 1\]"),
        ([[5], [0.5]], r"tokens must be ids .*; got torch.float32 \[1, 1\]"),
        ([[5], []], "row 1 has no tokens"),
        ([[5], "w1"], "tokens must be ids .* or text; got an object of type list"),
        (iter(["w1"]), "type list_iterator .make a list of what it gives"),
        (object(), "tokens must be ids .* or text; got an object of type object"),
        ([5, -1], "must be from 0 to 95 for this model; they run from -1 to 5"),
        ([[5], [96, 5]], "must be from 0 to 95 for this model; they run from 5 to 96"),
        ({"ids": [5]}, "must be a tokenizer's output, with input_ids; this has ids"),
        (
            {"input_ids": [[5, 6]], "attention_mask": [[0, 0]]},
            "row 0 has no text: every token of it is padding",
        ),
        (
            {"input_ids": [[5, 6]], "attention_mask": [[1, 2]]},
            "attention_mask must be 1 at text and 0 at padding",
        ),
        (
            {"input_ids": [[5, 6, 7]], "attention_mask": [[1, 0, 1]]},
            "the text of row 0 is interrupted by padding",
        ),
        (
            {"input_ids": [[5, 6]], "pixel_values": torch.zeros(1, 3, 2, 2)},
            "pixel_values changes what the model computes",
        ),
        (
            {"input_ids": [[5, 6]], "token_type_ids": [[0, 1]]},
            "token_type_ids changes what the model computes",
        ),
    ],
)
def test_rejects_invalid_tokens(host, tokens, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        token_rows(host, tokens)


@pytest.mark.parametrize("mask", [[[1, 1]], [[1, 1, 1], [1, 1, 1]]])
def test_rejects_a_mask_of_another_shape(host, mask):
    encoding = {"input_ids": [[5, 6, 7]], "attention_mask": mask}
    with pytest.raises(
        sle.ShapeMismatch, match="attention_mask must have the shape of input_ids"
    ):
        token_rows(host, encoding)


def test_types_of_tokens_that_are_all_alike_say_nothing(host):
    encoding = {"input_ids": [[5, 6]], "token_type_ids": [[0, 0]]}
    assert token_rows(host, encoding).ids.tolist() == [[5, 6]]


@pytest.mark.parametrize("kind", ["tensor", "mapping"])
def test_warns_of_padding_that_no_mask_tells_from_text(kind):
    ids = torch.tensor([[2, 5, 6], [2, 5, 0]])
    tokens = ids if kind == "tensor" else {"input_ids": ids}
    model = tiny.hf_model("gemma2")
    with pytest.warns(UserWarning, match="row 1 begins or ends with the padding token"):
        sle.token_batch(model, tokens, tokenizer=tiny.tokenizer())


def test_halves_of_characters_are_read_as_unknown():
    model = tiny.hf_model("gemma2")
    batch = sle.token_batch(model, "w1 \ud83d", tokenizer=tiny.tokenizer())
    assert batch.shape == (1, 3)


def test_rejects_what_is_not_a_tokenizer():
    with pytest.raises(sle.InvalidArgument, match="must be a tokenizer .* type str"):
        sle.token_batch(tiny.hf_model("gemma2"), "w1", tokenizer="gpt2")
