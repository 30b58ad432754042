"""Values of one run, in the order in which it computes them, for later runs."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from sae_lens_ext.errors import UnsupportedHost


@dataclass(frozen=True)
class _Entry:
    """What one function computed.

    Attributes:
        name: of the function.
        kind: ``"attention"`` or ``"norms"``.
        tensors: what is held.
    """

    name: str
    kind: str
    tensors: tuple[Tensor, ...]


class Tape:
    """Records what a run computes, or gives back what an earlier one did."""

    def __init__(
        self,
        entries: list[_Entry] | None = None,
        rows: Int[Tensor, " rows"] | None = None,
        n_rows: int | None = None,
    ) -> None:
        """A tape to record on; with entries, one to replay.

        Args:
            entries: what another tape has recorded.
            rows: the rows of the recorded run to replay; None for all.
            n_rows: how many rows the recorded run has; None if that is not known, and
                the first axis of everything is that of rows.
        """
        self._is_recording = entries is None
        self._entries = [] if entries is None else entries
        self._rows = rows
        self._n_rows = n_rows
        self._n_read = 0

    def replayed(self, rows: Int[Tensor, " rows"] | None) -> "Tape":
        """A tape that replays what this one has recorded, for these rows."""
        return Tape(self._entries, rows, self._n_rows)

    def n_held(self, kind: str) -> int:
        """How many values of a kind were recorded so far."""
        return sum(entry.kind == kind for entry in self._entries)

    def held(
        self,
        name: str,
        kind: str,
        compute: Callable[[], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """The next values, without a gradient.

        Args:
            name: of the function that computes them.
            kind: what they are.
            compute: computes them; called while recording only.

        Raises:
            UnsupportedHost: this run computes other things than the recorded one.
        """
        if self._is_recording:
            tensors = tuple(tensor.detach() for tensor in compute())
            self._entries.append(_Entry(name, kind, tensors))
            return tensors

        if self._n_read == len(self._entries):
            raise UnsupportedHost(
                f"a run computed {name} once more often than the run whose values it "
                "is to keep; freeze needs a model that computes the same steps in "
                "every run"
            )
        entry = self._entries[self._n_read]
        self._n_read += 1
        if entry.name != name:
            raise UnsupportedHost(
                f"a run computed {name} where the run whose values it is to keep "
                f"computed {entry.name}; freeze needs a model that computes the same "
                "steps in every run"
            )
        return tuple(self._of_rows(tensor, kind) for tensor in entry.tensors)

    def _of_rows(self, tensor: Tensor, kind: str) -> Tensor:
        # A number of the whole model, such as the root of a width, has no rows.
        if self._rows is None or not tensor.ndim:
            return tensor
        if tensor.shape[0] == 1:
            # Arithmetic broadcasts a denominator; a kernel of attention may not.
            n_rows = 1 if kind == "norms" else len(self._rows)
            return tensor.expand(n_rows, *tensor.shape[1:])
        rows = self._rows.to(tensor.device)
        n_rows = self._n_rows or tensor.shape[0]
        # Some models put all rows and positions on one axis.
        if tensor.shape[0] == n_rows or tensor.shape[0] % n_rows:
            return tensor[rows]
        return tensor.unflatten(0, (n_rows, -1))[rows].flatten(0, 1)
