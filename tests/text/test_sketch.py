"""A sketch tells items of an iterable apart."""

import json

import numpy as np
import pytest
import torch

from sae_lens_ext.text.sketch import is_same, sketch

NUMBERS = torch.linspace(-3, 3, 120).reshape(20, 6)
OTHERS = {
    "another shape": NUMBERS.T,
    "other numbers": NUMBERS + 0.5,
    "another end": torch.cat([NUMBERS[:-1], NUMBERS[:1]]),
    "token ids": NUMBERS.long(),
    "under a name": {"a": NUMBERS},
    "in a list": [NUMBERS],
    "nothing": None,
    "a text": "text",
    "empty": torch.zeros(0, 6),
}


def test_what_is_computed_twice_is_the_same():
    noise = 1 + 1e-3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    assert is_same(sketch(NUMBERS), sketch(NUMBERS * noise))
    assert is_same(sketch({"a": NUMBERS}), sketch({"a": NUMBERS * noise}))
    assert is_same(sketch(NUMBERS.bfloat16()), sketch(NUMBERS))
    assert is_same(sketch(NUMBERS.numpy()), sketch(NUMBERS))


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_differs_is_another(other):
    assert not is_same(sketch(NUMBERS), sketch(other))
    assert not is_same(sketch(other), sketch(NUMBERS))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("text", "texts"),
        (b"text", "text"),
        ([1, 2, 3], [1, 2, 4]),
        (["a", "b"], ["a", "c"]),
        ({"ids": [1]}, {"ids": [1], "mask": [1]}),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (np.array([1, 2]), np.array([3, 2])),
        ((1, 2), (1, 2, 3)),
    ],
)
def test_texts_and_token_ids_are_compared_exactly(before, now):
    assert is_same(sketch(before), json.loads(json.dumps(sketch(before))))
    assert not is_same(sketch(before), sketch(now))


def test_half_of_a_surrogate_is_a_text_too():
    assert sketch("\ud800") != sketch("\ud801")
