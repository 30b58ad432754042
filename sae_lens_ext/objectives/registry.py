"""Objectives by name, as a command line or a file names them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sae_lens_ext.errors import InvalidArgument, closest
from sae_lens_ext.objectives.base import Objective
from sae_lens_ext.objectives.batch_topk import BatchTopK
from sae_lens_ext.objectives.hierarchical import HierarchicalTopK
from sae_lens_ext.objectives.jumprelu import JumpReLU
from sae_lens_ext.objectives.matryoshka import Matryoshka
from sae_lens_ext.objectives.multi_topk import MultiTopK
from sae_lens_ext.objectives.relu import ReLU
from sae_lens_ext.objectives.topk import TopK

OBJECTIVES: Mapping[str, type[Any]] = {
    "hierarchical": HierarchicalTopK,
    "topk": TopK,
    "multitopk": MultiTopK,
    "batchtopk": BatchTopK,
    "jumprelu": JumpReLU,
    "matryoshka": Matryoshka,
    "relu": ReLU,
}
"""The objectives by name; the options of each are its fields.

``AuxK``, which is added to any of them, is not among them.
"""


def objective_named(name: str, **options: Any) -> Objective:
    """The objective with a name, and with these values of its fields.

    >>> objective_named("multitopk", weight=0.25)
    MultiTopK(factor=4, weight=0.25)

    Raises:
        InvalidArgument: no such objective or option, or an invalid value.
    """
    if name not in OBJECTIVES:
        raise InvalidArgument(
            f"objective must be one of {', '.join(OBJECTIVES)}; got {name!r}"
        )
    kind = OBJECTIVES[name]
    known = option_names(name)
    for option in options:
        if option not in known:
            advice = (
                f"the closest: {closest(option, known)}" if known else "it has none"
            )
            raise InvalidArgument(
                f"the objective {name} has no option {option!r}; {advice}"
            )
    return kind(**options)


def option_names(name: str) -> tuple[str, ...]:
    """The names of an objective's options.

    >>> option_names("jumprelu"), option_names("topk")
    (('bandwidth', 'coefficient'), ())
    """
    return tuple(field.name for field in fields(OBJECTIVES[name]) if field.init)
