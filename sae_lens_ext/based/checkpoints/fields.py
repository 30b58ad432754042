"""Reading another library's ``config.json``: every complaint is kept, so that a user reads all of them at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext.errors import FormatError


class Fields:
    """A JSON object with questions that remember what was wrong with the answer.

    A question that has no good answer is noted and returns a value that lets reading go on; ``check`` raises what was noted.
    """

    def __init__(
        self,
        path: Path,
        values: Mapping[str, Any],
        inside: str = "",
        complaints: list[str] | None = None,
    ) -> None:
        """Of the object ``values`` in the file ``path``, which is found there under ``inside``."""
        self.path, self.values, self.inside = path, values, inside
        self.complaints: list[str] = [] if complaints is None else complaints

    def __contains__(self, key: str) -> bool:
        """Whether it says anything else than null."""
        return self.values.get(key) is not None

    def complain(self, text: str) -> None:
        """Note what is wrong."""
        if text not in self.complaints:
            self.complaints.append(text)

    def check(self) -> None:
        """Raise everything that was noted.

        Raises:
            FormatError: there was something.
        """
        if self.complaints:
            raise FormatError(
                f"{self.path} describes no model that can be loaded here: {'; '.join(self.complaints)}"
            )

    def value(self, key: str, default: Any) -> Any:
        """Whatever it says; null is the default too."""
        found = self.values.get(key)
        return default if found is None else found

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number; without a default it must be there."""
        found = self.value(key, default)
        if found is None:
            self.complain(f"it lacks {self.inside}{key}")
        elif isinstance(found, bool) or not isinstance(found, int) or found < least:
            self.complain(
                f"{self.inside}{key} must be a whole number of at least {least}, and is {found!r}"
            )
        else:
            return found
        return least

    def number(self, key: str, default: float) -> float:
        """A number that is not negative."""
        found = self.value(key, default)
        if (
            isinstance(found, int | float)
            and not isinstance(found, bool)
            and found >= 0
        ):
            return float(found)
        self.complain(
            f"{self.inside}{key} must be a number of at least 0, and is {found!r}"
        )
        return default

    def expect(self, key: str, default: Any, *known: Any) -> Any:
        """One of the values for which there is a model here; the default is what the other library takes if it is not said."""
        found = self.value(key, default)
        if found not in known:
            self.complain(
                f"{self.inside}{key} is {found!r}, and only {' or '.join(map(repr, known))} is known here"
            )
            return known[0]
        return found

    def places(self, key: str, n_layers: int) -> set[int]:
        """A list of layers; none if it is not there."""
        found = self.value(key, [])
        if not isinstance(found, list) or not all(
            isinstance(one, int) and 0 <= one < n_layers for one in found
        ):
            self.complain(
                f"{self.inside}{key} must list layers from 0 to {n_layers - 1}, and is {found!r}"
            )
            return set()
        return set(found)

    def within(self, key: str) -> "Fields":
        """An object inside of it; an empty one if it is not there."""
        return self.nested(key, self.value(key, {}))

    def nested(self, name: str, found: Any) -> "Fields":
        """The same for a value that was found under a name."""
        if not isinstance(found, Mapping):
            self.complain(f"{self.inside}{name} must be an object, and is {found!r}")
            found = {}
        return Fields(self.path, found, f"{self.inside}{name}.", self.complaints)
