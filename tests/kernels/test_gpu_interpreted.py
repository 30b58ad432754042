"""The Triton kernels pass their checks in Triton's interpreter, without a GPU."""

import os
import subprocess
import sys

from paths import TESTS

from kernels.marks import by_triton


@by_triton
def test_checks_pass_in_the_interpreter():
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
            "gpu",
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
    # One check needs a GPU.
    last_line = done.stdout.splitlines()[-1]
    assert " passed, 1 skipped in" in last_line, last_line
