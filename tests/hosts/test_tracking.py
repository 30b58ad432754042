"""A tracker knows the tokens and positions of the run in progress, and of no other."""

import pytest
import torch

from sae_lens_ext.hosts import PassTracker

TOKENS = torch.tensor([[2, 5]])


@pytest.fixture
def events():
    return []


@pytest.fixture
def tracker(events):
    return PassTracker(lambda: events.append("start"), lambda: events.append("end"))


def test_knows_the_run_in_progress(tracker):
    assert (tracker.tokens, tracker.start) == (None, 0)
    tracker.begin(7)
    tracker.keep(TOKENS)
    assert tracker.tokens is TOKENS
    assert tracker.start == 7


def test_reports_a_whole_run_and_not_the_end_of_one_cut_short(tracker, events):
    tracker.begin(0)
    tracker.end(True)
    assert events == ["start", "end"]
    tracker.begin(0)
    tracker.end(False)
    assert events == ["start", "end", "start"]


@pytest.mark.parametrize(
    "next_run", [lambda tracker: tracker.begin(0), lambda tracker: tracker.end(False)]
)
def test_forgets_the_tokens_of_the_run_before(tracker, next_run):
    tracker.begin(3)
    tracker.keep(TOKENS)
    next_run(tracker)
    assert (tracker.tokens, tracker.start) == (None, 0)
