"""Kill small runs at random moments, go on with them, and compare: a script.

``python killed_runs.py FOLDER N SEED`` prints one JSON object. It is a process of its
own, because imports and compiled loops take seconds to load: every run is a fork of it.
It has one thread, so that nothing is lost in a fork.
"""

import functools
import itertools
import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import small_training
import torch
from forks import keep_progress_bars_apart
from safetensors.torch import load_file
from small_training import CONFIG, N_TOKENS, MemoryStream

from sae_lens_ext.training import RunConfig
from sae_lens_ext.training.checkpoints import store

# Something of everything that has a state; a checkpoint after every other step, so that
# many moments are in the middle of one.
_CONFIG = replace(CONFIG, k_start=8, clip=0.5, revive_every=4, dead_after=64)
_RUN = RunConfig(checkpoint_every=2, log_every=1, eval_every=3)
# 10 checkpoints of 7 files.
_WRITES = 70


def train(folder):
    """One run."""
    held_out = small_training.values(100, seed=1)
    stream = MemoryStream(n_tokens=N_TOKENS)
    small_training.run(folder, _CONFIG, stream=stream, run=_RUN, held_out=held_out)


def die_in_a_write(n):
    """Make this process kill itself in its n-th write of a checkpoint's file.

    It dies when the file is there and the rest of the checkpoint is not.
    """
    calls = itertools.count(1)
    save = store.save_file

    def save_or_die(*arguments, **options):
        save(*arguments, **options)
        if next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    store.save_file = save_or_die


def forked(folder, prepare=None):
    """Start a run in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if prepare is not None:
            prepare()
        train(folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def completed(folder):
    """Run to the end; returns how long it took."""
    start = time.monotonic()
    _, status = os.waitpid(forked(folder), 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        raise RuntimeError(
            f"a run in {folder}, with {names}, ended with {code}; what it said is above"
        )
    return time.monotonic() - start


def killed(folder, seconds):
    """Start a run and kill it; returns whether it was still running."""
    child = forked(folder)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def killed_in_a_write(folder, n):
    """Start a run that dies in a checkpoint; returns whether it left half of one."""
    os.waitpid(forked(folder, functools.partial(die_in_a_write, n)), 0)
    return len(list(folder.glob("checkpoints/.writing-*"))) == 1


def outcome(folder):
    """What has to be the same: weights, bit for bit, and metrics."""
    weights = load_file(folder / "sae" / "sae_weights.safetensors")
    step = max((folder / "checkpoints").glob("step-*"))
    state = load_file(step / "counters.safetensors")
    tensors = {**weights, **load_file(step / "weights.safetensors"), **state}
    numbers = {name: tensor.tolist() for name, tensor in tensors.items()}
    return numbers, small_training.metrics(folder)


def main(folder, n, seed):
    """Kill ``n`` runs, each at a random moment, and go on with each."""
    rng = random.Random(seed)
    # What it loads and compiles, the others have from the start.
    torch.set_num_threads(1)
    keep_progress_bars_apart()
    train(folder / "warm-up")
    seconds = completed(folder / "whole")
    expected = outcome(folder / "whole")

    report = {"seconds": seconds, "equal": [], "killed": [], "half_written": []}
    for number in range(n):
        path = folder / str(number)
        # Every third one in the middle of a checkpoint, which is a short moment.
        if number % 3 == 0:
            write = rng.randrange(1, _WRITES + 1)
            report["half_written"].append(killed_in_a_write(path, write))
        else:
            report["killed"].append(killed(path, rng.uniform(0, seconds)))
        completed(path)
        report["equal"].append(outcome(path) == expected)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
