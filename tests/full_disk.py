"""A disk on which no long file fits."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def full_disk(n_bytes):
    """No file of this process may become longer than this."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The signal that the system sends would end the process.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
