"""Directions in an activation that come from examples, without an SAE."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument, NonFinite
from sae_lens_ext.hosts import Host, capture, host_for, token_rows
from sae_lens_ext.interventions.positions import (
    Positions,
    SplicedPositions,
    frozen_positions,
    known_special_ids,
)
from sae_lens_ext.interventions.shapes import check_activation

# A large set of examples is not held in memory at once.
_ROWS_AT_ONCE = 32


def difference_in_means(
    model: Any,
    site: str,
    positive: Any,
    negative: Any,
    *,
    positions: Positions = None,
) -> Float[Tensor, " d_model"]:
    """The mean activation of one set of examples less that of another.

    A direction to steer along with ``AddDirection``: the baseline that methods of
    steering are usually compared with, and that is hard to beat. The model runs as it
    stands: splices and hooks that are active take part.

    Args:
        model: as in ``splice``.
        site: where; any name the model knows.
        positive: tokens in any form that ``token_batch`` takes, such as a list of
            texts, which may differ in length.
        negative: the same, for what to steer away from.
        positions: the positions of each example that count, such as ``[-1]`` for the
            last of each; None means all except special tokens.

    Raises:
        UnknownSite: the model has no such site.
        InvalidArgument: ``site`` is not a string, there are no examples, or
            ``positions`` chooses no position of them.
        NonFinite: the model produced NaN or infinity there.

    Source: Marks and Tegmark 2023 ("mass-mean" directions); Wu et al. 2025, AxBench,
    for the comparison.
    """
    if not isinstance(site, str):
        raise InvalidArgument(
            "site must be a name such as 'blocks.12.hook_resid_post', before the "
            f"examples; got an object of type {type(site).__name__}"
        )
    host = host_for(model).plain()
    special_ids = ()
    if positions is None:
        special_ids = known_special_ids(host, "means")
    where = SplicedPositions(frozen_positions(positions), special_ids)

    positive_mean = _mean(host, site, positive, where, "positive")
    negative_mean = _mean(host, site, negative, where, "negative")
    return positive_mean - negative_mean


def _mean(
    host: Host,
    name: str,
    examples: Any,
    where: SplicedPositions,
    label: str,
) -> Float[Tensor, " d_model"]:
    """The mean activation over the chosen positions of all examples."""
    site = host.site(name)
    tokens = token_rows(host, examples)
    total = None
    count = 0
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        rows = tokens[start : start + _ROWS_AT_ONCE]
        with torch.no_grad():
            activation = capture(host, rows, [site])[site]
        check_activation(name, activation)
        mask = where.mask_of(rows)
        example_sum = activation[mask.to(activation.device)].double().sum(0)
        total = example_sum if total is None else total + example_sum
        count += int(mask.sum())

    if total is None or not count:
        raise InvalidArgument(
            f"no position of the {label} examples is chosen, so they have no mean"
        )
    mean = (total / count).float()
    if not torch.isfinite(mean).all():
        raise NonFinite(
            f"activations of the {label} examples at {name} hold NaN or infinity; "
            "check the model's weights and dtype"
        )
    return mean
