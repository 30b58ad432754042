"""An iterable goes on where an earlier process stopped."""

import json

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.hosts import TokenBatch
from sae_lens_ext.text import Resumable

IDS = torch.tensor([[1, 2], [3, 4]])
TOKENS = TokenBatch(IDS, IDS > 0)


class Counting:
    """Says itself where it stands, as a streamed dataset does."""

    def __init__(self):
        self.start = 0
        self.epochs = []

    def __iter__(self):
        first, self.start = self.start, 0
        for number in range(first, 6):
            self.next = number + 1
            yield number

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.start = state["next"]

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


@pytest.mark.parametrize(
    "make", [lambda: list(range(6)), lambda: lambda: iter(range(6)), Counting]
)
@pytest.mark.parametrize("n_read", [0, 1, 4, 6])
def test_goes_on_from_any_position(make, n_read):
    first = Resumable(make(), "numbers")
    for _ in range(n_read):
        next(first)
    second = Resumable(make(), "numbers")
    second.restore(first.state())
    assert list(second) == list(range(n_read, 6))
    second.start(1)
    assert list(second) == list(range(6))


def test_an_object_with_a_state_is_not_read_again_and_knows_its_pass():
    first = Resumable(Counting(), "numbers")
    assert [next(first), next(first)] == [0, 1]
    state = first.state()
    assert (state["epoch"], state["read"], state["own"]) == (0, 2, {"next": 2})

    items = Counting()
    second = Resumable(items, "numbers")
    second.restore({**first.state(), "epoch": 3})
    assert set(items.epochs) == {3}
    assert next(second) == 2
    with pytest.raises(sle.FormatError, match="the first is another one than before"):
        Resumable(Counting(), "numbers").restore({**state, "first": "another"})


def test_an_iterator_can_be_read_once():
    numbers = Resumable(iter(range(3)), "numbers")
    assert list(numbers) == [0, 1, 2]
    numbers.start(1)
    with pytest.raises(sle.InvalidArgument, match="numbers can be read once only"):
        next(numbers)


def test_rejects_fewer_items_than_were_read():
    with pytest.raises(
        sle.FormatError, match="numbers: 5 were read before, and now there are 3"
    ):
        Resumable([1, None, 3], "numbers").restore({"epoch": 0, "read": 5})


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["a text", "another", "third"], ["a text", "one more", "third"]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 5]]),
        ([torch.ones(2, 3), torch.ones(2, 3)], [torch.ones(2, 3), torch.zeros(2, 3)]),
        ([{"text": "one"}, {"text": "two"}], [{"text": "one"}, {"text": "2"}]),
        ([TOKENS, TOKENS], [TOKENS, TOKENS[:1]]),
    ],
)
def test_rejects_other_items_than_were_read(before, now):
    first = Resumable(before, "items")
    next(first), next(first)
    with pytest.raises(sle.FormatError, match="items: number 2 is another one than be"):
        Resumable(now, "items").restore(first.state())
    Resumable(before, "items").restore(json.loads(json.dumps(first.state())))


def test_the_first_item_can_be_looked_at_without_being_taken():
    numbers = Resumable(iter([None, 1]), "numbers")
    assert numbers.peek() is None
    numbers.start(0)
    assert list(numbers) == [None, 1]
    assert numbers.state()["read"] == 2

    again = Resumable(iter([None, 1, 2]), "numbers")
    again.peek()
    again.restore(numbers.state())
    assert list(again) == [2]

    items = Resumable(Counting(), "numbers")
    assert items.peek() == 0
    items.restore({"epoch": 0, "read": 4, "own": {"next": 4}})
    assert list(items) == [4, 5]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (lambda: None, "the function must return an iterable; it returned .* NoneType"),
        (lambda path: [path], "the function must need no arguments .*'path'"),
        (torch.nn.Linear(2, 2), "must be an iterable, or a function .* type Linear"),
    ],
)
def test_rejects_functions_that_return_no_items(items, message):
    with pytest.raises(sle.InvalidArgument, match=f"numbers:? {message}"):
        next(Resumable(items, "numbers"))


def test_rejects_objects_that_cannot_be_read():
    with pytest.raises(sle.InvalidArgument, match="numbers must be an iterable.*int"):
        Resumable(3, "numbers")
