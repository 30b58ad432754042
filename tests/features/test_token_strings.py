"""Tokens are shown as a reader sees them, one at a time."""

import tiny

from sae_lens_ext.features.token_strings import token_strings


class SentencePiece:
    """A tokenizer with a mark for blanks, bytes, and fewer words than logits."""

    pieces = ("\u2581Paris", "<0xE2>", "is", "\u2581")

    def convert_ids_to_tokens(self, number):
        return self.pieces[number] if number < len(self.pieces) else None

    def decode(self, ids):
        return {1: "\ufffd", 2: "is", 0: "Paris", 3: ""}[ids[0]]


def test_blanks_are_kept_and_parts_of_characters_have_names():
    strings = token_strings(SentencePiece(), range(5))
    assert strings == {0: " Paris", 1: "<0xE2>", 2: "is", 3: " ", 4: "[4]"}


def test_without_a_tokenizer_tokens_are_numbers():
    assert token_strings(None, [7]) == {7: "[7]"}


def test_a_tokenizer_of_transformers_gives_words():
    assert token_strings(tiny.tokenizer(), [2, 9]) == {2: "<bos>", 9: "w5"}
