"""What TransformerLens makes of texts that it is given is known before it runs."""

from types import SimpleNamespace

import torch

from sae_lens_ext.hosts.lens_texts import side_of, with_ids

TOKENIZER = SimpleNamespace(pad_token_id=0, padding_side="left")


def to_tokens(texts, **options):
    rows = [texts] if isinstance(texts, str) else texts
    ids = torch.ones(len(rows), 3, dtype=torch.int64)
    return ids[:, 1:] if options.get("prepend_bos") is False else ids


def mask_of(tokens, side):
    mask = torch.ones_like(tokens)
    mask[:, 0 if side == "left" else -1] = 0
    return mask


def ids_of(arguments):
    return with_ids(arguments, to_tokens, TOKENIZER, mask_of)


def test_texts_become_ids_and_a_mask_where_they_are_padded():
    assert ids_of({"input": "a"})["input_ids"].shape == (1, 3)
    assert "attention_mask" not in ids_of({"input": "a"})
    named = ids_of({"input": ["a", "b"], "prepend_bos": False})
    assert named["input_ids"].shape == (2, 2)
    assert named["attention_mask"].tolist() == [[0, 1], [0, 1]]
    named = ids_of({"input": ["a", "b"], "padding_side": "right"})
    assert named["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 0]]


def test_ids_and_masks_of_the_user_stay():
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    assert ids_of({"input": ["a", "b"], "attention_mask": mask})[
        "attention_mask"
    ].equal(mask)
    assert ids_of({"input": torch.tensor([1, 2])})["input_ids"].tolist() == [[1, 2]]
    assert ids_of({"input": None})["input_ids"] is None


def test_nothing_is_padded_without_a_padding_token():
    tokenizer = SimpleNamespace(pad_token_id=None)
    assert side_of({"input": ["a", "b"]}, tokenizer) is None
    assert side_of({"input": ["a"]}, TOKENIZER) is None
    assert side_of({"input": ["a", "b"]}, TOKENIZER) == "left"
