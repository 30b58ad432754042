"""Further measures of an SAE in training, which ``train`` takes as ``measure``."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sae_lens_ext.interventions import sweep_k
from sae_lens_ext.sae import SAE

Measure = Callable[[SAE], Mapping[str, float]]
"""Numbers by name, of an SAE that reads activations as they are."""


def recovered_ce(
    model: Any, tokens: Any, ks: Iterable[int | None] | None = None, **options: Any
) -> Measure:
    """The share of the model's cross-entropy that an SAE recovers at several k.

    ::

        train(..., measure=recovered_ce(model, held_out_tokens, ks=[8, 32]))

    Args:
        model: the model; see ``sweep_k``, which does the work.
        tokens: held-out tokens. A few thousand are enough.
        ks: values of k.
        **options: of ``sweep_k``, such as ``score``.
    """

    def measure(sae: SAE) -> dict[str, float]:
        table = sweep_k(model, tokens, sae, ks, **{"progress": False, **options})
        return {
            f"{name}/k={k}": float(value)
            for name in ("ce", "ce_recovered")
            for k, value in zip(table["k"], table[name], strict=True)
        }

    return measure
