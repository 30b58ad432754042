"""Torch accepts the operators: torch.compile traces them, and fake tensors pass."""

import os
import subprocess
import sys

import pytest
import torch
from paths import TESTS
from torch._subclasses.fake_tensor import FakeTensorMode

import sae_lens_ext as sle
from kernels.marks import by_triton

PROGRAM = TESTS / "kernels" / "operator_program.py"


@pytest.mark.parametrize("backend", ["cpu", pytest.param("gpu", marks=by_triton)])
def test_torch_accepts_the_operators(backend):
    environment = {"TRITON_INTERPRET": "1"} if backend == "gpu" else {}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), backend],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_shapes_without_numbers_are_enough():
    sae = sle.SAE(sle.SAEConfig(d_model=5, d_sae=11, k=3))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(torch.randn(2, 7, 5))
        assert sae(x).shape == (2, 7, 5)
        assert sae.encode(x, 2).values.shape == (2, 7, 2)
