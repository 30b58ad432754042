"""Iterables that are read on from where an earlier process stopped."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import nn

from sae_lens_ext.errors import FormatError, InvalidArgument
from sae_lens_ext.text.sketch import is_same, sketch

# Items can be None.
_END = object()


class Resumable:
    """The items of an iterable, with a position that can be saved.

    >>> words = Resumable(["a", "b", "c"], "words")
    >>> next(words), words.state()
    ('a', {'epoch': 0, 'read': 1, 'last': 'd749929fe94b9a37'})
    >>> rest = Resumable(["a", "b", "c"], "words")
    >>> rest.restore(words.state())
    >>> list(rest)
    ['b', 'c']

    An object with ``state_dict`` and ``load_state_dict``, such as a streamed dataset of
    ``datasets`` or torchdata's ``StatefulDataLoader``, says itself where it stands. Any
    other iterable is read from its start, and what was read before is skipped; so is a
    streamed dataset that is shuffled, which does not restore its buffer. The state has
    a sketch of the item that was read last, or where nothing is read again of the first
    one, so that other items are noticed.

    Attributes:
        name: what the items are, for messages.
    """

    def __init__(self, items: Any, name: str) -> None:
        """Nothing is read yet.

        Args:
            items: an iterable, or a function without arguments that returns one.
            name: what the items are, for messages.

        Raises:
            InvalidArgument: neither.
        """
        # A dataset of datasets that is not streamed has no state of its own.
        if hasattr(items, "to_iterable_dataset"):
            items = items.to_iterable_dataset()
        if not isinstance(items, Iterable):
            _check_function(items, name)
        self.name = name
        self._items: Any = items
        self._is_stateful = (
            hasattr(items, "state_dict")
            and hasattr(items, "load_state_dict")
            and not _is_shuffled(items)
        )
        self._iterator: Iterator[Any] | None = None
        self._is_used = False
        self._epoch = 0
        self._n_read = 0
        self._first: Any = None
        self._last: Any = None
        # The first item, where it was looked at and not given yet.
        self._peeked: list[Any] = []

    def start(self, epoch: int) -> None:
        """Go back to the first item, for the pass of this number."""
        if self._peeked and not self._n_read and epoch == self._epoch:
            return
        self._peeked = []
        self._iterator = None
        self._epoch = epoch
        self._n_read = 0

    def __iter__(self) -> "Resumable":
        """Itself."""
        return self

    def __next__(self) -> Any:
        """The next item.

        Raises:
            InvalidArgument: a second pass over something that can be read once.
        """
        item = self._peeked.pop() if self._peeked else next(self._current())
        self._n_read += 1
        if not self._is_stateful:
            self._last = sketch(item)
        elif self._n_read == 1:
            self._first = sketch(item)
        return item

    def peek(self) -> Any:
        """The next item, which comes next all the same; None at the end."""
        if not self._peeked:
            self._peeked = list(islice(self._current(), 1))
        return self._peeked[0] if self._peeked else None

    def state(self) -> dict[str, Any]:
        """How far the items are read; JSON values."""
        state: dict[str, Any] = {"epoch": self._epoch, "read": self._n_read}
        if self._is_stateful and self._n_read:
            state["own"] = self._items.state_dict()
            state["first"] = self._first
        elif self._n_read:
            state["last"] = self._last
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            FormatError: there are fewer items now, or others.
        """
        self.start(state["epoch"])
        if not state["read"]:
            return
        own = state.get("own")
        if self._is_stateful and own is not None:
            self._set_epoch()
            self._first = state.get("first")
            if self._first is not None:
                self._check_first()
            self._items.load_state_dict(own)
            self._iterator = iter(self._items)
            self._peeked = []
            self._n_read = state["read"]
            return

        for n_before in range(state["read"]):
            if next(self, _END) is _END:
                raise FormatError(
                    f"{self.name}: {state['read']} were read before, and now there are "
                    f"{n_before}; give the same ones to go on"
                )
        if not is_same(state.get("last", self._last), self._last):
            raise FormatError(
                f"{self.name}: number {state['read']} is another one than before; give "
                "the same ones, in the same order, to go on"
            )

    def _check_first(self) -> None:
        """Check that a pass begins as before; what comes later is not read again."""
        rewind(self._items)
        first = next(iter(self._items), _END)
        if first is _END or not is_same(self._first, sketch(first)):
            raise FormatError(
                f"{self.name}: the first is another one than before; give the same "
                "ones, in the same order, to go on"
            )

    def _current(self) -> Iterator[Any]:
        if self._iterator is None:
            self._iterator = self._opened()
        return self._iterator

    def _opened(self) -> Iterator[Any]:
        self._set_epoch()
        rewind(self._items)
        items = self._items
        made = items if isinstance(items, Iterable) else items()
        if not isinstance(made, Iterable):
            raise InvalidArgument(
                f"{self.name}: the function must return an iterable; it returned an "
                f"object of type {type(made).__name__}"
            )
        opened = iter(made)
        # An iterator is its own, and cannot be read from its start again.
        if opened is items and self._is_used:
            raise InvalidArgument(
                f"{self.name} can be read once only; give a list, or a function that "
                "returns the iterator, to read them again"
            )
        self._is_used = True
        return opened

    def _set_epoch(self) -> None:
        # Datasets that are shuffled have another order then.
        set_epoch = getattr(self._items, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self._epoch)


def _check_function(items: Any, name: str) -> None:
    """Check that something may be a function that returns an iterable."""
    # A model, or an SAE, can be called as well.
    if not callable(items) or isinstance(items, nn.Module):
        raise InvalidArgument(
            f"{name} must be an iterable, or a function that returns one; got an "
            f"object of type {type(items).__name__}"
        )
    try:
        inspect.signature(items).bind()
    except TypeError as error:
        raise InvalidArgument(
            f"{name}: the function must need no arguments ({error})"
        ) from error
    # A function that does not say what it needs.
    except ValueError:
        return


def rewind(items: Any) -> None:
    """Let a streamed dataset of ``datasets`` begin at its first row.

    It begins where it was restored to, also when it is read once more.
    """
    if getattr(items, "_starting_state_dict", None) is not None:
        items.load_state_dict(None)


def _is_shuffled(items: Any) -> bool:
    """Whether a streamed dataset of ``datasets`` has a shuffle buffer.

    Its state leaves out what waits in the buffer.
    """
    part = getattr(items, "_ex_iterable", None)
    while part is not None:
        if "Shuffled" in type(part).__name__:
            return True
        part = getattr(part, "ex_iterable", None)
    return False
