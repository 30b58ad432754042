"""Torch accepts the operators: torch.compile traces them, and fake tensors pass."""

import os
import subprocess
import sys

import torch
from paths import TESTS
from torch._subclasses.fake_tensor import FakeTensorMode

import sae_lens_ext as sle
from kernels.marks import HAS_TRITON

PROGRAM = TESTS / "kernels" / "operator_program.py"


def test_torch_accepts_the_operators():
    backends = ["cpu", "gpu"] if HAS_TRITON else ["cpu"]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), *backends],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_shapes_without_numbers_are_enough():
    sae = sle.SAE(sle.SAEConfig(d_model=5, d_sae=11, k=3))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(torch.randn(2, 7, 5))
        assert sae(x).shape == (2, 7, 5)
        assert sae.encode(x, 2).values.shape == (2, 7, 2)
