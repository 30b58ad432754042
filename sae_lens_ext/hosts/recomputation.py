"""Which run a backward pass computes again.

With activation checkpointing a backward pass runs blocks a second time. By then another
run may have been made, so the run that is repeated is recognised by what a block reads:
the checkpoint keeps that tensor, so its storage is the same one.
"""

from collections import deque
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from sae_lens_ext.kernels import holds_numbers

T = TypeVar("T")

# Of runs that read one and the same tensor, such as embeddings that the user made.
_MOST_RUNS_PER_TENSOR = 64


def in_backward() -> bool:
    """Whether a backward pass is in progress in this thread."""
    return backward_id() != -1


def backward_id() -> int:
    """The number of the backward pass in progress; -1 for none."""
    return torch._C._current_graph_task_id()


class RunsByInput(Generic[T]):
    """Runs by the tensors that their modules read.

    Tensors are not kept alive by it, and runs can be forgotten with them.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._runs: dict[int, tuple[StorageWeakRef, deque[T]]] = {}
        self._task = -1
        self._run: T | None = None
        self._modules: set[int] = set()

    def record(self, tensor: Tensor, run: T) -> None:
        """Remember that a run read a tensor which a backward pass may read again."""
        # A checkpoint runs its forward pass without gradients, from tensors with them.
        if not torch.is_grad_enabled() and not tensor.requires_grad:
            return
        reference = _storage(tensor)
        if reference is None:
            return
        _, runs = self._runs.setdefault(
            reference.cdata, (reference, deque(maxlen=_MOST_RUNS_PER_TENSOR))
        )
        if run not in runs:
            runs.append(run)

    def recall(self, tensor: Tensor, module: object) -> T | None:
        """The run that a backward pass repeats now that a module reads ``tensor``.

        None where that is not known.
        """
        task = backward_id()
        if task != self._task:
            self._run = None
        self._task = task

        reference = _storage(tensor)
        entry = None if reference is None else self._runs.get(reference.cdata)
        if entry is None or entry[0].expired():
            # A module in the middle of what is repeated.
            return self._run

        runs = entry[1]
        is_same_repetition = self._run in runs and id(module) not in self._modules
        if is_same_repetition:
            self._modules.add(id(module))
            return self._run

        # A backward pass repeats runs in the reverse of their order.
        self._run = runs[-1]
        runs.rotate(1)
        self._modules = {id(module)}
        return self._run

    @property
    def repeated(self) -> T | None:
        """The run that the backward pass in progress repeats; None if not known."""
        return self._run if in_backward() and backward_id() == self._task else None

    def forget_the_dead(self) -> None:
        """Forget the tensors that nothing holds any more."""
        dead = [key for key, (storage, _) in self._runs.items() if storage.expired()]
        for key in dead:
            del self._runs[key]

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: on another machine there are other tensors."""
        return RunsByInput().__dict__


def _storage(tensor: Tensor) -> StorageWeakRef | None:
    """A weak reference to a tensor's storage; None where it has none of its own."""
    if not holds_numbers(tensor):
        return None
    try:
        return StorageWeakRef(tensor.untyped_storage())
    # Wrappers around tensors, as of torch.func, have no storage.
    except (NotImplementedError, RuntimeError):
        return None
