"""Held-out tokens come in several forms, and FVU is that of the finished SAE."""

import pytest
import small_training
import torch
from small_training import SITE, SITE_OUT, WIDTH, MemoryStream

import sae_lens_ext as sle
from sae_lens_ext.sae import FVU
from sae_lens_ext.training import Activations, IterableStream, TensorStream
from sae_lens_ext.training.evaluation import fvu_at, held_out_batch
from sae_lens_ext.training.normalization import Normalization

X = small_training.values(seed=1)


@pytest.mark.parametrize(
    "held_out",
    [X, Activations(X, SITE), {SITE: X, "other": X[:3]}, MemoryStream({SITE: X})],
    ids=["tensor", "activations", "mapping", "stream"],
)
def test_takes_some_tokens_of_any_form(held_out):
    batch = held_out_batch(held_out, {SITE: WIDTH}, 50)
    assert list(batch) == [SITE]
    assert batch[SITE].shape == (50, WIDTH)
    assert len(held_out_batch(X, {SITE: WIDTH}, 10**6)[SITE]) == len(X)


@pytest.mark.parametrize(
    "stream",
    [
        MemoryStream({SITE: X}),
        TensorStream(Activations(X, SITE)),
        IterableStream(lambda: iter(X.split(9)), SITE, buffer_tokens=40),
    ],
    ids=lambda stream: type(stream).__name__,
)
def test_a_stream_gives_the_same_tokens_to_every_training(stream):
    stream.next_batch(7)
    first = held_out_batch(stream, {SITE: WIDTH}, 50)[SITE]
    assert torch.equal(held_out_batch(stream, {SITE: WIDTH}, 50)[SITE], first)
    assert torch.equal(stream.next_batch(50)[SITE], first)


@pytest.mark.usefixtures("without_shape_checks")
def test_rejects_tokens_that_do_not_fit():
    both = {SITE: WIDTH, SITE_OUT: 10}
    with pytest.raises(sle.InvalidArgument, match=f"no activations of {SITE_OUT}"):
        held_out_batch(X, both, 50)
    with pytest.raises(sle.ShapeMismatch, match="held_out must have shapes"):
        held_out_batch({SITE: X, SITE_OUT: X[:, :9]}, both, 50)
    with pytest.raises(sle.ShapeMismatch, match="held_out must have shapes"):
        held_out_batch({SITE: X, SITE_OUT: X[:5, :10]}, both, 50)
    with pytest.raises(sle.InvalidArgument, match="held_out has no tokens"):
        held_out_batch(X[:0], {SITE: WIDTH}, 50)
    with pytest.raises(sle.InvalidArgument, match="all tokens of held_out are equal"):
        held_out_batch(X[:1], {SITE: WIDTH}, 50)
    with pytest.raises(sle.InvalidArgument, match="held_out must be an ord.*type li"):
        held_out_batch([[1.0, 2.0]], {SITE: WIDTH}, 50)
    with pytest.raises(
        sle.InvalidArgument, match=f"held_out must.*type int for {SITE}"
    ):
        held_out_batch({SITE: 3}, {SITE: WIDTH}, 50)
    with pytest.raises(sle.NonFinite, match=f"held_out holds NaN or inf.* at {SITE}"):
        held_out_batch(X / 0, {SITE: WIDTH}, 50)
    empty = MemoryStream({SITE: X}, ends_after=0)
    with pytest.raises(sle.InvalidArgument, match="held_out has no tokens"):
        held_out_batch(empty, {SITE: WIDTH}, 50)


def expected_fvu(sae, x, y, k):
    fvu = FVU()
    with torch.no_grad():
        fvu.update(y, sae(x, k))
    return fvu.value()


def test_fvu_of_an_sae_is_that_of_its_reconstructions(monkeypatch):
    monkeypatch.setattr("sae_lens_ext.training.evaluation._TOKENS_AT_ONCE", 100)
    trained = small_training.run().sae
    normalization = Normalization(SITE, None, MemoryStream().statistics())
    u, _ = normalization.pair({SITE: X}, "cpu")
    values = fvu_at(trained, u, None, [1, 2, 4])
    for k, value in values.items():
        assert value == pytest.approx(expected_fvu(trained, X, X, k), rel=1e-4)


def test_fvu_of_a_transcoder_counts_its_skip_connection():
    tables = small_training.transcoder_values()
    config = sle.SAEConfig(d_model=WIDTH, d_sae=16, k=4, d_out=10, skip_connection=True)
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.W_skip += 0.1
    statistics = MemoryStream(tables).statistics()
    normalization = Normalization(SITE, SITE_OUT, statistics)
    pair = normalization.pair(tables, "cpu")
    folded = normalization.finished(sae)
    for k, value in fvu_at(sae, *pair, [1, 4]).items():
        expected = expected_fvu(folded, tables[SITE], tables[SITE_OUT], k)
        assert value == pytest.approx(expected, rel=1e-4)


def test_fvu_of_equal_tokens_is_nan():
    sae = sle.SAE(sle.SAEConfig(d_model=3, d_sae=8, k=2))
    assert fvu_at(sae, torch.ones(4, 3), None, [1])[1] != 0
    assert torch.tensor(fvu_at(sae, torch.ones(4, 3), None, [1])[1]).isnan()
