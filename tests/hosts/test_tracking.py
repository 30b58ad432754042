"""A tracker knows the run in progress, and keeps its settings from end to end."""

import pytest
import torch

from sae_lens_ext.hosts import PassTracker, as_batch
from sae_lens_ext.hosts.tracking import own_run

TOKENS = torch.tensor([[2, 5]])


class State:
    """A past that does not say how long it is."""


@pytest.fixture
def events():
    return []


@pytest.fixture
def tracker(events):
    """One whose settings are the number of runs so far."""
    return PassTracker(
        lambda: events.count("start"),
        lambda: events.append("start"),
        lambda: events.append("end"),
    )


def test_knows_the_run_in_progress(tracker):
    assert tracker.current().tokens is None
    tracker.begin()
    tracker.read({"input_ids": TOKENS, "past_key_values": [[torch.zeros(1, 1, 7, 1)]]})
    tracker.keep(TOKENS)
    run = tracker.current()
    assert run is tracker.current()
    assert run.tokens is TOKENS
    assert run.text(1, 2).positions.tolist() == [[7, 8]]


def test_settings_are_those_at_the_beginning_of_the_run(tracker):
    tracker.begin()
    assert tracker.current().settings == 0
    tracker.begin()
    assert tracker.current().settings == 1
    tracker.end(True)
    assert tracker.current().settings == 2, "a call of a part uses those of now"


def test_reports_a_whole_run_and_not_the_end_of_one_cut_short(tracker, events):
    tracker.begin()
    tracker.end(True)
    assert events == ["start", "end"]
    tracker.begin()
    tracker.end(False)
    assert events == ["start", "end", "start"]


@pytest.mark.parametrize(
    "next_run", [lambda tracker: tracker.begin(), lambda tracker: tracker.end(False)]
)
def test_forgets_the_run_before(tracker, next_run):
    tracker.begin()
    tracker.keep(TOKENS)
    next_run(tracker)
    run = tracker.current()
    assert run.tokens is None
    assert run.text(1, 2).positions.tolist() == [[0, 1]]


def test_tokens_that_no_run_reads_are_not_kept(tracker):
    tracker.keep(TOKENS)
    tracker.begin()
    assert tracker.current().tokens is None


def test_an_own_run_knows_its_padding_and_is_over_when_it_was_stopped(tracker):
    batch = as_batch(TOKENS)
    batch = type(batch)(batch.ids, torch.tensor([[True, False]]))
    with own_run(batch):
        tracker.begin()
        assert tracker.current().text(1, 2).positions.tolist() == [[0, -1]]
    # The end was not reported.
    assert tracker.current().text(1, 2).positions.tolist() == [[0, 1]]


def test_a_cache_is_remembered_from_run_to_run(tracker):
    state = State()
    mask = torch.tensor([[0, 1], [1, 1]])
    ids = TOKENS.expand(2, 2)
    tracker.begin()
    tracker.read({"input_ids": ids, "attention_mask": mask, "state": state})
    tracker.end(True)

    tracker.begin()
    tracker.read({"input_ids": ids[:, :1], "state": state})
    assert tracker.current().text(2, 1).positions.tolist() == [[1], [2]]
    tracker.end(True, {"state": state})
    tracker.begin()
    tracker.read({"input_ids": ids[:, :1], "state": state})
    assert tracker.current().text(2, 1).positions.tolist() == [[2], [3]]
    tracker.end(True)

    tracker.begin()
    tracker.read({"input_ids": ids, "state": State()})
    assert tracker.current().text(2, 2).positions.tolist() == [[0, 1], [0, 1]]


def test_a_cache_that_an_inner_model_made_is_remembered(tracker):
    """A bridge returns logits alone."""
    state = State()
    tracker.begin()
    tracker.read({"input_ids": TOKENS})
    tracker.made({"state": state})
    tracker.end(True, torch.zeros(1))
    tracker.begin()
    tracker.read({"input_ids": TOKENS[:, :1], "state": state})
    assert tracker.current().text(1, 1).positions.tolist() == [[2]]


def test_the_caches_of_a_whole_run_are_reported():
    caches = []
    tracker = PassTracker(lambda: None, at_caches=caches.append)
    states = [State(), State(), State()]
    tracker.begin()
    tracker.read({"input_ids": TOKENS, "state": states[0]})
    tracker.made({"state": states[1]})
    tracker.end(True, {"state": states[2]})
    assert caches == [[states[2], states[1], states[0]]]
