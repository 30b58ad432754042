"""Make an index in processes that are killed.

``python interrupted_index.py FOLDER N SEED`` makes it in ``FOLDER/whole`` undisturbed,
in ``FOLDER/in-turn`` in processes that are killed one after the other, and in N
folders, named by their numbers, in a process that is killed at a random moment: of the
clock, or a moment as in ``interrupted_cache``. The last process of each is not killed.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
import toy
from forks import keep_progress_bars_apart
from interrupted_cache import in_a_child, kill_at, text

import sae_lens_ext as sle
from sae_lens_ext.features import build

# Three for a file: its bytes, its name, the folder. There are nine checkpoints, and
# three files at the end; every process goes on from the one before.
N_MOMENTS = 3 * (9 + 3)
MOMENTS = (1, 2, 3, 8, 12, 9, 2, 5, 8, 9)


def an_sae():
    config = sle.SAEConfig(d_model=toy.D_MODEL, d_sae=24, k=4, hook_name=toy.SITE)
    return sle.SAE(config, generator=torch.Generator().manual_seed(0)).eval()


def write(folder):
    return sle.features.index(
        toy.Toy(),
        an_sae(),
        text(),
        folder,
        contexts=3,
        sample=5,
        window=2,
        batch_size=7,
        progress=False,
    )


def write_killed(folder, moments):
    """Make it in processes of which each is killed, and one that is not."""
    for moment in moments:

        def killed(moment=moment):
            kill_at(moment)
            write(folder)

        assert in_a_child(killed) == -signal.SIGKILL, f"not killed at {moment}"
    assert in_a_child(lambda: write(folder)) == 0


def write_killed_by_the_clock(folder, seconds):
    """Make it in a process that is killed after a time, and in another."""
    child = os.fork()
    if not child:
        write(folder)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert in_a_child(lambda: write(folder)) == 0


def main():
    # The copies have no other threads than the one that makes them.
    torch.set_num_threads(1)
    keep_progress_bars_apart()
    warnings.simplefilter("ignore")
    build._SECONDS_BETWEEN = 0.0
    root = Path(sys.argv[1])
    n_kills, seed = map(int, sys.argv[2:])
    rng = random.Random(seed)

    # What it loads and compiles, the others have from the start.
    write(root / "warm-up")
    start = time.monotonic()
    assert in_a_child(lambda: write(root / "whole")) == 0
    seconds = time.monotonic() - start

    write_killed(root / "in-turn", MOMENTS)
    for number in range(n_kills):
        folder = root / str(number)
        if number % 2:
            write_killed(folder, [rng.randrange(1, N_MOMENTS + 1)])
        else:
            write_killed_by_the_clock(folder, rng.uniform(0, seconds))


if __name__ == "__main__":
    main()
