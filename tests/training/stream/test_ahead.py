"""Chunks made in a thread are those of the source, in its order."""

import threading

import pytest
import torch

from sae_lens_ext.training.stream.ahead import Ahead
from sae_lens_ext.training.stream.chunks import Chunk


class Numbers:
    """Ten chunks of one token; remembers which thread made them."""

    def __init__(self, fails_at=None):
        self.facts = {}
        self.tokens_per_epoch = 10
        self.next = 0
        self.fails_at = fails_at
        self.threads = set()

    def start(self, epoch):
        self.next = 0

    def restore(self, after):
        self.next = after["next"]

    def next_chunk(self):
        self.threads.add(threading.current_thread().name)
        if self.next == self.fails_at:
            raise ValueError("broken")
        if self.next == 10:
            return None
        self.next += 1
        values = {"a": torch.tensor([[float(self.next)]])}
        return Chunk(values, 0, {"next": self.next})


def numbers_of(ahead):
    numbers = []
    while (chunk := ahead.next_chunk()) is not None:
        numbers.append(int(chunk.values["a"]))
    return numbers


@pytest.mark.parametrize("overlap", [False, True])
def test_the_order_is_that_of_the_source_from_any_place(overlap):
    source = Numbers()
    ahead = Ahead(source, None, overlap=overlap)
    ahead.start(0)
    ahead.expect(3, 1)
    assert numbers_of(ahead) == list(range(1, 11))
    assert ahead.next_chunk() is None
    ahead.start(1)
    third = [ahead.next_chunk() for _ in range(3)][-1]
    assert third is not None
    ahead.restore(third.after)
    assert numbers_of(ahead) == list(range(4, 11))
    ahead.close()
    in_thread = any(name.startswith("activations") for name in source.threads)
    assert in_thread == overlap


def test_no_chunk_is_made_while_paused():
    source = Numbers()
    ahead = Ahead(source, None, overlap=True)
    ahead.start(0)
    ahead.expect(4, 1)
    ahead.next_chunk()
    ahead.pause()
    # One was taken, and four are ready.
    assert source.next == 5
    ahead.close()


@pytest.mark.parametrize("overlap", [False, True])
def test_errors_of_the_source_reach_the_consumer_in_their_place(overlap):
    ahead = Ahead(Numbers(fails_at=2), None, overlap=overlap)
    ahead.start(0)
    assert [int(ahead.next_chunk().values["a"]) for _ in range(2)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        ahead.next_chunk()
    ahead.close()
