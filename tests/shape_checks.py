"""The checks of annotations at run time, which the options of pytest switch on.

jaxtyping gives every function of the package to its decorator ``jaxtyped``: a function
inside another one each time that the outer one runs. That one looks at the arguments of
a call twice, and takes milliseconds to decorate, which a single forward pass does
dozens of times. ``install`` puts a decorator in its place that checks the same in about
a quarter of the time.
"""

import dataclasses
import functools
import inspect
import threading

import jaxtyping
from beartype import beartype

ORIGINAL = jaxtyping.jaxtyped
_unset = object()
_checks = {}


class _Inner(threading.local):
    def __init__(self):
        self.functions = []


_inner = _Inner()


def install():
    """Decorate what is imported from now on with ``checked``."""
    jaxtyping.jaxtyped = checked


def checked(function=_unset, *, typechecker=beartype):
    """As ``jaxtyping.jaxtyped``, by ``beartype``."""
    if function is _unset:
        return functools.partial(checked, typechecker=typechecker)
    if hasattr(function, "__no_type_check__"):
        return ORIGINAL(function, typechecker=typechecker)
    if dataclasses.is_dataclass(function):
        # Unless it is that of a parent.
        if getattr(function.__init__, "__globals__", None) is not globals():
            function.__init__ = _checked_once(function.__init__)
        return function
    if not inspect.isfunction(function):
        return ORIGINAL(function, typechecker=typechecker)
    if "<locals>" in function.__qualname__:
        return _checked_inside(function, typechecker)
    # Of a generator, beartype would check nothing before its first value is taken. An
    # annotation that is a string may name what only jaxtyping leaves out.
    if inspect.isgeneratorfunction(function) or any(
        isinstance(annotation, str) for annotation in function.__annotations__.values()
    ):
        return ORIGINAL(function, typechecker=typechecker)
    return _checked_once(function)


def _checked_once(function):
    """Arguments are checked before the call and the result after it."""
    check = beartype(function)
    if check is function:
        return function
    has_shapes = "jaxtyping" in repr(function.__annotations__)

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not has_shapes:
            return check(*args, **kwargs)
        # The names of axes mean the same length within one call.
        with ORIGINAL("context"):
            return check(*args, **kwargs)

    return call


def _checked_inside(function, typechecker):
    """One check for all functions of one definition that is run again and again."""
    # Annotations of jaxtyping that are equal are different objects.
    key = function.__code__, repr(function.__annotations__)
    if key not in _checks:

        @functools.wraps(function)
        def innermost(*args, **kwargs):
            return _inner.functions[-1](*args, **kwargs)

        _checks[key] = ORIGINAL(innermost, typechecker=typechecker)
        # Else what the first of them refers to would stay in memory.
        del innermost.__wrapped__
    check = _checks[key]

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        # The functions that are running, of which ``innermost`` calls the last.
        _inner.functions.append(function)
        try:
            return check(*args, **kwargs)
        finally:
            _inner.functions.pop()

    return call
