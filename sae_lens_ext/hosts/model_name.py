"""What a model is called."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any


def name_of_model(model: Any) -> str | None:
    """What a model's config calls it; None where it has no name."""
    places: Sequence[Any] = (
        getattr(model, "cfg", None),
        getattr(model, "config", None),
    )
    for config in places:
        for field in ("model_name", "name_or_path", "_name_or_path"):
            name = getattr(config, field, None)
            if isinstance(name, str) and name:
                return name
    return None


def shown_name(name: str) -> str:
    """The name of a model for readers of a page or a figure.

    A model that was read from a folder is named by its path. Readers elsewhere do not
    have that path, so they see its last part alone.

    >>> shown_name("/home/me/models/mine")
    'mine'
    >>> shown_name("google/gemma-2-2b")
    'google/gemma-2-2b'
    """
    path = PurePath(name)
    return path.name if path.is_absolute() else name
