"""Everything that wants a GPU: the checks of the kernels, then every benchmark of them. Fits into eight minutes on an H200.

It needs torch, triton, einops, jaxtyping, safetensors and pytest. A benchmark is not run when the checks fail.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import hierarchical_loss, sparse_decode, topk_encode, train_step

TESTS = Path(__file__).parents[1] / "tests"


def run(device: str = "cuda") -> dict[str, Any]:
    """Run it all; returns the results by benchmark."""
    if not torch.cuda.is_available():
        raise SystemExit("python -m benchmarks gpu needs a GPU, and torch sees none here")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=gpu", "--confcutdir=gpu", "gpu"]
    if subprocess.run(command, cwd=TESTS, check=False).returncode:
        raise SystemExit("the kernels do not compute what they should here, so nothing was timed")
    modules = {"hierarchical_loss": hierarchical_loss, "sparse_decode": sparse_decode, "topk_encode": topk_encode}
    return {**{name: module.run(device) for name, module in modules.items()}, "train_step": train_step.run(device)}
