"""Forks of one process, of which some are killed."""

import threading

from tqdm import tqdm


def keep_progress_bars_apart():
    """Give every fork a lock of its own for progress bars, and no thread.

    tqdm's lock is one of all forks, so one that is killed while it holds the lock would
    stop all others. A thread that watches bars would be lost in a fork.
    """
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
