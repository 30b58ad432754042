"""A model's activations come once per pass, shuffled, from any host."""

import pytest
import tiny
import torch
from toy import OTHER_SITE, SITE, Toy, WordTokenizer, drained, ids_of, rows, same

import sae_lens_ext as sle
from sae_lens_ext.training import (
    ActivationStream,
    ModelStream,
    TextRows,
    collect_activations,
)

ALL_IDS = list(range(3, 363))


def stream_of(tokens=None, sites=SITE, model=None, **options):
    options = {"batch_size": 4, "buffer_tokens": 100, **options}
    tokens = rows() if tokens is None else tokens
    return ModelStream(model or Toy(), tokens, sites, **options)


def text():
    words = [" ".join(map(str, row[1:])) for row in rows().tolist()]
    return TextRows(words, WordTokenizer(), context=10)


def test_every_pass_gives_every_token_once_and_special_ones_never():
    stream = stream_of(epochs=3)
    assert isinstance(stream, ActivationStream)
    assert stream.n_tokens == 3 * 360
    ids = ids_of(torch.cat(drained(stream)))
    passes = [ids[start : start + 360] for start in range(0, 1080, 360)]
    assert all(sorted(part) == ALL_IDS for part in passes)
    assert passes[0] != passes[1] != passes[2]
    assert stream.counts == {"given": 1080, "special": 120, "outliers": 0}
    assert stream.excludes_special_tokens


def test_neighbours_in_the_text_are_spread_over_the_buffer():
    ids = torch.tensor(ids_of(torch.cat(drained(stream_of(text())))))
    places = ids.argsort()
    distances = (places[1:] - places[:-1]).abs().float()
    # Tokens wait for some 50 others to go, half a buffer, on average.
    assert distances.median() > 20


def test_padding_is_never_given():
    ids = rows(20, 10)
    mask = torch.ones_like(ids)
    mask[::2, -3:] = 0
    mask[1::2, :2] = 0
    encoding = {"input_ids": ids, "attention_mask": mask}
    given = ids_of(torch.cat(drained(stream_of(encoding))))
    # The second half of the rows lack their BOS, which stands in the padding.
    expected = ids[(mask == 1) & (ids > 2)].tolist()
    assert sorted(given) == sorted(expected)


def test_one_pass_of_the_model_serves_several_sites():
    model = Toy()
    stream = stream_of(sites=[OTHER_SITE, SITE], model=model)
    batch = stream.next_batch(30)
    assert torch.equal(batch[OTHER_SITE][:, 0], 2 * batch[SITE][:, 0])
    assert (stream.width(SITE), stream.width(OTHER_SITE)) == (6, 8)
    drained(stream)
    assert model.n_passes == 10


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("make_tokens", [rows, text], ids=["tensor", "text"])
def test_streams_that_are_made_alike_give_equal_batches(make_tokens, overlap):
    first = stream_of(make_tokens(), epochs=2)
    second = stream_of(make_tokens(), epochs=2, overlap=overlap)
    assert same(drained(first, 37), drained(second, 37))
    second.close()


@pytest.mark.parametrize("n_batches", [0, 1, 5, 9, 10, 14, 20])
@pytest.mark.parametrize("make_tokens", [rows, text], ids=["tensor", "text"])
def test_goes_on_from_any_state_bit_for_bit(make_tokens, n_batches):
    first = stream_of(make_tokens(), epochs=2, seed=4, overlap=True)
    for _ in range(n_batches):
        first.next_batch(37)
    second = stream_of(make_tokens(), epochs=2, seed=4)
    second.restore(first.state())
    assert same(drained(first, 37), drained(second, 37))
    assert first.counts == second.counts
    first.close()


def test_ends_after_n_tokens_without_more_passes_than_it_takes():
    model = Toy()
    stream = stream_of(text(), model=model, n_tokens=500)
    assert stream.n_tokens == 500
    ids = ids_of(torch.cat(drained(stream)))
    assert sorted(ids[:360]) == ALL_IDS
    assert len(ids) == 500
    # 10 passes over the whole text, and those for the 140 tokens that were missing.
    assert model.n_passes == 14


def test_statistics_are_an_oracle_s_and_their_tokens_are_given_too():
    stream = stream_of(rows(), buffer_tokens=10_000)
    constants = stream.statistics()[SITE]
    collected = collect_activations(Toy(), rows(), SITE, progress=False)
    clipped = collected.outliers_clipped()
    mean, scale = clipped.mean_and_scale()
    torch.testing.assert_close(constants.mean, mean)
    torch.testing.assert_close(constants.scale, scale)
    assert sorted(ids_of(torch.cat(drained(stream)))) == ALL_IDS


def test_bfloat16_takes_half_the_space():
    batch = stream_of(dtype="bfloat16").next_batch(10)[SITE]
    assert batch.dtype == torch.bfloat16


@pytest.mark.parametrize("host", tiny.HOSTS)
def test_every_host_gives_the_activations_that_collect_activations_does(host):
    model = tiny.hosted(host, "gpt2")
    site = "blocks.1.hook_resid_post"
    tokens = tiny.tokens(rows=6, length=7)
    stream = ModelStream(model, tokens, site, buffer_tokens=200)
    batch = stream.next_batch(1000)[site]
    collected = collect_activations(model, tokens, site, progress=False).values
    assert stream.width(site) == 32
    assert len(batch) == len(collected) == 36
    torch.testing.assert_close(
        batch[batch[:, 0].argsort()], collected[collected[:, 0].argsort()]
    )


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": "nowhere"}, sle.UnknownSite, "nowhere"),
        ({"dtype": "float16"}, sle.InvalidArgument, "float16 overflows on models"),
        ({"batch_size": 0}, sle.InvalidArgument, "batch_size must be a positive"),
        ({"buffer_tokens": 1}, sle.InvalidArgument, "buffer_tokens must be an integer"),
        ({"seed": -1}, sle.InvalidArgument, "seed must be a non-negative integer"),
        ({"overlap": 2}, sle.InvalidArgument, "overlap must be True or False"),
        ({"tokens": 3.5}, sle.InvalidArgument, "tokens must be ids"),
    ],
)
def test_rejects_invalid_options(options, error, message):
    with pytest.raises(error, match=message):
        stream_of(**options)


def test_rejects_tokens_that_are_all_special_and_batches_of_nothing():
    with pytest.raises(sle.InvalidArgument, match="no activations to train on"):
        stream_of(torch.full((3, 4), 2)).next_batch(3)
    with pytest.raises(sle.InvalidArgument, match="n_tokens must be a positive"):
        stream_of().next_batch(0)
    with pytest.raises(sle.InvalidArgument, match=f"the sites {SITE}; got 'x'"):
        stream_of().width("x")


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"buffer_tokens": 200}, "buffer_tokens is 100 there and 200 here"),
        ({"dtype": "bfloat16"}, "dtype is 'float32' there and 'bfloat16' here"),
        ({"tokens": rows() + 1}, "text: ids is"),
        ({"model": Toy(500)}, "model: parameters is"),
    ],
)
def test_rejects_states_of_other_streams(options, change):
    state = stream_of(epochs=2).state()
    stream_of(epochs=9).restore(state)
    with pytest.raises(sle.FormatError, match=change):
        stream_of(**options).restore(state)
