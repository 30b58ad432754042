"""Selections of positions and of rows: as users write them, and frozen.

A user writes a slice, a list of integers, a boolean mask, ``"all"`` or None. The frozen
form can be compared and written as JSON: None for everything, a slice, a tuple of
integers, or a (nested) tuple of booleans.

>>> frozen_positions([0, -1]), frozen_positions(torch.tensor([True, False]))
((0, -1), (True, False))
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument, ShapeMismatch

Positions = slice | Tensor | Sequence[Any] | str | None
"""A slice of positions of the text, a list of them, a boolean mask over columns of the
batch (``[batch, pos]`` or ``[pos]``), ``"all"``, or None for the default.
"""


def frozen_positions(positions: Any) -> Any:
    """Freeze a selection of positions; a mask may be ``[pos]`` or ``[batch, pos]``.

    Raises:
        InvalidArgument: not a selection.
    """
    return _frozen(
        positions, "positions", (1, 2), "a boolean mask [batch, pos] or [pos]"
    )


def frozen_rows(rows: Any) -> Any:
    """Freeze a selection of rows of the batch; a mask must be ``[batch]``.

    Raises:
        InvalidArgument: not a selection.
    """
    return _frozen(rows, "rows", (1,), "a boolean mask")


def checked_slice(value: slice, name: str) -> slice:
    """A slice with integer bounds and a positive step, as it came.

    Raises:
        InvalidArgument: any other slice.
    """
    bounds = [
        arguments.as_integer(bound)
        for bound in (value.start, value.stop, value.step)
        if bound is not None
    ]
    # A negative step would reverse the order, which a selection does not have.
    is_backwards = value.step is not None and value.step < 1
    if None in bounds or is_backwards:
        raise InvalidArgument(
            f"a slice of {name} must have integer bounds and a positive step; "
            f"got {value}"
        )
    return value


def as_mask(selection: Any) -> Tensor | None:
    """A frozen selection as the boolean tensor that it is; None for any other."""
    if isinstance(selection, slice):
        return None
    tensor = torch.as_tensor(selection)
    return tensor if tensor.dtype == torch.bool else None


def mask_along(selection: Any, total: int) -> Bool[Tensor, " total"]:
    """A mask over ``total`` positions, or rows, that a frozen selection chooses.

    Negative numbers count from the end; numbers that are out of range choose nothing.

    Raises:
        ShapeMismatch: the selection is a mask of another length.
    """
    mask = torch.zeros(total, dtype=torch.bool)
    if isinstance(selection, slice):
        mask[selection] = True
        return mask

    numbers = torch.as_tensor(selection)
    if numbers.dtype == torch.bool:
        if len(numbers) != total:
            raise ShapeMismatch(
                f"the mask in rows has {len(numbers)} entries; "
                f"this run has {total} rows"
            )
        return numbers

    from_start = torch.where(numbers < 0, numbers + total, numbers)
    # In cached generation a run does not reach every position that is named.
    is_inside = (from_start >= 0) & (from_start < total)
    mask[from_start[is_inside]] = True
    return mask


def positions_to_json(selection: Any) -> Any:
    """A frozen selection as a JSON value."""
    if isinstance(selection, slice):
        return {"slice": [selection.start, selection.stop, selection.step]}
    return selection


def positions_from_json(content: Any) -> Any:
    """The inverse of ``positions_to_json``."""
    if isinstance(content, dict) and set(content) == {"slice"}:
        return slice(*content["slice"])
    return content


def _frozen(
    selection: Any,
    name: str,
    mask_axes: tuple[int, ...],
    mask_words: str,
) -> Any:
    if selection is None or (isinstance(selection, str) and selection == "all"):
        return None
    if isinstance(selection, slice):
        return checked_slice(selection, name)

    try:
        tensor = torch.as_tensor(selection)
    except (TypeError, ValueError, RuntimeError):
        # Not a selection; reported below, with everything else that is not.
        tensor = torch.zeros(())

    # Plain tuples can be compared, hashed and written as JSON; tensors cannot.
    is_boolean = tensor.dtype == torch.bool
    if is_boolean and tensor.ndim in mask_axes:
        return _nested_tuple(tensor.tolist())
    is_integral = not is_boolean and not tensor.is_floating_point()
    if is_integral and tensor.ndim == 1 and tensor.numel():
        return tuple(tensor.tolist())

    description = repr(selection)
    if isinstance(selection, Tensor):
        description = f"a {tensor.dtype} tensor {list(tensor.shape)}"
    raise InvalidArgument(
        f"{name} must be a slice, a list of integers, {mask_words}, 'all' or None; "
        f"got {description}"
    )


def _nested_tuple(values: list[Any]) -> tuple[Any, ...]:
    return tuple(
        _nested_tuple(value) if isinstance(value, list) else value for value in values
    )
