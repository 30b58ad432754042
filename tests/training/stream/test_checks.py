"""A stream of one's own is checked where a mistake would come out elsewhere."""

from dataclasses import replace

import pytest
import small_training
import torch
from small_training import CONFIG, SITE, MemoryStream

import sae_lens_ext as sle
from sae_lens_ext.training import train
from sae_lens_ext.training.stream import SiteStatistics, StreamState

pytestmark = pytest.mark.usefixtures("without_shape_checks")

MEAN = torch.zeros(12)


def run(stream, **options):
    return train(stream, CONFIG, progress=False, **options)


class Giving(MemoryStream):
    """Returns something else than its batches, and its constants."""

    def __init__(self, change=lambda batch: batch, statistics=None):
        super().__init__(n_tokens=small_training.N_TOKENS)
        self.change = change
        self.own = statistics

    def next_batch(self, n_tokens):
        return self.change(super().next_batch(n_tokens))

    def statistics(self):
        return super().statistics() if self.own is None else self.own


def test_numbers_of_python_are_constants_too():
    constants = SiteStatistics(MEAN.double(), 0.5, float("inf"))
    sae = run(Giving(statistics={SITE: constants})).sae
    assert sae.activation_scale == 0.5
    assert sae.activation_mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("statistics", "error", "message"),
    [
        ([], sle.InvalidArgument, "must return a mapping with SiteStatistics.*list"),
        ({"b": 1}, sle.InvalidArgument, f"for {SITE}; got a mapping with b"),
        ({SITE: (1, 2)}, sle.InvalidArgument, "got an object of type tuple"),
        (
            {SITE: SiteStatistics(MEAN[:5], 1.0, 1.0)},
            sle.ShapeMismatch,
            r"the mean of .* must be \[12\], .* has \[\[5\], \[\], \[\]\]",
        ),
        ({SITE: SiteStatistics(MEAN, MEAN, 1.0)}, sle.ShapeMismatch, "one number each"),
        (
            {SITE: SiteStatistics(MEAN, 0.0, 1.0)},
            sle.InvalidArgument,
            "positive; got 0",
        ),
        (
            {SITE: SiteStatistics(MEAN, float("nan"), 1.0)},
            sle.InvalidArgument,
            "positive; got nan",
        ),
        (
            {SITE: SiteStatistics(MEAN / 0, 1.0, 1.0)},
            sle.NonFinite,
            "in the stream's statistics is NaN",
        ),
    ],
)
def test_rejects_wrong_constants(statistics, error, message):
    with pytest.raises(error, match=message):
        run(Giving(statistics=statistics))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda batch: batch[SITE], sle.InvalidArgument, "mapping from .* type Tensor"),
        (lambda batch: {"b": batch[SITE]}, sle.InvalidArgument, "a mapping with b"),
        (lambda batch: {SITE: [1.0]}, sle.InvalidArgument, "return floats.* type list"),
        (lambda batch: {SITE: batch[SITE].int()}, sle.InvalidArgument, "torch.int32"),
        (
            lambda batch: {SITE: batch[SITE][:, :5]},
            sle.ShapeMismatch,
            r"must return \[token, 12\] for .*; got \[\d+, 5\]",
        ),
        (lambda batch: {SITE: batch[SITE][0]}, sle.ShapeMismatch, r"got \[12\]"),
        (
            lambda batch: {SITE: batch[SITE] / 0},
            sle.NonFinite,
            "the stream gave NaN or infinity in the batch of step 1",
        ),
    ],
)
def test_rejects_wrong_batches(change, error, message):
    with pytest.raises(error, match=message):
        run(Giving(change))
    in_held_out = "held_out holds NaN" if error is sle.NonFinite else message
    with pytest.raises(error, match=in_held_out):
        run(MemoryStream(n_tokens=640), held_out=Giving(change))


def test_a_batch_has_at_most_the_tokens_that_are_asked_for():
    stream = Giving(lambda batch: {SITE: batch[SITE].repeat(2, 1)})
    with pytest.raises(sle.ShapeMismatch, match="at most the 32 tokens .* got 64"):
        run(stream)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"position": 3}, "must return StreamState.*got a mapping with position"),
        (StreamState({}, {"buffer": [1.0]}), "must return StreamState"),
        (StreamState({"when": {1}}, {}), "facts of the stream's state.* must be JSON"),
    ],
)
def test_rejects_a_state_that_no_checkpoint_can_hold(state, message, tmp_path):
    stream = MemoryStream(n_tokens=640)
    stream.state = lambda: state
    with pytest.raises(sle.InvalidArgument, match=message):
        train(stream, CONFIG, tmp_path, progress=False)


def test_names_what_a_stream_lacks():
    class Half:
        sites = (SITE,)

        def next_batch(self, n_tokens):
            return {}

    with pytest.raises(
        sle.InvalidArgument,
        match="Half lacks model_name, excludes_special_tokens, n_tokens, counts, "
        "width, statistics, state, restore",
    ):
        run(Half())
    stream = MemoryStream(n_tokens=640)
    stream.state = None
    with pytest.raises(sle.InvalidArgument, match="MemoryStream lacks state$"):
        run(stream)


def test_both_sites_of_a_transcoder_have_the_same_tokens():
    class Uneven(MemoryStream):
        def next_batch(self, n_tokens):
            batch = super().next_batch(n_tokens)
            return batch | {small_training.SITE_OUT: batch[small_training.SITE_OUT][1:]}

    stream = Uneven(small_training.transcoder_values(), n_tokens=640)
    config = replace(CONFIG, hook_name=SITE, hook_name_out=small_training.SITE_OUT)
    with pytest.raises(
        sle.ShapeMismatch, match="same tokens at every site; got 31 and"
    ):
        train(stream, config, progress=False)
