"""The split of documents depends on their text alone."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.text import is_held_out, split_documents


def test_split_depends_on_nothing_but_the_text():
    texts = [f"document {i}" for i in range(1000)]
    held_out = list(split_documents(texts, held_out=True))
    rest = list(split_documents(texts, held_out=False))
    assert sorted(held_out + rest) == sorted(texts)
    assert 60 < len(held_out) < 140
    assert list(split_documents(reversed(texts), held_out=True)) == held_out[::-1]


def test_rejects_a_split_that_holds_everything_out():
    with pytest.raises(
        sle.InvalidArgument, match="one_in must be an integer of at least 2; got 1"
    ):
        is_held_out("a document", one_in=1)
