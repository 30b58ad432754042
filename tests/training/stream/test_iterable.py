"""Activations that people bring are shuffled and cleaned as of a model."""

import pytest
import torch
from toy import drained, same

import sae_lens_ext as sle
from sae_lens_ext.training import (
    ActivationStream,
    IterableStream,
    RunConfig,
    TrainConfig,
    train,
)
from sae_lens_ext.training.activations import Activations

GENERATOR_SEED = 3


def chunks(n_chunks=12, n=9):
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    for number in range(n_chunks):
        values = torch.randn(n, 3, generator=generator)
        values[:, 0] = torch.arange(number * n, (number + 1) * n) / 100
        yield values


def read_again(parts):
    parts = list(parts)
    return lambda: iter(parts)


def test_every_pass_gives_every_token_once():
    stream = IterableStream(chunks, "a", buffer_tokens=40, epochs=2)
    assert isinstance(stream, ActivationStream)
    assert stream.n_tokens is None
    order = torch.cat(drained(stream, 17))[:, 0].mul(100).round().int()
    first, second = order.split(108)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(108))
    assert not torch.equal(first, second)
    assert stream.counts == {"given": 216, "special": 0, "outliers": 0}


def test_constants_are_those_of_the_tokens_that_fill_the_buffer():
    stream = IterableStream(chunks, "a", buffer_tokens=40)
    first = torch.cat(list(chunks(4)))
    oracle = Activations(first, "a").outliers_clipped()
    mean, scale = oracle.mean_and_scale()
    constants = stream.statistics()["a"]
    torch.testing.assert_close(constants.mean, mean)
    torch.testing.assert_close(constants.scale, scale)
    torch.testing.assert_close(constants.largest_norm, 6 * first.norm(dim=1).median())
    assert stream.counts["given"] == 0


def test_outliers_are_shrunk_and_counted_before_and_after_the_estimate():
    parts = list(chunks())
    parts[1][0] = 1000
    parts[9][5] = -1000
    stream = IterableStream(parts, "a", buffer_tokens=40)
    limit = stream.statistics()["a"].largest_norm
    assert stream.counts["outliers"] == 1
    norms = torch.cat(drained(stream)).norm(dim=1)
    assert stream.counts["outliers"] == 2
    assert (norms > 0.99 * limit).sum() == 2
    assert norms.max() < limit * 1.001


def test_several_sites_have_the_same_tokens():
    parts = [{"a": part, "b": torch.cat([part, part], 1)} for part in chunks()]
    stream = IterableStream(parts, ["a", "b"], buffer_tokens=40, dtype="bfloat16")
    batch = stream.next_batch(30)
    assert batch["a"].dtype == torch.bfloat16
    assert torch.equal(batch["b"][:, 3:], batch["a"])
    assert (stream.width("a"), stream.width("b")) == (3, 6)


@pytest.mark.parametrize("n_batches", [0, 1, 4, 7, 12])
def test_goes_on_from_any_state_bit_for_bit(n_batches):
    def stream():
        return IterableStream(chunks, "a", buffer_tokens=40, epochs=2)

    first = stream()
    for _ in range(n_batches):
        first.next_batch(17)
    second = stream()
    second.restore(first.state())
    assert same(drained(first, 13), drained(second, 13))
    assert first.counts == second.counts
    assert torch.equal(first.statistics()["a"].mean, second.statistics()["a"].mean)


def test_the_width_is_known_without_reading_what_can_be_read_once():
    stream = IterableStream(chunks(), "a", buffer_tokens=40)
    assert stream.width("a") == 3
    assert len(torch.cat(drained(stream))) == 108
    assert stream.width("a") == 3
    with pytest.raises(sle.InvalidArgument, match="the iterable is empty"):
        IterableStream([], "a").width("a")


@pytest.mark.parametrize("kind", [lambda parts: parts, read_again, list])
def test_a_run_goes_on_with_the_same_pieces_alone(kind, tmp_path):
    def run(pieces, folder, measure=None):
        return train(
            IterableStream(pieces, "a", buffer_tokens=40),
            TrainConfig(d_sae=8, k=2, batch_size=9, n_tokens=108),
            folder,
            run=RunConfig(checkpoint_every=1, eval_every=7),
            measure=measure,
            progress=False,
        )

    def interrupt(sae):
        raise KeyboardInterrupt

    whole = run(kind(chunks()), None)
    with pytest.raises(KeyboardInterrupt):
        run(kind(chunks()), tmp_path, interrupt)
    with pytest.raises(sle.FormatError, match=r"activations: number \d+ is another"):
        run(kind(2 * part for part in chunks()), tmp_path)
    resumed = run(kind(chunks()), tmp_path)
    assert torch.equal(resumed.sae.W_dec, whole.sae.W_dec)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([], sle.InvalidArgument, "there are no activations to train on"),
        ([torch.randn(5, 3).half()], sle.InvalidArgument, "float16, which overflows"),
        ([{"b": torch.randn(5, 3)}], sle.InvalidArgument, "mapping from a .* for b"),
        (
            [torch.randn(5, 3).to_sparse()],
            sle.InvalidArgument,
            "dense tensor; got one torch.sparse_coo",
        ),
        (
            [torch.empty(5, 3, device="meta")],
            sle.InvalidArgument,
            "dense tensor; got one without numbers",
        ),
        ([3], sle.InvalidArgument, "mapping from a to tensors .* got int"),
        ([torch.full((5, 3), torch.nan)], sle.NonFinite, "15 of 15 numbers at a"),
        (
            [torch.randn(25, 3)],
            sle.InvalidArgument,
            "buffer_tokens=40 must be at least twice the 25 tokens",
        ),
        ([torch.randn(9, 3)] * 4 + [torch.randn(9, 2)], sle.ShapeMismatch, "3 wide"),
    ],
)
def test_rejects_invalid_activations(items, error, message):
    stream = IterableStream(items, "a", buffer_tokens=40)
    with pytest.raises(error, match=message):
        drained(stream)


def test_rejects_float16():
    with pytest.raises(sle.InvalidArgument, match="float16 overflows on models of the"):
        IterableStream(chunks, "a", dtype="float16")
    with pytest.raises(sle.InvalidArgument, match="dtype must be float32 or bfloat16"):
        IterableStream(chunks, "a", dtype="float64")
