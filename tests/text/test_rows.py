"""Rows go on at the exact next one, whatever the source and the options."""

import json

import pytest
import tiny
import torch
from toy import WordTokenizer

import sae_lens_ext as sle
from sae_lens_ext.text import TextRows, pack

# Of 0, 1, 3, ... words, so that some documents give no row and some several.
TEXTS = [
    " ".join(str(3 + 40 * number + word) for word in range(number * (number + 1) // 2))
    for number in range(8)
]
OPTIONS = [
    {},
    {"begin_with_bos": False},
    {"join_documents": True},
    {"join_documents": True, "begin_with_bos": False},
    {"held_out": False},
]


def all_of(rows, n=2):
    parts = []
    while (part := rows.next_rows(n)) is not None:
        parts += part.tolist()
    return parts


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_goes_on_at_the_exact_next_row(options):
    def rows():
        return TextRows(TEXTS, WordTokenizer(), context=5, **options)

    whole = all_of(rows(), n=1)
    assert len(whole) > 6
    assert all_of(rows(), n=3) == whole

    reading = rows()
    for n_read in range(len(whole) + 1):
        state = json.loads(json.dumps(reading.state()))
        fresh = rows()
        fresh.restore(state)
        assert all_of(fresh) == whole[n_read:]
        fresh.start(1)
        assert all_of(fresh) == whole
        reading.next_rows(1)


def test_makes_the_rows_of_pack():
    rows = TextRows(TEXTS, WordTokenizer(), context=5)
    packed = pack(TEXTS, WordTokenizer(), n_rows=1000, context=5)
    assert torch.equal(rows.next_rows(1000), packed)


def test_joined_documents_are_one_text_with_an_end_behind_each():
    rows = TextRows(
        TEXTS, WordTokenizer(), context=4, join_documents=True, begin_with_bos=False
    )
    ids = [number for row in all_of(rows) for number in row]
    text = []
    for document in TEXTS:
        text += [*map(int, document.split()), 1]
    assert ids == text[: len(ids)]
    assert len(text) - len(ids) < 4


def test_a_held_out_side_and_the_other_hold_all_documents_once():
    words = [str(number) for number in range(3, 60)]
    sides = [
        TextRows(
            words,
            WordTokenizer(),
            context=2,
            begin_with_bos=False,
            join_documents=True,
            held_out=held_out,
        )
        for held_out in (True, False)
    ]
    ids = [row[0] for side in sides for row in all_of(side)]
    assert sorted(ids) == list(range(3, 60))


def test_facts_tell_other_rows_apart():
    tokenizer = tiny.tokenizer()
    other = tiny.tokenizer_with(["another"])
    facts = TextRows(["a"], tokenizer).facts
    assert json.loads(json.dumps(facts)) == facts
    assert TextRows(["a"], tokenizer).facts == facts
    for rows in (TextRows(["a"], other), TextRows(["a"], tokenizer, context=64)):
        assert rows.facts != facts


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no document has the 4 tokens of a single row"),
        (["", ""], {}, "no document has the 4 tokens"),
        (["5 6"], {"join_documents": True}, "all documents together have less than"),
    ],
)
def test_rejects_text_too_short_for_a_row(texts, options, message):
    rows = TextRows(texts, WordTokenizer(), context=5, **options)
    with pytest.raises(sle.InvalidArgument, match=message):
        rows.next_rows(1)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 1}, "context must be an integer of at least 2; got 1"),
        ({"held_out": 1}, "held_out must be True or False; got 1"),
        ({"join_documents": "yes"}, "join_documents must be True or False; got 'yes'"),
    ],
)
def test_rejects_invalid_options(options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        TextRows(["a"], WordTokenizer(), **options)


def test_rejects_joining_without_an_end_of_text():
    tokenizer = WordTokenizer()
    tokenizer.eos_token_id = None
    with pytest.raises(sle.InvalidArgument, match="no eos token to put between"):
        TextRows(["a"], tokenizer, join_documents=True)
