"""Tensors in memory are given once per pass, in an order of its own."""

import pytest
import torch
from toy import drained, same

import sae_lens_ext as sle
from sae_lens_ext.training import Activations, ActivationStream, TensorStream
from sae_lens_ext.training.cleaning import mean_and_scale


def values(n=23, d=4):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(n, d, generator=generator)
    tensor[:, 0] = torch.arange(n) / n
    return tensor


def test_every_pass_gives_every_token_once_in_another_order():
    stream = TensorStream({"a": values(), "b": values() * 2}, epochs=3)
    assert isinstance(stream, ActivationStream)
    assert stream.n_tokens == 69
    order = torch.cat(drained(stream, 7))[:, 0]
    passes = order.mul(23).round().int().split(23)
    assert all(sorted(part.tolist()) == list(range(23)) for part in passes)
    assert len({tuple(part.tolist()) for part in passes}) == 3
    assert stream.counts == {"given": 69, "special": 0, "outliers": 0}
    assert stream.next_batch(5)["a"].shape == (0, 4)

    fresh = TensorStream({"a": values(), "b": values() * 2})
    batch = fresh.next_batch(6)
    assert torch.equal(batch["b"], batch["a"] * 2)


@pytest.mark.parametrize("n_batches", [0, 1, 3, 5, 8])
def test_goes_on_from_any_state_bit_for_bit(n_batches):
    def stream():
        return TensorStream({"a": values()}, epochs=2, seed=5)

    first = stream()
    for _ in range(n_batches):
        first.next_batch(7)
    second = stream()
    second.restore(first.state())
    assert same(drained(first, 5), drained(second, 5))
    assert first.counts == second.counts


def test_takes_activations_with_what_they_count():
    activations = Activations(values(), "site", n_special=4, n_outliers=2)
    stream = TensorStream(activations, n_tokens=50)
    assert stream.sites == ("site",)
    assert stream.excludes_special_tokens
    assert stream.n_tokens == 50
    assert stream.counts == {"given": 0, "special": 4, "outliers": 2}
    assert stream.width("site") == 4
    assert sum(map(len, drained(stream))) == 50


def test_outliers_are_shrunk_in_a_copy_unless_told_otherwise():
    tensor = values()
    tensor[3] = 1000
    stream = TensorStream({"a": tensor})
    constants = stream.statistics()["a"]
    assert stream.counts["outliers"] == 1
    norms = torch.cat(drained(stream)).norm(dim=1)
    torch.testing.assert_close(norms.max(), constants.largest_norm)
    assert tensor[3, 0] == 1000

    left_alone = TensorStream({"a": tensor}, shrink=False)
    mean, scale = mean_and_scale(tensor)
    assert torch.equal(left_alone.statistics()["a"].mean, mean)
    assert torch.equal(left_alone.statistics()["a"].scale, scale)
    assert left_alone.statistics()["a"].largest_norm == torch.inf
    assert left_alone.counts["outliers"] == 0


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ([values()], sle.InvalidArgument, "takes Activations, or a mapping"),
        ({}, sle.InvalidArgument, "no activations to train on"),
        ({"a": values(0)}, sle.InvalidArgument, "no activations to train on"),
        ({"a": values().half()}, sle.InvalidArgument, "float16, which overflows"),
        ({"a": values().int()}, sle.InvalidArgument, "got torch.int32"),
        ({"a": [1.0]}, sle.InvalidArgument, "got a list"),
        ({"a": values()[0]}, sle.ShapeMismatch, r"must be \[token, d\]; got \[4\]"),
        (
            {"a": values(), "b": values(5)},
            sle.ShapeMismatch,
            "23 at a, 5 at b",
        ),
        ({"a": values() / 0}, sle.NonFinite, "at a are NaN"),
        ({"a": torch.ones(5, 2)}, sle.InvalidArgument, "all alike"),
    ],
)
def test_rejects_invalid_activations(tensors, error, message):
    with pytest.raises(error, match=message):
        TensorStream(tensors)


def test_rejects_a_state_of_other_tensors():
    state = TensorStream({"a": values()}).state()
    with pytest.raises(sle.FormatError, match="tokens is 23 there and 20 here"):
        TensorStream({"a": values(20)}).restore(state)
