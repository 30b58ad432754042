"""Several processes with the whole SAE each, and a share of every batch.

The stream is the same on all, and so is the batch. Every process computes the loss of
its rows; gradients, weighed by the numbers of rows, are added up. Weights, averages and
counters stay the same on all, because all do the same to them.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.objectives import WholeBatch
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.parallel.group import Group
from sae_lens_ext.training.parallel.ranks import Ranks, Share, numbers_of_rows

# Rows of a batch that are compared between processes, and how far their sums may differ
# where machines are of different kinds.
_COMPARED_ROWS = 8
_TOLERANCE = 1e-3


class DataRanks(Ranks):
    """The processes of one training, each with the whole SAE; see ``Ranks``."""

    def __init__(self, group: Group) -> None:
        """Share a training between the processes of a group."""
        self.rank = group.rank
        self.size = group.size
        self._shared_batch = SharedBatch(group)
        self.batch = self._shared_batch
        self.group = group

    def share(self, n_tokens: int) -> Share:
        """See ``Ranks.share``: the rows in order, evenly."""
        n_rows = numbers_of_rows(n_tokens, self.size)
        start = sum(n_rows[: self.rank])
        n = n_rows[self.rank]
        if not n:
            return Share(slice(0, 1), 0.0)
        return Share(slice(start, start + n), n / n_tokens)

    def begin_step(self, n_tokens: int) -> Share:
        """See ``Ranks.begin_step``."""
        share = self.share(n_tokens)
        self._shared_batch.weight = share.weight
        return share

    def backward(self, loss: Float[Tensor, ""], sae: SAE) -> Float[Tensor, ""]:
        """See ``Ranks.backward``."""
        weighed = loss * self._shared_batch.weight
        weighed.backward()
        self.add_gradients(sae)
        return self.group.add(weighed.detach())

    def add_gradients(self, sae: SAE) -> None:
        """Add up the gradients of the processes."""
        for parameter in sae.parameters():
            if parameter.grad is None:
                continue
            # Backends take memory without gaps; the encoder's is feature by feature.
            grad = parameter.grad
            self.group.add(grad if grad.is_contiguous() else grad.T)

    def by_token(
        self, values: Shaped[Tensor, " share"], n_tokens: int
    ) -> Shaped[Tensor, " batch"]:
        """See ``Ranks.by_token``."""
        n_rows = numbers_of_rows(n_tokens, self.size)
        # One that answers for a row of another process leaves it out.
        return self.group.gather_rows(values[: n_rows[self.rank]], n_rows)

    def active(self, is_active: Bool[Tensor, " d_sae"]) -> Bool[Tensor, " d_sae"]:
        """See ``Ranks.active``."""
        return self.group.maximum(is_active.to(torch.uint8)).bool()

    def total(self, numbers: list[float]) -> list[float]:
        """See ``Ranks.total``."""
        return self.group.add(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def largest(self, *numbers: int) -> list[int]:
        """See ``Ranks.largest``."""
        return self.group.maximum(torch.tensor(numbers, dtype=torch.int64)).tolist()

    def from_first(self, value: Any) -> Any:
        """See ``Ranks.from_first``."""
        return self.group.from_first(value)

    def tensors_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``Ranks.tensors_from_first``."""
        return {
            name: self.group.broadcast(tensor.contiguous().clone())
            for name, tensor in tensors.items()
        }

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[Any]:
        """See ``Ranks.exchanging``."""
        with self.group.exchanging():
            yield self.group.of_cpu

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """See ``Ranks.check_same``."""
        first = self.group.from_first(facts)
        is_other = json.dumps(first) != json.dumps(facts)
        n_others = sum(other for (other,) in self.group.counts([is_other]))
        if n_others:
            raise InvalidArgument(
                f"{n_others} of {self.size} processes were called with another config, "
                "stream, start or metric than the first; call train alike on all of "
                "them"
            )

    def check_batch(self, batch: Shaped[Tensor, "token d"]) -> None:
        """See ``Ranks.check_batch``."""
        lengths = self.group.counts([len(batch)])
        every = max(1, len(batch) // _COMPARED_ROWS)
        sums = batch[::every][:_COMPARED_ROWS].double().sum(dim=1).cpu()
        is_same = all(length == lengths[0] for length in lengths)
        if is_same:
            all_sums = self.group.gather(sums)
            bound = _TOLERANCE * (1 + batch[::every].double().abs().sum(dim=1).max())
            is_same = bool(((all_sums - sums).abs() <= bound.cpu()).all())
        # All of them raise it, the one included whose batch is like the first one's.
        if self.largest(not is_same)[0]:
            raise InvalidArgument(
                "the processes have different batches. Each of them reads the whole "
                "stream and takes its share, so make the stream alike on all: the same "
                "text, seeds and order, not a part of the text for each"
            )


class SharedBatch(WholeBatch):
    """A batch that the processes of a group share; see ``WholeBatch``.

    Attributes:
        weight: the part of the batch that this process has; it may be 0.
    """

    def __init__(self, group: Group) -> None:
        """Nothing is exchanged yet."""
        self.weight = 1.0
        self._group = group

    def mean(self, mean: Float[Tensor, "*parts"]) -> Float[Tensor, "*parts"]:
        """See ``WholeBatch.mean``."""
        of_all = self._group.add(mean.detach() * self.weight)
        return mean + (of_all - mean.detach())

    def total(self, number: int) -> int:
        """See ``WholeBatch.total``."""
        counted = number if self.weight else 0
        return int(self._group.add(torch.tensor(counted)))

    def union(self, numbers: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        """See ``WholeBatch.union``."""
        own = numbers if self.weight else numbers[:0]
        lengths = [length for (length,) in self._group.counts([len(own)])]
        return self._group.gather_rows(own, lengths)

    def smallest(self, number: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """See ``WholeBatch.smallest``."""
        return self._group.minimum(number.clone())
