"""What tells one item of an iterable from another, cheaply and as JSON."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers of a tensor, and items of a list, that are looked at.
_SAMPLES = 16
# Relative to the largest number: what a GPU computes twice differs in its last digits.
_TOLERANCE = 1e-2


def sketch(item: Any) -> Any:
    """A digest of text and of token ids, and a few numbers of activations.

    Lists, mappings and dataclasses of them are sketched part by part. Any other object
    counts by its type.

    >>> sketch(torch.arange(3) / 2)
    {'shape': [3], 'numbers': [0.0, 0.5, 1.0]}
    >>> sketch({"text": "one", "ids": [4, 5]}) == sketch({"text": "one", "ids": [4, 6]})
    False
    """
    if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
        item = torch.as_tensor(item)
    if isinstance(item, Tensor):
        numbers = _sample(item)
        shape = list(item.shape)
        if item.is_floating_point():
            return {"shape": shape, "numbers": numbers}
        return _digest(f"{shape} {numbers}")
    if is_dataclass(item):
        item = {field.name: getattr(item, field.name) for field in fields(item)}
    if isinstance(item, Mapping):
        return {str(key): sketch(value) for key, value in item.items()}
    if isinstance(item, Sequence) and not isinstance(item, str | bytes):
        if all(isinstance(part, int) for part in item):
            return _digest(repr(list(item)))
        return [len(item), *(sketch(part) for part in item[:_SAMPLES])]
    if isinstance(item, str | bytes | int | float | None):
        return _digest(repr(item))
    return type(item).__name__


def is_same(before: Any, now: Any) -> bool:
    """Whether two sketches are of the same item; numbers may differ a little.

    >>> is_same(sketch(torch.tensor([1.0, 3.0])), sketch(torch.tensor([1.001, 3.0])))
    True
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return before.keys() == now.keys() and all(
            is_same(before[key], now[key]) for key in before
        )
    if not isinstance(before, list) or not isinstance(now, list):
        return before == now
    if len(before) != len(now):
        return False
    if all(isinstance(number, float) for number in [*before, *now]):
        return _are_close(before, now)
    return all(map(is_same, before, now))


def _are_close(before: list[float], now: list[float]) -> bool:
    largest = max(map(abs, before), default=0.0)
    return all(
        abs(there - here) <= _TOLERANCE * largest
        for there, here in zip(before, now, strict=True)
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _sample(tensor: Tensor) -> list[Any]:
    """Some numbers, from the first to the last; none of tensors without a layout."""
    if tensor.layout != torch.strided:
        return []
    numbers = tensor.detach().reshape(-1)
    if numbers.device.type == "meta" or not len(numbers):
        return []
    n_samples = min(_SAMPLES, len(numbers))
    places = torch.linspace(0, len(numbers) - 1, n_samples, dtype=torch.float64)
    return numbers[places.round().long().to(numbers.device)].tolist()
