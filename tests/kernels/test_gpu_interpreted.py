"""The Triton kernels without a GPU: run in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.marks import by_triton

TESTS = Path(__file__).parents[1]


@by_triton
@pytest.mark.parametrize(
    "checks",
    [
        "test_kernels",
        "test_attention",
        "test_planted_errors",
        "test_planted_attention_errors",
    ],
)
def test_in_the_interpreter(checks):
    # In a process of its own: Triton decides at import what its kernels are.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        f"gpu/{checks}.py",
    ]
    done = subprocess.run(
        [*command, "--rootdir=gpu", "--confcutdir=gpu"],
        cwd=TESTS,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    skipped = (
        ", 1 skipped" if checks == "test_kernels" else ""
    )  # the one that asks for a GPU
    assert f" passed{skipped} in" in done.stdout.splitlines()[-1], (
        done.stdout.splitlines()[-1]
    )
