"""Several processes that share a training, as ``torchrun`` starts them: forks of one.

Imports take seconds, so one process imports and forks the others, with the environment
that ``torchrun`` gives. It is a script of its own, ``python shared_runs.py``, because a
process that has threads must not fork.
"""

import os
import signal
import socket
import sys
import time
import traceback


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Processes:
    """Forks, each of which runs one function of its rank."""

    def __init__(self, n, function, stderr=None):
        """Start them.

        Args:
            n: how many.
            function: gets the rank.
            stderr: by rank, the path of a file; None shows errors.
        """
        port = free_port()
        self.started = time.monotonic()
        self.pids = [
            self._forked(rank, n, port, function, stderr) for rank in range(n)
        ]

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
            )
            if stderr is not None:
                descriptor = os.open(stderr[rank], os.O_WRONLY | os.O_CREAT)
                os.dup2(descriptor, 2)
            function(rank)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def kill(self, rank, number=signal.SIGKILL):
        """Send a signal to one of them."""
        os.kill(self.pids[rank], number)

    def statuses(self):
        """Wait; how each of them has ended, and after how many seconds the last did."""
        statuses = [os.waitpid(pid, 0)[1] for pid in self.pids]
        codes = [os.waitstatus_to_exitcode(status) for status in statuses]
        return codes, time.monotonic() - self.started
