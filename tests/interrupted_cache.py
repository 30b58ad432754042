"""Write a cache in processes that are killed: python interrupted_cache.py FOLDER N...

Each N is a moment: the process kills itself there, at the N-th time that it asks the
system to move a file or to write one to the disk. The last process is not killed.
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

from sae_lens_ext.training import TextRows, cache_activations

SITES = [toy.SITE, toy.OTHER_SITE]


def text():
    words = [" ".join(map(str, row[1:])) for row in toy.rows(60, 10).tolist()]
    return TextRows(words, toy.WordTokenizer(), context=10)


def write(folder):
    return cache_activations(
        toy.Toy(), text(), SITES, folder, shard_tokens=60, batch_size=2, progress=False
    )


def kill_at(moment: int) -> None:
    """Kill this process at its moment-th call of the functions below."""
    n_calls = 0

    def dying(function):
        def call(*arguments, **options):
            nonlocal n_calls
            n_calls += 1
            if n_calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    os.fsync = dying(os.fsync)
    Path.replace = dying(Path.replace)


def in_a_child(work) -> int:
    """Run something in a copy of this process; how that ended."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    # The copies have no other threads than the one that makes them.
    torch.set_num_threads(1)
    keep_progress_bars_apart()
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])

    for moment in map(int, sys.argv[2:]):

        def killed(moment=moment):
            kill_at(moment)
            write(folder)

        assert in_a_child(killed) == -signal.SIGKILL, f"not killed at {moment}"

    # And once at any moment of the clock, unless it is faster.
    child = os.fork()
    if not child:
        write(folder)
        os._exit(0)
    time.sleep(random.random() * 0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert in_a_child(lambda: write(folder)) == 0


if __name__ == "__main__":
    main()
