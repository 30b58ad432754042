"""Ctrl-C, and the signal by which clusters end a job, between two steps.

In the middle of a step weights and averages do not belong together, so the run stops
after it, writes a checkpoint, and only then ends as the signal would have ended it. A
second Ctrl-C does not wait.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from sae_lens_ext.training.parallel import Ranks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context that holds back the first signal to end.

    ::

        with Interruption() as interruption:
            while not interruption.signal:
                step()
        interruption.deliver()

    Attributes:
        signal: the signal that came; None so far.
    """

    def __init__(self) -> None:
        """No signal so far."""
        self.signal: int | None = None
        self._handlers: dict[int, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> "Interruption":
        """Take the signals over; in the main thread alone, which gets them."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _SIGNALS:
            # One that is ignored, as in a job behind nohup, stays so.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        self._restore()

    def agree(self, ranks: Ranks, *numbers: int) -> list[int]:
        """Take a signal over that another process got; collective.

        All processes stop after the same step, and end by the same signal.

        Args:
            ranks: the processes that share the training.
            numbers: what else they compare, in the same exchange.

        Returns:
            The largest of every number over the processes.
        """
        signal_number, *largest = ranks.largest(self.signal or 0, *numbers)
        self.signal = signal_number or None
        return largest

    def deliver(self) -> None:
        """End the process, or raise KeyboardInterrupt, if a signal came."""
        if self.signal is not None:
            signal.raise_signal(self.signal)
            # A handler of somebody else's may only have taken a note.
            raise KeyboardInterrupt

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            # None stands for a handler that was not installed from Python.
            if handler is not None:
                signal.signal(number, handler)
        self._handlers.clear()
