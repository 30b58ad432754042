"""Who is still there, after an exchange between processes has failed.

Backends only say that a connection was closed. torch.distributed has a store of keys
that all processes reach; under ``torchrun`` it lives with the launcher, and so outlives
them. Every process that notices a failure signs there. Who does not is gone, and who
ended by an error of its own has left it there.
"""

import contextlib
import os
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# A process that is in the middle of a long computation signs later, and launchers kill
# the others 30 seconds after the first has ended.
_SECONDS = 10.0
_CONNECT = timedelta(seconds=5)


class RollCall:
    """The processes of a training, by a store that all of them reach."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        """Nothing is asked yet.

        Args:
            store: of torch.distributed; None where there is none to reach.
            rank: of this process.
            size: how many there are.
        """
        self._store = store
        self._rank = rank
        self._size = size

    def leave(self, error: BaseException) -> None:
        """Say why this process ends."""
        if self._store is None:
            return
        with contextlib.suppress(RuntimeError, OSError):
            self._store.set(f"failed/{self._rank}", f"{type(error).__name__}: {error}")

    def missing(self) -> str:
        """Who is gone, and why, as far as it is known; a sentence."""
        if self._store is None:
            return "another process of this training is gone"
        reasons: dict[int, str | None] = {}
        silent: set[int] = set()
        try:
            silent = self._silent(reasons)
        except (RuntimeError, OSError):
            # The store is gone with the process that it lived in. The first to notice
            # may be a later question: what is set is sent without waiting for a reply.
            if not reasons:
                by_launcher = _is_kept_by_launcher()
                keeper = "torchrun" if by_launcher else f"rank 0 of {self._size}"
                return f"{keeper} is gone"
        gone = {**dict.fromkeys(silent), **reasons}
        if not gone:
            return "the connection between the processes of this training broke"
        return "; ".join(self._described(rank, gone[rank]) for rank in sorted(gone))

    def _silent(self, reasons: dict[int, str | None]) -> set[int]:
        """Who does not answer; who has left a reason is put into ``reasons``."""
        self._store.set(f"here/{self._rank}", "yes")
        others = set(range(self._size)) - {self._rank}
        deadline = time.monotonic() + _SECONDS
        while others and time.monotonic() < deadline:
            time.sleep(0.05)
            for rank in sorted(others):
                reason = self._read("failed", rank)
                if reason is not None:
                    reasons[rank] = reason
                if reason is not None or self._read("here", rank) is not None:
                    others.remove(rank)
        return others

    def _described(self, rank: int, reason: str | None) -> str:
        name = f"rank {rank} of {self._size}"
        return f"{name} is gone" if reason is None else f"{name} ended by {reason}"

    def _read(self, word: str, rank: int) -> str | None:
        key = f"{word}/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else None


def _is_kept_by_launcher() -> bool:
    # What torch.distributed asks too, to know whether rank 0 is to make the store.
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def store_of_launcher() -> Any:
    """The store that ``torchrun`` tells its processes about; None without it."""
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        return None
    try:
        return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=_CONNECT,
        )
    except (RuntimeError, ValueError):
        return None
