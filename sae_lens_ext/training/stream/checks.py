"""Checks of streams that people write themselves."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.training.stream.base import ActivationStream, SiteStatistics

# The methods and attributes of the protocol.
_NAMES = tuple(
    name
    for name in (*ActivationStream.__annotations__, *vars(ActivationStream))
    if not name.startswith("_")
)


def missing_of_stream(activations: Any) -> list[str]:
    """What an object that gives batches lacks of a stream; all that gives none."""
    return [name for name in _NAMES if not hasattr(activations, name)]


def checked_statistics(
    statistics: Any, widths: Mapping[str, int]
) -> dict[str, SiteStatistics]:
    """The constants of these sites, as tensors.

    Args:
        statistics: what ``ActivationStream.statistics`` returned; scale and norm may be
            Python's numbers.
        widths: of the activations of the sites.

    Raises:
        InvalidArgument: a site is missing, or a scale is not positive.
        ShapeMismatch: a mean of another width, or a scale that is not one number.
        NonFinite: a mean contains NaN or infinity.
    """
    checked = {}
    for site, width in widths.items():
        constants = statistics.get(site) if isinstance(statistics, Mapping) else None
        if not isinstance(constants, SiteStatistics):
            raise InvalidArgument(
                "statistics() of the stream must return a mapping with "
                f"SiteStatistics(mean, scale, largest_norm) for {site}; got "
                f"{_described(statistics if constants is None else constants)}"
            )
        mean, scale, largest_norm = (
            torch.as_tensor(value, dtype=torch.float32) for value in constants
        )
        shapes = [list(each.shape) for each in (mean, scale, largest_norm)]
        if shapes != [[width], [], []]:
            raise ShapeMismatch(
                f"the mean of {site} must be [{width}], its scale and largest norm one "
                f"number each; statistics() of the stream has {shapes}"
            )
        if not bool(torch.isfinite(mean).all()):
            raise NonFinite(f"the mean of {site} in the stream's statistics is NaN")
        if not 0 < scale.item() < float("inf"):
            raise InvalidArgument(
                f"the scale of {site} in the stream's statistics must be positive; got "
                f"{scale.item():g}"
            )
        checked[site] = SiteStatistics(mean, scale, largest_norm)
    return checked


def check_batch(batch: Any, widths: Mapping[str, int]) -> None:
    """Check that a batch has activations of these sites.

    Args:
        batch: what ``ActivationStream.next_batch`` returned.
        widths: of the activations of the sites.

    Raises:
        InvalidArgument: a site is missing, or is no tensor of floats.
        ShapeMismatch: another width, or different numbers of tokens.
    """
    if not isinstance(batch, Mapping) or not widths.keys() <= batch.keys():
        raise InvalidArgument(
            f"next_batch() of the stream must return a mapping from "
            f"{', '.join(widths)} to tensors [token, width]; got {_described(batch)}"
        )
    n_tokens = set()
    for site, width in widths.items():
        values = batch[site]
        if not isinstance(values, Tensor) or not values.is_floating_point():
            got = values.dtype if isinstance(values, Tensor) else _described(values)
            raise InvalidArgument(
                f"next_batch() of the stream must return floats for {site}; got {got}"
            )
        if values.ndim != 2 or values.shape[1] != width:
            raise ShapeMismatch(
                f"next_batch() of the stream must return [token, {width}] for {site}; "
                f"got {list(values.shape)}"
            )
        n_tokens.add(len(values))
    if len(n_tokens) > 1:
        raise ShapeMismatch(
            "next_batch() of the stream must return the same tokens at every site; got "
            f"{' and '.join(map(str, sorted(n_tokens)))}"
        )


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, value)) or 'nothing'}"
    return f"an object of type {type(value).__name__}"
