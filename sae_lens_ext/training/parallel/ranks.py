"""The processes that share a training, by what the training asks of them.

``Ranks`` is one process, which does everything: nothing is exchanged, and no bit
differs from a training that knows of no others. ``DataRanks`` and ``DictionaryRanks``
answer for several. A process is called by its rank, a number from 0 on.

What is said to be collective has to be called by all processes, in one order.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sae_lens_ext.objectives import WholeBatch
from sae_lens_ext.sae import SAE, SparseCode


class Share(NamedTuple):
    """The tokens of a batch that a process answers for."""

    rows: slice
    """Where they are in the batch; at least one."""
    weight: float
    """Their part of all tokens; the weights of all processes add up to 1.

    It is 0 where there are fewer tokens than processes. The row is another process's
    then, so that every process takes part in every exchange.
    """

    def of(self, batch: Tensor) -> Tensor:
        """The tokens of this process."""
        return batch[self.rows]


class Ranks:
    """The processes of one training: this one alone.

    Attributes:
        rank: the number of this process.
        size: how many there are.
        has_parts: whether each has a part of the weights.
        batch: the batch of the step, for objectives.
    """

    rank: int = 0
    size: int = 1
    has_parts: bool = False
    batch: WholeBatch = WholeBatch()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints, logs and writes."""
        return self.rank == 0

    def share(self, n_tokens: int) -> Share:
        """The share of this process in a batch of so many tokens."""
        return Share(slice(0, n_tokens), 1.0)

    def begin_step(self, n_tokens: int) -> Share:
        """The same, for the batch of the step that begins."""
        return self.share(n_tokens)

    def divided(self, sae: SAE, device: torch.device) -> SAE:
        """What this process trains of a new SAE, which is the same on all.

        Args:
            sae: on the CPU.
            device: where this process trains.
        """
        return sae.to(device)

    def whole(self, sae: SAE) -> SAE:
        """The whole SAE from what ``divided`` gave; collective."""
        return sae

    def seen(self, sae: SAE) -> SAE:
        """What ``divided`` gave, as an SAE for the tokens of this process.

        All processes encode in it the same number of times, at the same k.
        """
        return sae

    def code_of(self, seen: SAE, code: SparseCode) -> SparseCode:
        """A code that ``seen`` gave, with the numbers that features have in all."""
        return code

    def features(self, d_sae: int) -> slice:
        """The features whose weights this process has."""
        return slice(0, d_sae)

    def most_rows(self, d_sae: int, n_tokens: int, k: int) -> int:
        """The most decoder rows that this process gets of the others in a step."""
        return 0

    def backward(self, loss: Float[Tensor, ""], sae: SAE) -> Float[Tensor, ""]:
        """The gradients of a loss of the whole batch; collective.

        Args:
            loss: of the tokens of this process.
            sae: what ``divided`` gave.

        Returns:
            The loss of the whole batch, detached.
        """
        loss.backward()
        return loss.detach()

    def clip_gradients(self, sae: SAE, largest_norm: float) -> None:
        """Scale all gradients down to a norm together; collective."""
        torch.nn.utils.clip_grad_norm_(sae.parameters(), largest_norm)

    def by_token(
        self, values: Shaped[Tensor, " share"], n_tokens: int
    ) -> Shaped[Tensor, " batch"]:
        """The values of all tokens of a batch, from those of the shares; collective."""
        return values

    def by_feature(self, values: Shaped[Tensor, " slice"]) -> Shaped[Tensor, " d_sae"]:
        """Numbers of all features, from those of ``features``; collective."""
        return values

    def active(self, is_active: Bool[Tensor, " d_sae"]) -> Bool[Tensor, " d_sae"]:
        """Which features are active on any token; collective."""
        return is_active

    def total(self, numbers: list[float]) -> list[float]:
        """The sums of numbers over the processes, in float64; collective."""
        return numbers

    def largest(self, *numbers: int) -> list[int]:
        """The largest of every number over the processes; collective."""
        return list(numbers)

    def from_first(self, value: Any) -> Any:
        """A JSON value of the first process; collective."""
        return value

    def tensors_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the first process, on the CPU; collective."""
        return tensors

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Check that all processes were called for the same training; collective.

        Args:
            facts: of the training; JSON values.

        Raises:
            InvalidArgument: they were not.
        """

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[Any]:
        """Raise errors of exchanges that others do as ``RankLost``.

        Yields the process group to use, for tensors on the CPU.
        """
        yield None

    def check_batch(self, batch: Shaped[Tensor, "token d"]) -> None:
        """Check that all processes have the same tokens; collective.

        Raises:
            InvalidArgument: they do not.
        """


ALONE = Ranks()
"""One process."""


def local(tensor: Any) -> Tensor:
    """The part of a tensor that is here: a DTensor's local one, or all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_distributed(tensor: Tensor) -> bool:
    """Whether it is a DTensor; without importing them."""
    return hasattr(tensor, "to_local")


def numbers_of_rows(n_rows: int, size: int) -> list[int]:
    """How many rows every process gets: as torch divides a tensor, evenly.

    >>> numbers_of_rows(7, 3), numbers_of_rows(1, 2)
    ([3, 2, 2], [1, 0])
    """
    smallest, n_more = divmod(n_rows, size)
    return [smallest + (rank < n_more) for rank in range(size)]


@torch.no_grad()
def copy_into(target: Any, source: Tensor) -> None:
    """Copy a whole tensor into another, which may be a DTensor: its part, then."""
    part = source
    if is_distributed(target) and target.placements[0].is_shard():
        mesh = target.device_mesh
        parts = source.chunk(mesh.size(), dim=target.placements[0].dim)
        part = parts[mesh.get_local_rank()]
    local(target).copy_(part)
