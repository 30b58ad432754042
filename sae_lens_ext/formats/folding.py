"""Options of published SAEs, moved into the weights: the same function without them.

Each function takes and returns ``W_enc [d_model, d_sae]``, ``b_enc [d_sae]``,
``W_dec [d_sae, d_out]`` and ``b_dec [d_out]``, with ``threshold [d_sae]`` where the
kind has one. Products are computed in float32 at least and returned in the dtype of the
weights, so a float16 file can overflow here: whoever calls checks the result.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def with_decoder_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An SAE that chooses features by pre-activation times norm of the decoder row.

    The norms move into the encoder, so that decoder rows have unit norm. A row of zeros
    is a feature that does nothing: its pre-activation is zero, so it wins no place, and
    the row stays zero. A threshold is compared with the product, and stays as it is.
    """
    W_dec = _wide(tensors["W_dec"])
    norms = W_dec.norm(dim=1)
    divisors = torch.where(norms > 0, norms, 1)
    return _in_dtype_of(
        tensors,
        W_enc=_wide(tensors["W_enc"]) * norms,
        b_enc=_wide(tensors["b_enc"]) * norms,
        W_dec=W_dec / divisors[:, None],
    )


def with_scaled_activations(
    tensors: Mapping[str, Tensor], scale_in: float, scale_out: float
) -> dict[str, Tensor]:
    """An SAE that reads ``x * scale_in`` and divides its outputs by ``scale_out``.

    A ``b_dec`` that is subtracted from the input needs equal scales. Pre-activations,
    and so thresholds, do not change.
    """
    return _in_dtype_of(
        tensors,
        W_enc=_wide(tensors["W_enc"]) * scale_in,
        W_dec=_wide(tensors["W_dec"]) / scale_out,
        b_dec=_wide(tensors["b_dec"]) / scale_out,
    )


def with_whitened_activations(
    tensors: Mapping[str, Tensor],
    mean: Float[Tensor, " d_model"],
    matrix: Float[Tensor, "d_model d_model"],
    inverse: Float[Tensor, "d_model d_model"],
    *,
    has_pre_bias: bool,
) -> dict[str, Tensor]:
    """An SAE that reads ``(x - mean) @ matrix`` and whose outputs are mapped back.

    Args:
        tensors: its weights.
        mean: mean of the activations.
        matrix: what whitens them.
        inverse: the inverse of ``matrix``.
        has_pre_bias: whether ``b_dec``, and so the mean, is subtracted before encoding.

    Source: arXiv:2511.13981, as SAELens folds it.
    """
    W_enc = _wide(matrix) @ _wide(tensors["W_enc"])
    b_enc = _wide(tensors["b_enc"])
    if not has_pre_bias:
        b_enc = b_enc - _wide(mean) @ W_enc
    return _in_dtype_of(
        tensors,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=_wide(tensors["W_dec"]) @ _wide(inverse),
        b_dec=_wide(tensors["b_dec"]) @ _wide(inverse) + _wide(mean),
    )


def with_scaled_features(
    tensors: Mapping[str, Tensor], factors: Float[Tensor, " d_sae"]
) -> dict[str, Tensor]:
    """An SAE that multiplies activations by ``factors`` before it decodes them."""
    W_dec = _wide(tensors["W_dec"]) * _wide(factors)[:, None]
    return _in_dtype_of(tensors, W_dec=W_dec)


def gated_as_jumprelu(
    W_enc: Float[Tensor, "d_model d_sae"],
    b_gate: Float[Tensor, " d_sae"],
    b_mag: Float[Tensor, " d_sae"],
    r_mag: Float[Tensor, " d_sae"],
) -> dict[str, Tensor]:
    """Encoder and thresholds of the JumpReLU SAE that a gated SAE is.

    The gate ``x @ W_enc + b_gate > 0``, multiplied by exp(r_mag) > 0 and moved by
    ``b_mag``, compares the magnitude ``x @ W_enc * exp(r_mag) + b_mag`` with
    ``b_mag - b_gate * exp(r_mag)``.

    Source: arXiv:2404.16014, equation 6 and appendix E.
    """
    factors = _wide(r_mag).exp()
    threshold = _wide(b_mag) - _wide(b_gate) * factors
    return {
        "W_enc": (_wide(W_enc) * factors).to(W_enc.dtype),
        "b_enc": b_mag,
        "threshold": rounded_down(threshold, W_enc.dtype),
    }


def filled_threshold(
    threshold: Tensor | float, d_sae: int, dtype: torch.dtype
) -> Float[Tensor, " d_sae"]:
    """One threshold for all features as a tensor with one for each."""
    value = torch.as_tensor(threshold, dtype=torch.float64).reshape(())
    return rounded_down(value, dtype).expand(d_sae).contiguous()


def rounded_down(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """Thresholds in another dtype, such that no comparison changes.

    A pre-activation of that dtype is above the threshold exactly when it is above the
    largest number of the dtype that does not exceed the threshold.

    >>> rounded_down(torch.tensor([0.1, 0.5], dtype=torch.float64), torch.bfloat16)
    tensor([0.0996, 0.5000], dtype=torch.bfloat16)
    """
    rounded = threshold.to(dtype)
    lowest = torch.full_like(rounded, -math.inf)
    below = torch.nextafter(rounded, lowest)
    is_above = rounded.to(torch.float64) > threshold.to(torch.float64)
    return torch.where(is_above, below, rounded)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _in_dtype_of(tensors: Mapping[str, Tensor], **changes: Tensor) -> dict[str, Tensor]:
    dtype = tensors["W_enc"].dtype
    changed = {name: tensor.to(dtype) for name, tensor in changes.items()}
    return {**tensors, **changed}
