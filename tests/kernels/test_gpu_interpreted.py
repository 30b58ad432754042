"""The Triton kernels pass their checks in Triton's interpreter, without a GPU."""

import os
import subprocess
import sys

import pytest
from paths import TESTS

from kernels.marks import by_triton

# The checks with a test that needs a GPU.
SKIPS = {"test_kernels.py": ", 1 skipped"}


@by_triton
@pytest.mark.parametrize(
    "checks",
    [
        "test_kernels.py",
        "quadratic_attention",
        "test_planted_errors.py",
        "test_planted_attention_errors.py",
    ],
)
def test_checks_pass_in_the_interpreter(checks):
    # In a process of its own: Triton decides at import how it runs its programs.
    done = subprocess.run(
        [
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
            f"gpu/{checks}",
            "--rootdir=gpu",
            "--confcutdir=gpu",
        ],
        cwd=TESTS,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    last_line = done.stdout.splitlines()[-1]
    assert f" passed{SKIPS.get(checks, '')} in" in last_line, last_line
