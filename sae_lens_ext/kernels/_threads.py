"""Parts of a compiled loop on several threads: those of torch where possible.

After an operation of torch, its OpenMP threads wait for the next one, and keep their
cores busy for about 10 ms while they do. Other threads that start right then get half
of a core. So the parts run as a parallel region of the same OpenMP, whose threads start
on them at once. Where torch comes with an OpenMP that cannot be called by GNU's entry
points, such as on macOS, new threads run them.
"""

import ctypes
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(work: Callable[[int], None], n_parts: int) -> None:
    """Call ``work(part)`` for every part, each on a thread of its own.

    Args:
        work: releases Python's lock for most of its time, as compiled loops do. It must
            not use torch, which is in a parallel region meanwhile.
        n_parts: how many there are, at most as many as there are cores.

    Raises:
        BaseException: the first error of ``work``, after all parts have ended.
    """
    if n_parts == 1:
        work(0)
        return

    parallel = _parallel_region()
    if parallel is None:
        with ThreadPoolExecutor(n_parts) as pool:
            # As a list, because map raises an error only when its result is asked for.
            list(pool.map(work, range(n_parts)))
        return

    # A region may get fewer threads than it asks for, so each takes parts until none is
    # left. Python's lock makes taking one safe.
    parts = iter(range(n_parts))
    errors: list[BaseException] = []

    def body(_: object) -> None:
        for part in parts:
            try:
                work(part)
            # An error cannot pass through OpenMP, whichever it is.
            except BaseException as error:
                errors.append(error)

    parallel(_BODY(body), None, n_parts, 0)
    if errors:
        raise errors[0]


def pieces(n_rows: int, n_parts: int) -> list[slice]:
    """Divide rows among parts: each gets as many as the others, or one more."""
    edges = [n_rows * part // n_parts for part in range(n_parts + 1)]
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def _parallel_region() -> Callable[..., None] | None:
    """GNU's function that runs another one on every thread, if torch has brought it."""
    try:
        region = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    region.argtypes = [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    region.restype = None
    return region
