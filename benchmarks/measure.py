"""Time and memory of a call, and the line that says on what."""

import ctypes
import gc
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Mismatch(AssertionError):
    """A case whose numbers differ from its reference; it is not timed."""


def refuse_mismatch(
    results: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float
) -> None:
    """Do not time what differs from its definition.

    Raises:
        Mismatch: a tensor differs from the expected one, as a share of the largest
            number there, by more than ``tolerance``.
    """
    for fast, plain in zip(results, expected, strict=True):
        if fast.shape != plain.shape:
            raise Mismatch(
                f"the fast version has shape {list(fast.shape)}, the definition "
                f"{list(plain.shape)}; not timed"
            )
        largest = plain.double().abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        error = ((fast.double() - plain.double()).abs().max() / largest).item()
        if not error <= tolerance:
            raise Mismatch(
                f"the fast version differs from the definition by {error:.1e} "
                "relative; not timed"
            )


def peak_extra_bytes(
    function: Callable[..., Any], *arguments: object, device: str = "cpu"
) -> int:
    """The memory that a call takes above that of its inputs.

    ``function(*arguments)`` builds the inputs and returns a call to warm up with and
    the call to measure. On a CPU it is the rise of the resident memory of a process of
    its own (on Linux, which can reset the highest point); on a GPU that of torch's
    allocations.
    """
    if device == "cuda":
        warm_up, call = function(*arguments)
        warm_up()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise Mismatch(
            "the process in which memory is measured ended before the measurement; its "
            "output stands above"
        ) from None
    finally:
        process.join()


def _measure_peak(sender, function, arguments) -> None:
    warm_up, call = function(*arguments)
    warm_up()
    # Memory that building the inputs took and gave back is neither room for the call
    # nor part of the highest point so far.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _peak_resident_bytes()
    call()
    sender.send(_peak_resident_bytes() - before)


def _peak_resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def machine_line(device: str = "cpu") -> str:
    """Processor, threads, versions and commit; on a GPU its name too."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    try:
        # What benchmarks themselves write does not make a commit another one.
        commands = (
            ["describe", "--always"],
            ["status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md"],
        )
        commit, changed = (
            subprocess.run(
                ["git", *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in commands
        )
        commit += "-dirty" if changed else ""
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown commit"
    if device == "cuda":
        cpu = f"{torch.cuda.get_device_name()} (beside {cpu})"
    versions = f"python {sys.version.split()[0]}, torch {torch.__version__}"
    return f"{cpu}, {torch.get_num_threads()} threads; {versions}; {commit}"


def side_by_side(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 15, device: str = "cpu"
) -> dict[str, list[float]]:
    """Times of each call in seconds, round by round, in turns, after a warm-up round.

    A disturbance of the machine slows all calls of a round: compare within rounds
    (``typical``), not the best of one call with the best of another.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            times[name].append(time.perf_counter() - start)
    return times


def typical(
    times: Mapping[str, list[float]], what: str | Callable[[dict[str, float]], float]
) -> float:
    """The median over rounds of a value computed from the times of one round."""
    if isinstance(what, str):
        return statistics.median(times[what])
    return statistics.median(
        what(dict(zip(times, round_s, strict=True)))
        for round_s in zip(*times.values(), strict=True)
    )
