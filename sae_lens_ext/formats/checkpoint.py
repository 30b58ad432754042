"""What every SAE file format is translated to and from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sae_lens_ext._types import Kind, TokenNorm


@dataclass(frozen=True, kw_only=True)
class SAECheckpoint:
    """An SAE or transcoder on disk.

    Attributes:
        d_model: width of the activations that it reads.
        d_sae: number of features.
        kind: how its active features are chosen.
        k: the k it was trained at, the largest if there were several; None for a kind
            without one.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted before encoding.
        tensors: ``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_out]``
            and ``b_dec [d_out]``; with ``threshold [d_sae]`` for kinds that have one,
            and ``W_skip [d_model, d_out]`` for a transcoder with a skip connection.
        d_out: width of what a transcoder writes; None for an autoencoder, which writes
            what it reads.
        token_norm: how each token's activation is normalised before it is encoded;
            reconstructions are scaled back.
        levels: the values of k that its training looked at; empty where the file does
            not say.
        normalization: empty, or ``activation_mean [d_model]`` and ``activation_scale
            []``: constants that ``tensors`` already contain, stored so that they can be
            taken out again.
        metadata: everything else that is known about it, JSON values only; among them
            ``hook_name``, ``hook_name_out``, ``model_name`` and
            ``exclude_special_tokens``, where the layout tells.
    """

    d_model: int
    d_sae: int
    kind: Kind = "topk"
    k: int | None
    apply_b_dec_to_input: bool
    tensors: Mapping[str, Tensor]
    d_out: int | None = None
    token_norm: TokenNorm = "none"
    levels: Sequence[int] = ()
    normalization: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
