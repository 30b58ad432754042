"""Passes and tokens say when a stream ends."""

import pytest

import sae_lens_ext as sle
from sae_lens_ext.training.stream.length import Length


@pytest.mark.parametrize(
    ("epochs", "n_tokens", "per_epoch", "total", "n_epochs"),
    [
        (None, None, 7, 7, 1),
        (3, None, 7, 21, 3),
        (3, 10, 7, 10, 3),
        (3, 100, 7, 21, 3),
        (None, 10, 7, 10, 99),
        (None, 10, None, 10, 99),
        (2, 10, None, None, 2),
    ],
)
def test_the_first_limit_that_is_reached_counts(
    epochs, n_tokens, per_epoch, total, n_epochs
):
    length = Length.checked(epochs, n_tokens)
    assert length.total(per_epoch) == total
    assert [length.has_epoch(epoch) for epoch in (n_epochs - 1, n_epochs)] == [
        True,
        epochs is None and n_tokens is not None,
    ]
    assert length.left(4) == (None if n_tokens is None else n_tokens - 4)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("name", ["epochs", "n_tokens"])
def test_rejects_invalid_numbers(name):
    numbers = {"epochs": None, "n_tokens": None, name: 0}
    with pytest.raises(sle.InvalidArgument, match=f"{name} must be a positive integer"):
        Length.checked(**numbers)
