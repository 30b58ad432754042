"""Every error that this package raises on purpose.

Each one is also the built-in error that a caller would have expected, so that
``except ValueError`` works. Each message says what was expected, what came, and what to
do about it. ``except SaeLensExtError`` catches them all.
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
    """NaN or infinity where a finite number is needed."""


class InvalidArgument(SaeLensExtError, ValueError):
    """An argument outside of what is accepted."""


class FormatError(SaeLensExtError, ValueError):
    """A file or folder whose content does not match the format its name promises.

    For instance a missing key, a wrong shape, a truncated file or an unknown version.
    """


class BackendError(SaeLensExtError, RuntimeError):
    """A requested kernel backend that cannot run here."""


class UnsupportedHost(SaeLensExtError, ValueError):
    """A model object that no adapter can read."""


class MissingDependency(SaeLensExtError, ImportError, RuntimeError):
    """An optional package that is needed now and is not installed."""


class RankLost(SaeLensExtError, RuntimeError):
    """Another process of a training that several share has ended before its end."""


class UnknownSite(SaeLensExtError, KeyError):
    """A place that the model does not have; the message lists the closest ones."""

    def __str__(self) -> str:
        """Return the message as written."""
        # KeyError shows the repr of its argument, which would put the whole sentence
        # in quotes.
        return str(self.args[0]) if self.args else ""


def closest(name: str, known: Iterable[str], n: int = 4) -> str:
    """Return the ``n`` known names that are most like ``name``, joined for a message.

    >>> closest("hook_resid_pots", ["hook_resid_pre", "hook_resid_post"], n=1)
    'hook_resid_post'
    """
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=n, cutoff=0.4)

    # Without a similar name, examples still show what names look like.
    if not matches:
        matches = known[:n]
    return ", ".join(matches) if matches else "none"
