"""The encoder of an SAE in training, with a gate of the objective's choice."""

from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext.kernels import topk_encode
from sae_lens_ext.sae import SAE


def pre_bias(sae: SAE) -> Float[Tensor, " d_model"] | None:
    """What the SAE subtracts from its input, or None."""
    return sae.b_dec if sae.config.apply_b_dec_to_input else None


def encode(
    sae: SAE,
    u: Float[Tensor, "batch d_model"],
    k: int | None,
    threshold: Float[Tensor, " d_sae"] | Float[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Values and indices by ``topk_encode``; the SAE's own threshold is not used."""
    return topk_encode(
        u,
        sae.W_enc,
        sae.b_enc,
        k,
        centre=pre_bias(sae),
        threshold=threshold,
        screen=True,
    )
