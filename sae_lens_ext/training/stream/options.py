"""Options that several streams have."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument


def checked_dtype(dtype: Any) -> torch.dtype:
    """The dtype of activations: float32 or bfloat16.

    Raises:
        InvalidArgument: any other; for float16, the message says why.
    """
    checked = arguments.dtype(dtype)
    if checked == torch.float16:
        raise InvalidArgument(
            "dtype must be float32 or bfloat16; float16 overflows on models of the "
            "Gemma family (one token in a thousand)"
        )
    if checked not in (torch.float32, torch.bfloat16):
        raise InvalidArgument(f"dtype must be float32 or bfloat16; got {dtype!r}")
    return checked


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
