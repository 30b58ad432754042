"""Worker processes end with the process that started them."""

import shlex
import signal
import subprocess
import sys
import time


def test_workers_end_with_the_command_that_is_killed(tmp_path):
    options = shlex.split(
        "--seq-len 8 --pairs 2 --vocab-size 10 --d-model 8 --heads 2 --feature-dim 2 "
        "--batch-size 4 --train-examples 0 --steps 1000000 --evaluations 1"
    )
    command = [sys.executable, "-m", "sae_lens_ext", "mqar", *options]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stderr=subprocess.DEVNULL
    )
    try:
        workers = wait_for(lambda: children_of(process))
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        wait_for(lambda: not alive("-p", ",".join(workers)))
    finally:
        process.kill()


def children_of(process):
    """The worker, and the process that multiprocessing itself needs; none before."""
    children = alive("--ppid", str(process.pid))
    return children if len(children) >= 2 else []


def alive(*selection):
    """Numbers of the selected processes that have not ended, as ``ps`` lists them."""
    lines = subprocess.run(
        ["ps", "-o", "pid=,stat=", *selection],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    # A zombie has ended.
    return [pid for pid, state in map(str.split, lines) if not state.startswith("Z")]


def wait_for(condition, seconds=120):
    """Ask again and again; the first answer that is true."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < end
        time.sleep(0.2)
