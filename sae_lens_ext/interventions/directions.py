"""Directions in an activation that come from examples, without an SAE."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.hosts import Host, capture, host_for, token_rows
from sae_lens_ext.interventions.positions.window import (
    Positions,
    SplicedPositions,
    frozen_positions,
)


def difference_in_means(
    model: Any, site: str, positive: Any, negative: Any, *, positions: Positions = None
) -> Float[Tensor, " d_model"]:
    """The mean activation of one set of examples less that of another: a direction to steer along with ``AddDirection``.

    A baseline that methods of steering are usually compared with, and that is hard to beat. The model runs as it stands: splices
    and hooks that are active take part.

    Args:
        model: as in ``splice``.
        site: where; any name the model knows.
        positive: token ids ``[batch, pos]`` without padding, a text, or a list of texts, which may differ in length.
        negative: the same, for what to steer away from.
        positions: which positions of each example count, such as ``[-1]`` for the last; None means all that are no special tokens.

    Raises:
        UnknownSite: no such site.
        InvalidArgument: no name of a site, no example, or none of its positions chosen.

    Source: Marks and Tegmark 2023 ("mass-mean" directions); Wu et al. 2025, AxBench, for the comparison.
    """
    if not isinstance(site, str):
        raise InvalidArgument(
            f"site must be a name such as 'blocks.12.hook_resid_post', before the examples; got a {type(site).__name__}"
        )
    host = host_for(model).plain()
    special = tuple(sorted(host.special_token_ids())) if positions is None else ()
    where = SplicedPositions(frozen_positions(positions, "positions"), special)
    return _mean(host, site, positive, where, "positive") - _mean(
        host, site, negative, where, "negative"
    )


def _mean(
    host: Host, name: str, examples: Any, where: SplicedPositions, what: str
) -> Float[Tensor, " d_model"]:
    site = host.site(name)
    several = (
        isinstance(examples, Sequence)
        and not isinstance(examples, str)
        and all(isinstance(one, str) for one in examples)
    )
    total, count = None, 0
    for one in examples if several else [examples]:
        tokens = token_rows(host, one)
        with torch.no_grad():
            activation = capture(host, tokens, [site])[site]
        mask = where.mask_of(tokens)
        part = activation[mask.to(activation.device)].double().sum(0)
        total, count = part if total is None else total + part, count + int(mask.sum())
    if total is None or not count:
        raise InvalidArgument(
            f"no position of the {what} examples is chosen, so they have no mean"
        )
    return (total / count).float()
