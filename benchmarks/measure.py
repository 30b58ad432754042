"""Time and memory of a call, and the line that says on what."""

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch


class Mismatch(AssertionError):
    """A case whose numbers differ from its reference; it is not timed."""


def seconds(call: Callable[[], object], *, at_least: float = 1.0, repeats: int = 3) -> float:
    """The best of several runs after one to warm up; more of them when they are short."""
    call()
    best, spent, runs = float("inf"), 0.0, 0
    while runs < repeats or spent < at_least:
        start = time.perf_counter()
        call()
        elapsed = time.perf_counter() - start
        best, spent, runs = min(best, elapsed), spent + elapsed, runs + 1
    return best


def peak_extra_bytes(function: Callable[..., object], *arguments: object) -> int:
    """How far a call raises the resident memory of a fresh process above what it was before; in a process of its own.

    ``function(*arguments)`` builds the inputs and returns the call to measure.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _measure_peak(sender, function, arguments) -> None:
    warm_up, call = function(*arguments)
    warm_up()
    before = _peak_resident_bytes()
    call()
    sender.send(_peak_resident_bytes() - before)


def _peak_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program. On Linux getrusage also remembers the process that started it, however large that was.
        (line,) = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine_line() -> str:
    """Processor, threads, versions and commit."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    try:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown commit"
    return f"{cpu}, {torch.get_num_threads()} threads; python {sys.version.split()[0]}, torch {torch.__version__}; {commit}"


def side_by_side(calls: dict[str, Callable[[], object]], *, rounds: int = 15) -> dict[str, list[float]]:
    """The times of each call, round by round, taken in turns.

    What slows the machine for a while slows all of a round: compare within rounds (``typical``), not the best of one call with the
    best of another.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def typical(times: dict[str, list[float]], what: Callable[[dict[str, float]], float]) -> float:
    """The median over rounds of what is computed from the times of one round."""
    return statistics.median(what(dict(zip(times, one, strict=True))) for one in zip(*times.values(), strict=True))
