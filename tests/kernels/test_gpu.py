"""The Triton kernels without a GPU: run in the interpreter, and compiled for GPUs that are not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import resources
from kernels.marks import by_triton

TESTS = Path(__file__).parents[1]


@by_triton
@pytest.mark.parametrize("checks", ["test_kernels", "test_attention", "test_planted_errors"])
def test_in_the_interpreter(checks):
    # In a process of its own: Triton decides at import what its kernels are.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-c", os.devnull, f"gpu/{checks}.py"]
    done = subprocess.run(
        [*command, "--rootdir=gpu", "--confcutdir=gpu"],
        cwd=TESTS,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    skipped = ", 1 skipped" if checks == "test_kernels" else ""  # the one that asks for a GPU
    assert f" passed{skipped} in" in done.stdout.splitlines()[-1], done.stdout.splitlines()[-1]


@by_triton
@pytest.mark.parametrize("target", resources.TARGETS)
@pytest.mark.parametrize("kernel", resources.KERNELS)
@pytest.mark.parametrize("aligned", [True, False])
def test_compiled_it_keeps_everything_in_registers(kernel, target, aligned):
    made, place = resources.KERNELS[kernel], resources.TARGETS[target]
    for dtype in ("fp32", "bf16"):
        found = resources.resources(resources.compiled(made, place, dtype, aligned=aligned), place)
        assert found.registers > 0
        assert found.spills == 0, f"{kernel} in {dtype} on {target}: {found}"


@by_triton
@pytest.mark.parametrize(("target", "width"), [("sm_90", 2048), ("gfx942", 4096)])
def test_a_spill_would_be_seen(target, width):
    # One warp has no registers for so wide a piece of a row.
    kernel, place = resources.KERNELS["walk, atomic"], resources.TARGETS[target]
    wide = kernel._replace(constants={**kernel.constants, "BD": width})
    assert resources.resources(resources.compiled(wide, place, "fp32"), place).spills > 0


@by_triton
def test_rows_are_read_16_bytes_at_a_time_and_added_by_vector_atomics():
    binary = resources.compiled(resources.KERNELS["walk, atomic"], resources.TARGETS["sm_90"], "bf16")
    assert "ld.global.v4.b32" in binary.asm["ptx"]
    assert "add.v4.f32" in binary.asm["ptx"]
