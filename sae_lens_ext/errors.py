"""Every error this package raises on purpose.

Each one is also the built-in error that a caller would have expected, so ``except ValueError`` works, and each message says
what was wanted, what came, and what to do about it. ``except SaeLensExtError`` catches them all.
"""

import difflib
from collections.abc import Iterable


class SaeLensExtError(Exception):
    """Base class of the errors below."""


class InvalidK(SaeLensExtError, ValueError):
    """A number of active features that this SAE cannot serve."""


class ShapeMismatch(SaeLensExtError, ValueError):
    """Tensors whose shapes do not belong together."""


class NonFinite(SaeLensExtError, ValueError):
    """NaN or infinity where a number was needed."""


class InvalidArgument(SaeLensExtError, ValueError):
    """An option outside of what is accepted."""


class FormatError(SaeLensExtError, ValueError):
    """A file or folder that is not what its name promises: a missing key, a wrong shape, a cut file, an unknown version."""


class BackendError(SaeLensExtError, RuntimeError):
    """A kernel backend that was asked for and cannot run here."""


class UnsupportedHost(SaeLensExtError, ValueError):
    """A model object that no adapter knows how to read."""


class MissingDependency(SaeLensExtError, ImportError, RuntimeError):
    """An optional package that is needed now and is not installed."""


class UnknownSite(SaeLensExtError, KeyError):
    """A place in the model that does not exist; the message lists the closest ones that do."""

    def __str__(self) -> str:
        """The message as written."""
        # KeyError shows the repr of its argument, which would put the whole sentence in quotes.
        return str(self.args[0]) if self.args else ""


def closest(name: str, known: Iterable[str], n: int = 4) -> str:
    """The ``n`` known names most like ``name``, joined for a message."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=n, cutoff=0.4) or known[:n]
    return ", ".join(matches) if matches else "none"
