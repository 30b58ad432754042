"""Whether weights are of Based or ReBased, or of one of the kernels between them.

The weights decide, or the caller; the classes that a config names do not count, since
``elephantmipt/rebased-360M`` has the config of a Based model. What tells the two apart
is that ReBased has a norm of its queries and keys with parameters, and Based has none.

corl-team/rebased and elephantmipt/rebased_minimal write that norm as two LayerNorms
``ln_q`` and ``ln_k`` over all heads. How the models on the hub name them could not be
looked up, so any two modules of a mixer pass for them that have a weight and a bias of
one axis, one with a q in its name and no k, the other with a k and no q. fla has one
norm for both, over each head: ``feature_map.gamma`` and ``feature_map.beta``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from sae_lens_ext.based.checkpoints.layouts import Shapes
from sae_lens_ext.based.config import FEATURE_MAPS, FeatureMapName
from sae_lens_ext.errors import FormatError

_SHARED_NAMES = {"feature_map.gamma": "ln_q.weight", "feature_map.beta": "ln_q.bias"}


class Norms(NamedTuple):
    """The norms of queries and keys in published weights."""

    layout: Literal["wide", "shared"]
    """``norm_layout`` of ``BasedConfig``."""
    names: dict[str, str]
    """Published names of their parameters, relative to a mixer -> our names."""


def find_norms(mixers: Iterable[Shapes]) -> Norms | None:
    """Find the norms of queries and keys among the tensors of linear attention.

    Args:
        mixers: the tensors of each layer's mixer, relative to it.

    Returns:
        None if the layers have no such norms.
    """
    shapes = {name: shape for mixer in mixers for name, shape in mixer.items()}
    if _SHARED_NAMES.keys() <= shapes.keys():
        return Norms("shared", _SHARED_NAMES)

    # Modules that look like a LayerNorm.
    modules = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 1
        and f"{name.removesuffix('.weight')}.bias" in shapes
    ]
    query_norms = [name for name in modules if "q" in name and "k" not in name]
    key_norms = [name for name in modules if "k" in name and "q" not in name]
    # Of several candidates, none can be trusted to be the norm.
    if len(query_norms) != 1 or len(key_norms) != 1:
        return None

    names = {}
    for published, ours in ((query_norms[0], "ln_q"), (key_norms[0], "ln_k")):
        for leaf in ("weight", "bias"):
            names[f"{published}.{leaf}"] = f"{ours}.{leaf}"
    return Norms("wide", names)


def choose_kernel(
    kernel: FeatureMapName | None, norms: Norms | None, path: Path
) -> FeatureMapName:
    """Return the kernel that the caller names, or else the one that the weights are of.

    Args:
        kernel: named by the caller, or None.
        norms: what ``find_norms`` has found.
        path: the ``config.json`` beside the weights.

    Raises:
        FormatError: the weights cannot be of that kernel.
    """
    if kernel is None:
        return "based" if norms is None else "rebased"

    # A kernel with a factor and no shift fits neither.
    has_norms = norms is not None
    fitting = [
        name
        for name, feature_map in FEATURE_MAPS.items()
        if feature_map.has_gamma == feature_map.has_beta == has_norms
    ]
    if kernel not in fitting:
        parameters = "none" if norms is None else ", ".join(norms.names)
        raise FormatError(
            f"kernel={kernel!r} has other parameters for the norm of queries and keys "
            f"than the weights of {path.parent} ({parameters}); leave kernel out, or "
            f"use one of {', '.join(fitting)}"
        )
    return kernel
