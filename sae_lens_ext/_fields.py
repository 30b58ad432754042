"""Checks of a config's fields that report everything invalid at once."""

from collections.abc import Callable
from typing import Any

from sae_lens_ext.errors import InvalidArgument, SaeLensExtError


class FieldChecks:
    """Checks the fields of a config and raises one error for all that are invalid.

    A checked field is replaced by the value that the check returns, so that equal
    configs are written to JSON alike. Relations between fields go into a second block,
    which is reached only if the fields themselves are valid::

        with FieldChecks(self) as check:
            check(arguments.positive_int, "d_model", "heads")
            check(arguments.finite, "lr", above=0)
            check(arguments.positive_int, "warmup", optional=True)
        with FieldChecks(self) as check:
            check.that(self.heads <= self.d_model, "heads must not exceed d_model")

    Raises:
        InvalidArgument: several fields are invalid. A single one raises its own error.
    """

    def __init__(self, config: object) -> None:
        """Check the fields of ``config``."""
        self._config = config
        self._errors: list[SaeLensExtError] = []

    def __call__(
        self,
        check: Callable[..., Any],
        *names: str,
        optional: bool = False,
        **options: Any,
    ) -> None:
        """Apply ``check(value, name, **options)``; ``optional`` allows None."""
        for name in names:
            value = getattr(self._config, name)
            if value is None and optional:
                continue
            try:
                checked = check(value, name, **options)
            except SaeLensExtError as error:
                self._errors.append(error)
            else:
                object.__setattr__(self._config, name, checked)

    def that(self, holds: bool, message: str) -> None:
        """Report ``message`` unless a relation holds."""
        if not holds:
            self._errors.append(InvalidArgument(message))

    def __enter__(self) -> "FieldChecks":
        """Begin."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Raise what was found, unless the block itself raised."""
        if kind is not None or not self._errors:
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        raise InvalidArgument("; ".join(str(error) for error in self._errors))
