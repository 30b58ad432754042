"""Switching ``torch.compile`` off while hooks are in a model.

Compiled code does not see hooks, nor replaced ``forward`` methods, that are added
later.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Eager:
    """Switches torch.compile off while at least one user needs it off.

    Their times may overlap in any order.
    """

    def __init__(self) -> None:
        self._users = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        if not self._users:
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()
        self._users += 1

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            self._stance.__exit__(None, None, None)


_EAGER = _Eager()


@contextmanager
def eager() -> Iterator[None]:
    """While active, nothing that was compiled runs compiled."""
    # While dynamo is not imported, nothing can have been compiled. Once it is, a module
    # cannot tell whether it, or a part of it, was.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _EAGER:
        yield
