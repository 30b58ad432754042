"""Further measures of an SAE in training, which ``train`` takes as ``measure``."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sae_lens_ext.errors import InvalidArgument, closest
from sae_lens_ext.interventions import sweep_k
from sae_lens_ext.sae import SAE

Measure = Callable[[SAE], Mapping[str, float]]
"""Numbers by name, of an SAE that reads activations as they are.

It is called without gradients, with the SAE in training, which it must not change.
"""


def measured(measure: Measure, sae: SAE) -> dict[str, float]:
    """What a measure says of an SAE.

    Raises:
        InvalidArgument: it did not return numbers by name.
    """
    numbers = measure(sae)
    try:
        return {str(name): float(value) for name, value in numbers.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError):
        raise InvalidArgument(
            "measure must return numbers by name, such as {'error': 0.1}; got "
            f"{numbers!r}"
        ) from None


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

    Raises:
        InvalidArgument: ``sweep_k`` has no such option.
    """

    # An iterator can be read once, and there are several evaluations.
    chosen = list(ks) if isinstance(ks, Iterable) else ks
    # Now, and not at the first evaluation.
    known = set(inspect.signature(sweep_k).parameters) - {
        "model",
        "tokens",
        "sae",
        "ks",
    }
    for name in options:
        if name not in known:
            raise InvalidArgument(
                f"sweep_k has no option {name!r}; the closest: {closest(name, known)}"
            )

    def measure(sae: SAE) -> dict[str, float]:
        table = sweep_k(model, tokens, sae, chosen, **{"progress": False, **options})
        return {
            f"{name}/k={k}": float(value)
            for name in ("ce", "ce_recovered")
            for k, value in zip(table["k"], table[name], strict=True)
        }

    return measure
