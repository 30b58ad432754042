"""What a model is called."""

from collections.abc import Sequence
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
    """The name of a model for readers of a page, a figure or a file.

    A model that was read from a folder is named by its path. Readers elsewhere do not
    have that path, so they see its last part alone; for a folder of the Hugging Face
    cache, the repository that it is a copy of.

    >>> shown_name("/home/me/models/mine"), shown_name("../models/mine")
    ('mine', 'mine')
    >>> shown_name("google/gemma-2-2b")
    'google/gemma-2-2b'
    """
    # As one system writes paths or another: the model may come from elsewhere.
    parts = name.replace("\\", "/").rstrip("/").split("/")
    for part in reversed(parts[:-1]):
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")

    # A repository is called "name" or "owner/name".
    first = parts[0]
    is_path = len(parts) > 2 or first in ("", ".", "..", "~") or first.endswith(":")
    return parts[-1] if is_path else name
