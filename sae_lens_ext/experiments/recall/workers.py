"""Processes that train models, and the three ways in which they end.

They end when the work is done. They end at once when the work is interrupted or fails:
a pool by itself would first finish everything that is waiting. And they end when the
process that started them is killed, which cannot end them itself.
"""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process

import torch


@contextmanager
def worker_pool(jobs: int) -> Iterator[Executor]:
    """A pool of processes with one thread each; they end with the block.

    If the block raises, control-C included, work that waits is cancelled and the
    processes are terminated.
    """
    children_before = active_children()
    with process_pool(jobs) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                if child not in children_before:
                    child.terminate()
            raise


def process_pool(jobs: int) -> Executor:
    """The executor of ``worker_pool``, without its care for interruptions."""
    # A forked process could inherit locks that threads of this one hold.
    return ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start_worker
    )


def _start_worker() -> None:
    torch.set_num_threads(1)
    # Control-C reaches all processes of a terminal; the one that started the others
    # terminates them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
