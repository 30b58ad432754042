"""What features stand for, as users pass it."""

from collections.abc import Mapping
from typing import Any

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument


def checked_labels(labels: Any) -> dict[int, str]:
    """Labels as text by feature number; features whose label is None are left out.

    >>> checked_labels({981: "Paris", 4: None}), checked_labels(None)
    ({981: 'Paris'}, {})

    Raises:
        InvalidArgument: not a mapping from feature numbers to text.
    """
    if labels is None:
        return {}
    is_mapping = isinstance(labels, Mapping)
    pairs = list(labels.items()) if is_mapping else []
    numbers = [arguments.as_integer(feature) for feature, _ in pairs]
    is_text = all(isinstance(label, str | None) for _, label in pairs)
    if not is_mapping or None in numbers or not is_text:
        raise InvalidArgument(
            "labels must be texts by feature number, such as {981: 'Paris'}; "
            f"got {labels!r}"
        )
    return {int(feature): label for feature, label in pairs if label is not None}
