"""Rows of token ids begin with BOS and hold tokens of one document."""

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.text import pack

TEXTS = [" ".join(f"w{i}" for i in range(20)), "w1 w2", " ".join(["w50"] * 9)]


def test_rows_begin_with_bos_and_never_mix_documents():
    tokenizer = tiny.tokenizer()
    rows = pack(TEXTS, tokenizer, n_rows=10, context=8)
    assert rows.tolist() == [[2, *range(4, 11)], [2, *range(11, 18)], [2, *[54] * 7]]
    assert pack(TEXTS, tokenizer, n_rows=1, context=8).shape == (1, 8)


def test_rejects_documents_too_short_for_a_row():
    with pytest.raises(
        sle.InvalidArgument, match="no document has the 99 tokens of a single row"
    ):
        pack(TEXTS, tiny.tokenizer(), n_rows=1, context=100)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_rows": 0, "context": 8}, "n_rows must be a positive integer; got 0"),
        (
            {"n_rows": 1, "context": 1},
            "context must be an integer of at least 2; got 1",
        ),
    ],
)
def test_rejects_invalid_sizes(sizes, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        pack(TEXTS, tiny.tokenizer(), **sizes)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (None, r"such as AutoTokenizer.from_pretrained\(name\); got None"),
        ("gpt2", "tokenizer must be a tokenizer of transformers.* of type str"),
        (len, "got an object of type builtin_function_or_method"),
    ],
)
def test_rejects_objects_that_are_not_tokenizers(tokenizer, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        pack(TEXTS, tokenizer, n_rows=1, context=8)


def test_half_of_a_character_is_packed_as_the_replacement_character():
    rows = pack(["w1 \ud83d w3"], tiny.tokenizer(), n_rows=1, context=4)
    replaced = pack(["w1 \ufffd w3"], tiny.tokenizer(), n_rows=1, context=4)
    assert rows.tolist() == replaced.tolist()
