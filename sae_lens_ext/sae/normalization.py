"""Normalisation of the activation of every token before an SAE encodes it.

With x one activation of width d, an SAE whose ``token_norm`` is not ``"none"`` encodes
u, and its reconstruction û of u is scaled back to that of x:

============== ================================ =====================
``token_norm`` u                                reconstruction of x
============== ================================ =====================
``layer_norm`` (x - mean(x)) / (std(x) + 1e-5)  û * std(x) + mean(x)
``unit_norm``  x * sqrt(d) / norm(x)            û * norm(x) / sqrt(d)
============== ================================ =====================

The standard deviation is the unbiased one. A token of zeros stays zeros.

Source: Gao et al. 2024, released code (``layer_norm``); SAELens 6,
    ``normalize_activations`` (``layer_norm``, and ``constant_norm_rescale``, which is
    ``unit_norm`` here).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext._types import TokenNorm

_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """What brings the reconstruction of a normalised token back to its size.

    Attributes:
        mean: added to the reconstruction of each token.
        scale: what it is multiplied by before.
    """

    mean: Float[Tensor, "*batch"]
    scale: Float[Tensor, "*batch"]

    def restore(
        self,
        recons: Float[Tensor, "*batch d_model"],
    ) -> Float[Tensor, "*batch d_model"]:
        """The reconstruction of x from that of the normalised activation."""
        return self.rescale(recons) + self.mean.unsqueeze(-1)

    def rescale(
        self,
        part: Float[Tensor, "*batch d_model"],
    ) -> Float[Tensor, "*batch d_model"]:
        """The same for a part of a reconstruction, which has no share in the mean."""
        return part * self.scale.unsqueeze(-1)

    def to(self, device: torch.device | str) -> "TokenStatistics":
        """The same statistics on another device."""
        return TokenStatistics(self.mean.to(device), self.scale.to(device))

    def detach(self) -> "TokenStatistics":
        """The same statistics without a graph."""
        return TokenStatistics(self.mean.detach(), self.scale.detach())

    def __getitem__(self, token: Any) -> "TokenStatistics":
        """The statistics of some tokens."""
        return TokenStatistics(self.mean[token], self.scale[token])


def normalize_tokens(
    x: Float[Tensor, "*batch d_model"],
    token_norm: TokenNorm,
) -> tuple[Float[Tensor, "*batch d_model"], TokenStatistics | None]:
    """Activations normalised token by token, and what undoes that.

    The latter is None for ``"none"``.
    """
    if token_norm == "none":
        return x, None

    if token_norm == "layer_norm":
        mean = x.mean(-1)
        centred = x - mean.unsqueeze(-1)
        scale = centred.std(-1)
        u = centred / (scale.unsqueeze(-1) + _EPS)
        return u, TokenStatistics(mean, scale)

    scale = x.norm(dim=-1) / x.shape[-1] ** 0.5
    # A token of zeros has no direction, and would become NaN.
    divisor = torch.where(scale > 0, scale, 1)
    u = x / divisor.unsqueeze(-1)
    return u, TokenStatistics(torch.zeros_like(scale), scale)


def gradient_by_token(
    gradient: Float[Tensor, "*batch d_model"],
    token_norm: TokenNorm,
    statistics: TokenStatistics | None,
) -> Float[Tensor, "*batch d_model"]:
    """The gradient by x from that by u, with the scale of each token held.

    Args:
        gradient: by the normalised activation u.
        token_norm: how u came from x.
        statistics: of x; None for ``"none"``.
    """
    if statistics is None:
        return gradient
    scale = statistics.scale.unsqueeze(-1)
    if token_norm == "layer_norm":
        centred = gradient - gradient.mean(-1, keepdim=True)
        return centred / (scale + _EPS)
    return gradient / torch.where(scale > 0, scale, 1)
