"""Time and memory of a call, and the line that names the machine."""

import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Prepare = Callable[..., tuple[Callable[[], object], Callable[[], object]]]
"""Builds inputs, and returns a call to warm up with and the call to measure."""


class Mismatch(AssertionError):
    """A case whose numbers differ from its reference; it is not timed."""


def refuse_mismatch(
    results: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float
) -> None:
    """Check that a fast version agrees with its definition before it is timed.

    Args:
        results: of the fast version.
        expected: the results of the definition.
        tolerance: the largest error, as a share of the largest number that is expected.

    Raises:
        Mismatch: they differ by more, or in shape.
    """
    for fast, plain in zip(results, expected, strict=True):
        if fast.shape != plain.shape:
            raise Mismatch(
                f"the fast version has shape {list(fast.shape)}, "
                f"the definition {list(plain.shape)}; not timed"
            )

        largest = plain.double().abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        error = ((fast.double() - plain.double()).abs().max() / largest).item()
        # In this form NaN fails too.
        if not error <= tolerance:
            raise Mismatch(
                f"the fast version differs from the definition by {error:.1e} "
                "relative; not timed"
            )


def in_environment(python: Path, module: str, *arguments: str) -> dict[str, Any]:
    """What a part of a benchmark prints that needs another environment.

    Args:
        python: the Python program of the environment.
        module: the part: a module that prints one line of JSON at its end.
        *arguments: of the part.

    Returns:
        Its line; nothing where there is no such program.

    Raises:
        Mismatch: the part failed.
    """
    if not python.exists():
        print(
            f"({python} is not there: "
            "make test-saelens builds the environment of SAELens)"
        )
        return {}

    command = [str(python), "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Mismatch(
            f"the part that runs under {python} failed:\n{done.stderr[-2000:]}"
        )
    if not done.stdout:
        raise Mismatch(f"{python} is not a Python: it printed nothing")
    return json.loads(done.stdout.splitlines()[-1])


def peak_extra_bytes(prepare: Prepare, *arguments: object, device: str = "cpu") -> int:
    """Measure how much memory a call takes in addition to its inputs.

    On a CPU it is how far the resident memory of a process of its own rises (on Linux,
    which can reset its record of the highest point); on a GPU, how far torch's
    allocations rise.

    Args:
        prepare: builds the inputs and the calls.
        *arguments: of ``prepare``.
        device: ``"cpu"`` or ``"cuda"``.
    """
    if device == "cuda":
        return _peak_on_gpu(prepare, arguments)
    before, peak = peak_resident(prepare, *arguments)
    return peak - before


def peak_resident(prepare: Prepare, *arguments: object) -> tuple[int, int]:
    """The resident memory of a process before a call, and its highest point in it.

    Args:
        prepare: builds the inputs and the calls.
        *arguments: of ``prepare``.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(sender, prepare, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise Mismatch(
            "the process in which memory is measured ended before it was; "
            "its own message is above"
        ) from None
    finally:
        process.join()


def _peak_on_gpu(prepare: Prepare, arguments: tuple[object, ...]) -> int:
    warm_up, call = prepare(*arguments)
    warm_up()
    torch.cuda.synchronize()

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _send_peak(
    sender: Connection, prepare: Prepare, arguments: tuple[object, ...]
) -> None:
    warm_up, call = prepare(*arguments)
    warm_up()

    # Memory that building the inputs took and gave back is no room for the call, and no
    # part of the highest point so far.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    before = peak_resident_bytes()
    call()
    sender.send((before, peak_resident_bytes()))


def peak_resident_bytes() -> int:
    """The highest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def machine_line(device: str = "cpu") -> str:
    """Name processor, threads, versions and commit; on a GPU its name too."""
    processor = _processor()
    if device == "cuda":
        processor = f"{torch.cuda.get_device_name()} (beside {processor})"
    return (
        f"{processor}, {torch.get_num_threads()} threads; "
        f"python {sys.version.split()[0]}, torch {torch.__version__}; {_commit()}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    # Files that benchmarks themselves write do not make a commit dirty.
    written = [":!benchmarks/results", ":!README.md"]
    try:
        commit = _git("describe", "--always")
        changed = _git("status", "--porcelain", "--", ".", *written)
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def side_by_side(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time calls in turns, after a round to warm up.

    A slow moment of the machine slows a whole round: compare within rounds
    (``typical``), not the best time of one call with the best of another. Calls that
    take long, and run on one thread, can be timed by ``time.process_time``, which does
    not count the time that other processes have.

    Returns:
        The times of each call in seconds, round by round.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()

    for _ in range(rounds):
        for name, call in calls.items():
            wait()
            start = clock()
            call()
            wait()
            times[name].append(clock() - start)
    return times


def typical(
    times: Mapping[str, list[float]], of: str | Callable[[dict[str, float]], float]
) -> float:
    """The median over rounds.

    Args:
        times: as ``side_by_side`` returns them.
        of: the name of a call, or a function of the times of one round.
    """
    if isinstance(of, str):
        return statistics.median(times[of])

    rounds = zip(*times.values(), strict=True)
    return statistics.median(of(dict(zip(times, row, strict=True))) for row in rounds)


def ratio(times: Mapping[str, list[float]], above: str, below: str) -> float:
    """The median over rounds of one call's time divided by another's."""
    return typical(times, lambda row: row[above] / row[below])


def milliseconds(seconds: float, digits: int = 1) -> str:
    """A time for a line of a table."""
    return f"{1e3 * seconds:.{digits}f} ms"


def megabytes(n_bytes: float) -> str:
    """An amount of memory for a line of a table."""
    return f"{n_bytes / 1e6:.0f} MB"
