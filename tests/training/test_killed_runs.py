"""A run that is killed at any moment goes on as if nothing had happened.

``SAE_LENS_EXT_KILLS=20`` kills 20 runs instead of 5.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

N_KILLS = int(os.environ.get("SAE_LENS_EXT_KILLS", "5"))
TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_runs_end_with_the_bits_of_an_undisturbed_one(tmp_path):
    seed = random.SystemRandom().randrange(1 << 30)
    command = [
        sys.executable,
        "-W",
        "error",
        str(Path(__file__).with_name("killed_runs.py")),
    ]
    done = subprocess.run(
        [*command, str(tmp_path), str(N_KILLS), str(seed)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        },
        check=False,
    )
    # The traceback of a run, and then that of the script.
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-6000:]}"
    report = json.loads(done.stdout)
    assert report["equal"] == [True] * N_KILLS, f"seed {seed}: {report}"
    # In the middle of a checkpoint; and at moments, of which the last is as long as a
    # run, so that some runs may end before.
    assert all(report["half_written"]), f"seed {seed}: {report}"
    assert any(report["killed"]), f"seed {seed}: {report}"
