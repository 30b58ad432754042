"""Several processes that share a training, as ``torchrun`` starts them: forks of one.

Imports take seconds, so one process imports and forks the others, with the environment
that ``torchrun`` gives; as there, the store of keys is in a process of its own. Who
forks is a script, ``python shared_runs.py``, because a process with threads must not.
"""

import os
import signal
import sys
import time
import traceback

import torch.distributed as dist


def launcher():
    """Fork a process with a store; its id and the port of the store."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        signal.pause()
    port = int(os.read(reading, 10))
    os.close(reading)
    os.close(writing)
    return pid, port


class Processes:
    """Forks, each of which runs one function of its rank."""

    def __init__(self, n, function, stderr=None):
        """Start them.

        Args:
            n: how many.
            function: gets the rank.
            stderr: by rank, the path of a file; None shows errors.
        """
        self.launcher, port = launcher()
        self.started = time.monotonic()
        self.pids = [self._forked(rank, n, port, function, stderr) for rank in range(n)]

    def _forked(self, rank, n, port, function, stderr):
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            # As torchrun: a Ctrl-C reaches its processes only through it.
            os.setsid()
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(n),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                TORCHELASTIC_USE_AGENT_STORE="True",
            )
            if stderr is not None:
                descriptor = os.open(
                    stderr[rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                )
                os.dup2(descriptor, 2)
            function(rank)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def statuses(self):
        """Wait; how each of them has ended, and after how many seconds the last did."""
        statuses = [os.waitpid(pid, 0)[1] for pid in self.pids]
        os.kill(self.launcher, signal.SIGKILL)
        os.waitpid(self.launcher, 0)
        codes = [os.waitstatus_to_exitcode(status) for status in statuses]
        return codes, time.monotonic() - self.started
