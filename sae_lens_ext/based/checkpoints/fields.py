"""Reading the ``config.json`` of another library.

Problems are collected while reading goes on, so that a user sees all of them at once.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
from sae_lens_ext.errors import FormatError, InvalidArgument


class Fields:
    """A JSON object whose fields are read with checks.

    A field that fails its check is reported and replaced by a value with which reading
    can go on; ``check`` raises everything that was reported.
    """

    def __init__(
        self,
        path: Path,
        values: Mapping[str, Any],
        prefix: str = "",
        problems: list[str] | None = None,
    ) -> None:
        """Read an object of a file.

        Args:
            path: the file.
            values: the object.
            prefix: where in the file the object is, such as ``"attn."``.
            problems: the list to report to; None for a new one.
        """
        self.path = path
        self.values = values
        self.prefix = prefix
        self.problems: list[str] = [] if problems is None else problems
        self.read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        """Whether a field has a value other than null."""
        return self.values.get(key) is not None

    def report(self, problem: str) -> None:
        """Remember a problem for ``check``."""
        # Layers that share their options report the same problem.
        if problem not in self.problems:
            self.problems.append(problem)

    def check(self) -> None:
        """Raise all the problems so far.

        Raises:
            FormatError: there are any.
        """
        if self.problems:
            raise FormatError(
                f"{self.path} does not describe a model that can be loaded here: "
                f"{'; '.join(self.problems)}"
            )

    def value(self, key: str, default: Any) -> Any:
        """A field as it is, or the default where it is missing or null."""
        self.read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int | None = None, at_least: int = 1) -> int:
        """An integer; a field without a default must be there."""
        value = self.value(key, default)
        if value is None:
            self.report(f"it lacks {self.prefix}{key}")
            return at_least
        try:
            return arguments.integer(value, f"{self.prefix}{key}", at_least=at_least)
        except InvalidArgument as error:
            self.report(str(error))
            return at_least

    def number(self, key: str, default: float) -> float:
        """A non-negative number."""
        value = self.value(key, default)
        try:
            return arguments.finite(value, f"{self.prefix}{key}", at_least=0.0)
        except InvalidArgument as error:
            self.report(str(error))
            return default

    def expect(self, key: str, default: Any, *supported: Any, effect: str = "") -> Any:
        """One of the values that a model of this package can have.

        Args:
            key: the field.
            default: what the other library takes where the field is missing.
            *supported: the values.
            effect: for the message, what another value changes in the model.
        """
        value = self.value(key, default)
        # Other libraries take null for false.
        if default is True and key in self.values and self.values[key] is None:
            value = None
        if value not in supported:
            choices = " or ".join(map(repr, supported))
            detail = f" ({effect})" if effect else ""
            self.report(
                f"{self.prefix}{key} is {value!r}, and only {choices} is supported "
                f"here{detail}"
            )
            return supported[0]
        return value

    def refuse_others(self, harmless: Collection[str]) -> None:
        """Report the fields that were not read, unless they change no numbers.

        Fields that are off (null, false, 0, empty) or whose name begins with an
        underscore, as those of class paths, are accepted.

        Args:
            harmless: fields that may have any value.
        """
        for key, value in self.values.items():
            is_known = key in self.read or key in harmless or key.startswith("_")
            if value and not is_known:
                self.report(
                    f"{self.prefix}{key} is {value!r}, an option that is not known "
                    "here and may change what the model computes"
                )

    def layers(self, key: str, n_layers: int) -> set[int]:
        """A list of layer numbers; empty where it is missing."""
        value = self.value(key, [])
        is_valid = isinstance(value, list) and all(
            isinstance(layer, int) and 0 <= layer < n_layers for layer in value
        )
        if not is_valid:
            self.report(
                f"{self.prefix}{key} must list layers from 0 to {n_layers - 1}; "
                f"got {described(value)}"
            )
            return set()
        return set(value)

    def section(self, key: str) -> "Fields":
        """The object in a field; an empty one where it is missing."""
        return self.nested(key, self.value(key, {}))

    def nested(self, name: str, value: Any) -> "Fields":
        """An object that stands inside of this one under ``name``."""
        if not isinstance(value, Mapping):
            self.report(
                f"{self.prefix}{name} must be an object; got {described(value)}"
            )
            value = {}
        return Fields(self.path, value, f"{self.prefix}{name}.", self.problems)
