"""Moving the mean and scale of the activations into an SAE's biases, and out again.

An SAE computes on u = (x - mean) * scale. ReLU and the choice of the k largest do not
change when every pre-activation is divided by the scale, nor do thresholds that are
divided with them, so changing the biases and thresholds gives the same function of x:
the decoder rows keep their norm, and the features are then in units of the activations.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


def fold(
    weights: Mapping[str, Tensor],
    mean: Float[Tensor, " d_model"],
    scale: Float[Tensor, ""],
    *,
    has_pre_bias: bool,
) -> dict[str, Tensor]:
    """The weights that do on x what ``weights`` do on (x - mean) * scale.

    Their reconstructions are in the units of x too.

    Args:
        weights: ``W_enc``, ``b_enc``, ``W_dec`` and ``b_dec``, and ``threshold`` where
            there is one.
        mean: centre of the activations.
        scale: factor that brings them to a common size.
        has_pre_bias: whether ``b_dec``, and so the mean, is subtracted before encoding.
    """
    b_enc = weights["b_enc"] / scale
    # With a pre-bias the encoder sees the mean subtracted as part of b_dec.
    if not has_pre_bias:
        b_enc = b_enc - mean @ weights["W_enc"]
    b_dec = weights["b_dec"] / scale + mean
    folded = {**weights, "b_enc": b_enc, "b_dec": b_dec}
    if "threshold" in weights:
        folded["threshold"] = weights["threshold"] / scale
    return folded


def unfold(
    weights: Mapping[str, Tensor],
    mean: Float[Tensor, " d_model"],
    scale: Float[Tensor, ""],
    *,
    has_pre_bias: bool,
) -> dict[str, Tensor]:
    """The inverse of ``fold``: the weights to compute with on (x - mean) * scale.

    The two constants are returned with them, as ``activation_mean`` and
    ``activation_scale``.
    """
    constants = {"activation_mean": mean, "activation_scale": scale}
    b_enc = weights["b_enc"]
    if not has_pre_bias:
        b_enc = b_enc + mean @ weights["W_enc"]
    b_dec = (weights["b_dec"] - mean) * scale
    unfolded = {**weights, "b_enc": b_enc * scale, "b_dec": b_dec, **constants}
    if "threshold" in weights:
        unfolded["threshold"] = weights["threshold"] * scale
    return unfolded
