"""Make an index in processes that are killed.

``python interrupted_index.py WHOLE KILLED N...`` makes it in one folder undisturbed,
and in another in processes that are killed, each at the moment N, as in
``interrupted_cache``. The last process is not killed.
"""

import signal
import sys
import warnings
from pathlib import Path

import torch
import toy
from interrupted_cache import in_a_child, kill_at, text

import sae_lens_ext as sle
from sae_lens_ext.features import build


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


def main():
    # The copies have no other threads than the one that makes them.
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    build._SECONDS_BETWEEN = 0.0
    whole, folder = map(Path, sys.argv[1:3])
    assert in_a_child(lambda: write(whole)) == 0

    for moment in map(int, sys.argv[3:]):

        def killed(moment=moment):
            kill_at(moment)
            write(folder)

        assert in_a_child(killed) == -signal.SIGKILL, f"not killed at {moment}"
    assert in_a_child(lambda: write(folder)) == 0


if __name__ == "__main__":
    main()
