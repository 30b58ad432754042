"""Exchanges between the processes of a training, by torch.distributed.

The groups are made for the training and end with it, so that a process that ends by an
error does not keep the others waiting.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sae_lens_ext.errors import RankLost
from sae_lens_ext.training.parallel.roll_call import RollCall

# A process that is gone closes its connections, which is noticed at once. This only
# bounds how long one may work on its own, at an evaluation or on a text that is slow.
_LONGEST_WAIT = timedelta(hours=2)
# The name since torch 2.13, and the one before.
_all_gather: Any = getattr(dist, "all_gather_single", None)
if _all_gather is None:
    _all_gather = dist.all_gather_into_tensor


class Group:
    """All processes of a training.

    Every method is collective, and raises ``RankLost`` if a process is gone.

    Attributes:
        rank: the number of this process.
        size: how many there are.
        device: where this process trains.
        of_device: the process group for tensors on the device.
        of_cpu: the process group for tensors on the CPU.
    """

    def __init__(self, device: torch.device, store: Any) -> None:
        """Make groups of the processes that torch.distributed knows.

        Args:
            device: where this process trains.
            store: a store that all of them reach, or None.
        """
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.device = device
        self._roll_call = RollCall(store, self.rank, self.size)
        self.of_cpu: Any = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        self.of_device: Any = self.of_cpu
        if device.type == "cuda":
            self.of_device = dist.new_group(backend="nccl", timeout=_LONGEST_WAIT)

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Raise errors of an exchange as ``RankLost``, with who is gone."""
        try:
            yield
        # Backends raise RuntimeError, or a class of torch.distributed below it.
        except RuntimeError as error:
            if isinstance(error, RankLost | torch.OutOfMemoryError):
                raise
            raise RankLost(self._roll_call.missing()) from error

    def leave(self, error: BaseException) -> None:
        """Tell the others why this process ends; not collective."""
        if not isinstance(error, RankLost):
            self._roll_call.leave(error)

    def close(self, *, is_broken: bool) -> None:
        """End the groups; the others' exchanges fail, if they are in one."""
        groups = {id(group): group for group in (self.of_device, self.of_cpu)}
        for group in groups.values():
            # The end of a group of NCCL waits for its work, which may never be done.
            if is_broken and self.device.type == "cuda" and group is self.of_device:
                group.abort()
            dist.destroy_process_group(group)
        del self.of_device, self.of_cpu

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def maximum(self, tensor: Tensor) -> Tensor:
        """The largest over the processes, in place."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def minimum(self, tensor: Tensor) -> Tensor:
        """The smallest over the processes, in place."""
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, which have one shape: ``[size, ...]``."""
        gathered = tensor.new_empty(self.size, tensor.numel())
        source = tensor.contiguous().view(-1)
        if source.numel():
            with self.exchanging():
                # As bytes, which every backend moves.
                _all_gather(
                    gathered.view(-1).view(torch.uint8),
                    source.view(torch.uint8),
                    group=self._of(tensor),
                )
        return gathered.view(self.size, *tensor.shape)

    def gather_rows(self, rows: Tensor, n_rows: Sequence[int]) -> Tensor:
        """The rows of all processes in one tensor.

        Args:
            rows: ``[n, ...]``.
            n_rows: the n of every process.
        """
        widest = max(n_rows)
        if not widest:
            return rows
        padded = rows.new_zeros(widest, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = self.gather(padded)
        parts = [part[:n] for part, n in zip(gathered, n_rows, strict=True)]
        return torch.cat(parts)

    def send_rows(
        self, rows: Tensor, n_sent: Sequence[int], n_received: Sequence[int]
    ) -> Tensor:
        """Rows of other processes, in the order of their ranks.

        Args:
            rows: ``[n, ...]``, for rank 0 first, then for rank 1.
            n_sent: how many of them are for every process.
            n_received: how many come from every process.
        """
        received = rows.new_empty(sum(n_received), *rows.shape[1:])
        with self.exchanging():
            dist.all_to_all_single(
                received,
                rows.contiguous(),
                list(n_received),
                list(n_sent),
                group=self._of(rows),
            )
        return received

    def counts(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of every process, a list each."""
        return self.gather(torch.tensor(list(numbers))).tolist()

    def from_first(self, value: Any) -> Any:
        """A JSON value of the first process."""
        text = torch.frombuffer(
            bytearray(json.dumps(value).encode()), dtype=torch.uint8
        )
        length = self.counts([len(text)])[0][0]
        if self.rank:
            text = torch.empty(length, dtype=torch.uint8)
        return json.loads(bytes(self.broadcast(text).tolist()))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, in place."""
        with self.exchanging():
            dist.broadcast(tensor, group=self._of(tensor), group_src=0)
        return tensor

    def _reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        with self.exchanging():
            dist.all_reduce(tensor, operation, group=self._of(tensor))
        return tensor

    def _of(self, tensor: Tensor) -> Any:
        return self.of_cpu if tensor.device.type == "cpu" else self.of_device
