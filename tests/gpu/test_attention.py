"""The Triton versions of ``quadratic_attention`` against its definition. Run as ``test_kernels.py`` is."""

import pytest
import torch
from harness import compare
from kernels.attention_cases import KERNELS, Attention, Case

from sae_lens_ext.kernels.quadratic_attention import gpu

# Sizes above and below those of tiles and chunks: several pieces of every axis, the last one smaller.
CASES = [Case(1, 1, 2, 2, 1), Case(1, 1, 37, 5, 18), Case(1, 1, 20, 6, 3, blind=True)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(gpu, "_CHUNK", 32)
    monkeypatch.setattr(gpu, "tiles", lambda d, d_v: gpu.Tiles(16, 16, 16))


def run(case, kernel, form, with_state, dtype, device):
    inputs = {name: tensor.to(device) for name, tensor in case.inputs(KERNELS[kernel], with_state).items()}
    plain, fast = (Attention(KERNELS[kernel], form, backend) for form, backend in (("dense", "reference"), (form, "gpu")))
    compare(fast, plain, inputs, dtype)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("form", ["dense", "chunked"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_agrees_with_the_definition(case, form, with_state, dtype, device):
    # All kinds of features at once.
    run(case, "based", form, with_state, dtype, device)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "based"])
def test_every_kernel_agrees_with_its_definition(kernel, dtype, device):
    run(Case(1, 1, 37, 4, 3), kernel, "chunked", True, dtype, device)


def test_tiles_of_their_real_size(device, monkeypatch):
    monkeypatch.undo()
    case = Case(1, 1, 40, 17, 5)
    run(case, "rebased", "chunked", True, torch.float32, device)
