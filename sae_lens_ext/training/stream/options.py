"""Options that several streams have."""

from typing import Any

import torch

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._described import described
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
        raise InvalidArgument(
            f"dtype must be float32 or bfloat16; got {described(dtype)}"
        )
    return checked
