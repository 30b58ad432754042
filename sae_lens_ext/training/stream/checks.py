"""Checks of streams that people write themselves."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, NonFinite, ShapeMismatch
from sae_lens_ext.training.stream.base import (
    ActivationStream,
    SiteStatistics,
    StreamState,
)

# The methods and attributes of the protocol.
_NAMES = tuple(
    name
    for name in (*ActivationStream.__annotations__, *vars(ActivationStream))
    if not name.startswith("_")
)
_METHODS = tuple(
    name
    for name, value in vars(ActivationStream).items()
    if not name.startswith("_") and callable(value)
)


def missing_of_stream(activations: Any) -> list[str]:
    """What an object that gives batches lacks of a stream; all that gives none."""
    return [
        name
        for name in _NAMES
        if not hasattr(activations, name)
        or (name in _METHODS and not callable(getattr(activations, name)))
    ]


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


def checked_state(state: Any) -> StreamState:
    """What ``ActivationStream.state`` returned, if a checkpoint can hold it.

    Raises:
        InvalidArgument: it is no StreamState, or one of other values than JSON and
            tensors.
    """
    if not isinstance(state, StreamState) or not all(
        isinstance(tensor, Tensor) for tensor in state.tensors.values()
    ):
        raise InvalidArgument(
            "state() of the stream must return StreamState(facts, tensors), with JSON "
            f"values and tensors; got {_described(state)}"
        )
    try:
        json.dumps(dict(state.facts))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the facts of the stream's state() must be JSON values ({error})"
        ) from error
    return state


def check_batch(batch: Any, widths: Mapping[str, int], n_tokens: int) -> None:
    """Check that a batch has activations of these sites.

    Args:
        batch: what ``ActivationStream.next_batch`` returned.
        widths: of the activations of the sites.
        n_tokens: how many tokens were asked for.

    Raises:
        InvalidArgument: a site is missing, or is no tensor of floats.
        ShapeMismatch: another width, different numbers of tokens, or too many.
    """
    if not isinstance(batch, Mapping) or not widths.keys() <= batch.keys():
        raise InvalidArgument(
            f"next_batch() of the stream must return a mapping from "
            f"{', '.join(widths)} to tensors [token, width]; got {_described(batch)}"
        )
    lengths = set()
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
        lengths.add(len(values))
    if max(lengths) > n_tokens:
        raise ShapeMismatch(
            f"next_batch() of the stream must return at most the {n_tokens} tokens "
            f"that it is asked for; got {max(lengths)}"
        )
    if len(lengths) > 1:
        raise ShapeMismatch(
            "next_batch() of the stream must return the same tokens at every site; got "
            f"{' and '.join(map(str, sorted(lengths)))}"
        )


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, value)) or 'nothing'}"
    return f"an object of type {type(value).__name__}"
