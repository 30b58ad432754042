"""Logits and cache of what a run of TransformerLens returned."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument


def last_logits(
    output: Any, d_vocab: int | None
) -> tuple[Float[Tensor, "rows d_vocab"], Any]:
    """The logits at the last column, and the cache, or None without one.

    Args:
        output: logits, or a pair of logits and a cache.
        d_vocab: the width of logits, if it is known.

    Raises:
        InvalidArgument: it is an activation: a hook stops the run, as that of
            ``run_with_cache`` does with ``stop_at_layer``.
    """
    logits = output
    cache = None
    # A run that stops early returns a tensor in the place of the pair.
    if not isinstance(output, Tensor):
        logits, cache = output
    if d_vocab is not None and logits.shape[-1] != d_vocab:
        raise InvalidArgument(
            "a hook stops the runs of this model at a layer (stop_at_layer of "
            "run_with_cache does so), and this needs their logits; leave it out"
        )
    if not hasattr(cache, "reorder_cache"):
        cache = None
    return logits[:, -1], cache
