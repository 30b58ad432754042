"""What every SAE file format is translated to and from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SAECheckpoint:
    """A TopK SAE on disk.

    Attributes:
        d_model: width of the activations.
        d_sae: number of features.
        k: the k it was trained at; the largest, if there were several.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding.
        tensors: ``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae,
            d_model]`` and ``b_dec [d_model]``.
        levels: the values of k that its training looked at; empty where the file does
            not say.
        normalization: empty, or ``activation_mean [d_model]`` and ``activation_scale
            []``: constants that ``tensors`` already contain, stored so that they can be
            taken out again.
        metadata: everything else in the file; JSON values only.
    """

    d_model: int
    d_sae: int
    k: int
    apply_b_dec_to_input: bool
    tensors: Mapping[str, Tensor]
    levels: Sequence[int] = ()
    normalization: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
