"""Rows of token ids begin with BOS and hold tokens of one document."""

import pytest
import tiny
from transformers import ByT5Tokenizer

import sae_lens_ext as sle
from sae_lens_ext.text import Packer, pack

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


def test_a_packer_joins_documents_or_drops_what_is_left():
    alone = Packer(tiny.tokenizer(), 4)
    assert alone.rows("w0 w1 w2 w3 w4") == [[2, 4, 5, 6]]
    assert alone.rows("w5 w6") == []

    joined = Packer(tiny.tokenizer(), 4, join_documents=True)
    assert joined.rows("w0 w1 w2 w3 w4") == [[2, 4, 5, 6], [2, 7, 8, 1]]
    assert joined.rows("w5 w6") == [[2, 9, 10, 1]]
    assert joined.carried == []


def test_a_special_token_that_is_spelled_out_may_be_text():
    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.bos_token = "</s>"
    end = tokenizer.eos_token_id
    text = "1 </s> 2"
    assert end in Packer(tokenizer, 4).ids(text)
    assert end not in Packer(tokenizer, 4, split_special_tokens=True).ids(text)
