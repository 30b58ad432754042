"""The loss of every step, and the stop where one is not a number."""

import math
from array import array

import torch
from torch import Tensor

from sae_lens_ext.errors import NonFinite

# Reading a number off a GPU waits for it, so that is done for several steps at once.
_STEPS_AT_ONCE = 20


class Losses:
    """The losses of all steps so far."""

    def __init__(self, *, advice: str = "", device: torch.device | str = "cpu") -> None:
        """Start before the first step.

        Args:
            advice: what the error about a loss that is not finite ends in.
            device: where the losses come from.
        """
        self._advice = advice
        # 8 bytes each: there may be millions.
        self._losses = array("d")
        self._pending: list[Tensor] = []
        is_on_cpu = torch.device(device).type == "cpu"
        self._steps_at_once = 1 if is_on_cpu else _STEPS_AT_ONCE

    def __len__(self) -> int:
        """The number of steps so far."""
        return len(self._losses) + len(self._pending)

    def add(self, loss: Tensor) -> None:
        """Add the loss of a step.

        Raises:
            NonFinite: this loss, or on a GPU one of the last few, is NaN or infinite.
        """
        self._pending.append(loss)
        if len(self._pending) >= self._steps_at_once:
            self.settle()

    def settle(self) -> None:
        """Read the losses that are still on the device.

        Raises:
            NonFinite: one of them is NaN or infinite.
        """
        if not self._pending:
            return
        values = torch.stack(self._pending).tolist()
        self._pending.clear()
        for value in values:
            self._losses.append(value)
            if not math.isfinite(value):
                n = len(self._losses)
                raise NonFinite(f"the loss became {value} at step {n}{self._advice}")

    def mean_of_last(self, n: int) -> float:
        """The mean of the last ``n`` losses, or of all where there are fewer."""
        self.settle()
        last = self._losses[-n:]
        return math.fsum(last) / len(last)

    def tolist(self) -> list[float]:
        """All losses."""
        self.settle()
        return self._losses.tolist()

    def tensor(self) -> Tensor:
        """All losses, in float64."""
        return torch.tensor(self.tolist(), dtype=torch.float64)

    def restore(self, losses: Tensor) -> None:
        """Go on after other losses."""
        self._losses = array("d", losses.tolist())
        self._pending.clear()
