"""The column of text: rows without it are counted, files without it are errors."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text.column import TextColumn


def test_one_row_with_the_column_is_enough():
    texts = TextColumn("text")
    rows = [(1, {"id": 1}), (2, {"text": "a"}), (3, {}), (4, {"text": None})]
    assert list(texts.of_rows(rows, "a.jsonl")) == ["a"]
    assert texts.n_texts == 1
    assert texts.n_without == {"a.jsonl": 3}
    with pytest.warns(UserWarning, match="a.jsonl: left out 3 rows without 'text': 3"):
        texts.finish("a.jsonl", stacklevel=1)


def test_a_file_without_the_column_is_an_error_that_names_its_columns():
    rows = [(1, {"id": 1}), (2, {"body": "a"})]
    with pytest.raises(
        sle.FormatError, match="f has no column 'text'; it has id, body"
    ):
        list(TextColumn("text").of_rows(rows, "f"))


def test_a_long_file_without_the_column_is_not_read_to_its_end():
    numbers = iter(range(1, 10**9))
    rows = ((number, {"body": "a"}) for number in numbers)
    with pytest.raises(sle.FormatError, match="no column 'text'; it has body"):
        list(TextColumn("text").of_rows(rows, "f"))
    assert next(numbers) < 2000


def test_null_in_every_row_is_an_error():
    texts = TextColumn("text")
    assert list(texts.of_rows([(1, {"text": None})], "f")) == []
    with pytest.raises(sle.FormatError, match="f holds no text; its 'text' is null: 1"):
        texts.finish("f", stacklevel=1)
