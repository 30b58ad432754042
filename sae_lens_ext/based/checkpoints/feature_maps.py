"""Based or ReBased? The weights say so, or the caller; what a config calls its classes does not count.

``elephantmipt/rebased-360M`` has the config of a Based model. What tells them apart is that ReBased has a norm of its queries and keys with
parameters, and Based has none. As corl-team/rebased and elephantmipt/rebased_minimal write them, these are two LayerNorms ``ln_q`` and
``ln_k`` over all heads. How the models on the hub name them could not be looked up, so any two modules of a mixer pass for them that have
a weight and a bias of one axis, one with a q in its name and no k, the other with a k and no q. fla has one norm for both, over each head:
``feature_map.gamma`` and ``feature_map.beta``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from sae_lens_ext.based.checkpoints.layouts import Shapes
from sae_lens_ext.based.config import FEATURE_MAPS, FeatureMapName
from sae_lens_ext.errors import FormatError


class Norms(NamedTuple):
    """Of queries and keys: their layout, and which of a mixer's published parameters are which of ours."""

    layout: Literal["wide", "shared"]
    names: dict[str, str]


def find_norms(mixers: Iterable[Shapes]) -> Norms | None:
    """What norm of queries and keys the layers of linear attention have, if any has one."""
    shapes = {name: shape for mixer in mixers for name, shape in mixer.items()}
    shared = {"feature_map.gamma": "ln_q.weight", "feature_map.beta": "ln_q.bias"}
    if shared.keys() <= shapes.keys():
        return Norms("shared", shared)
    modules = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 1
        and f"{name.removesuffix('.weight')}.bias" in shapes
    ]
    of_queries = [name for name in modules if "q" in name and "k" not in name]
    of_keys = [name for name in modules if "k" in name and "q" not in name]
    if len(of_queries) != 1 or len(of_keys) != 1:
        return None
    pairs = (of_queries[0], "ln_q"), (of_keys[0], "ln_k")
    return Norms(
        "wide",
        {
            f"{published}.{leaf}": f"{ours}.{leaf}"
            for published, ours in pairs
            for leaf in ("weight", "bias")
        },
    )


def choose_kernel(
    wanted: FeatureMapName | None, norms: Norms | None, path: Path
) -> FeatureMapName:
    """What the caller wants, if the weights can be that; else what they are.

    Raises:
        FormatError: the weights are those of another kernel.
    """
    fitting = [
        name
        for name, feature_map in FEATURE_MAPS.items()
        if feature_map.has_gamma == feature_map.has_beta == (norms is not None)
    ]
    if wanted is None:
        return "based" if norms is None else "rebased"
    if wanted not in fitting:
        there = (
            "there is none" if norms is None else f"there is {', '.join(norms.names)}"
        )
        raise FormatError(
            f"kernel={wanted!r} has other parameters for the norm of queries and keys than the weights of {path.parent} have "
            f"({there}); leave kernel out, or give one of {', '.join(fitting)}"
        )
    return wanted
