"""RMSNorm and LayerNorm with taps: of the residual stream, and of the queries and keys of linear attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sae_lens_ext.based.config import FEATURE_MAPS, BasedConfig
from sae_lens_ext.based.taps import Tap, is_watched


class _Norm(nn.Module):
    """RMSNorm, or with ``is_centred`` LayerNorm, over the last axis; in float32 or wider, returned in the dtype that came."""

    def __init__(
        self,
        width: int,
        eps: float,
        *,
        is_centred: bool,
        has_weight: bool = True,
        has_bias: bool = False,
    ) -> None:
        """With weights of one, and biases of zero."""
        super().__init__()
        self.eps, self.is_centred = eps, is_centred
        self.weight = nn.Parameter(torch.ones(width)) if has_weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if has_bias else None
        self.hook_scale = Tap()  # [..., 1], what the input is divided by
        self.hook_normalized = Tap()  # [..., width], before weight and bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., width]."""
        if not is_watched(self.hook_scale) and not is_watched(self.hook_normalized):
            # Several times as fast as the steps below.
            if self.is_centred:
                return F.layer_norm(
                    x, x.shape[-1:], self.weight, self.bias, self.eps
                ).to(x.dtype)
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps).to(x.dtype)
        wide = x.to(torch.promote_types(torch.float32, x.dtype))
        if self.is_centred:
            wide = wide - wide.mean(-1, keepdim=True)
        scale = self.hook_scale(
            (wide.square().mean(-1, keepdim=True) + self.eps).sqrt()
        )
        return self.affine(self.hook_normalized(wide / scale)).to(x.dtype)

    def affine(self, x: Tensor) -> Tensor:
        """Times the weight, plus the bias, where there are any."""
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


class Norm(_Norm):
    """Of the residual stream: RMSNorm, or LayerNorm with a bias."""

    def __init__(self, config: BasedConfig) -> None:
        """As the config has it."""
        is_layer_norm = config.norm == "layer"
        super().__init__(
            config.hidden_size,
            config.norm_eps,
            is_centred=is_layer_norm,
            has_bias=is_layer_norm,
        )


class QueryKeyNorm(_Norm):
    """LayerNorm and an affine map of the queries, or the keys, of linear attention; each part only if the kernel has it.

    "wide" is over all heads of a token together, so one head's projection moves every head's query; its ``hook_scale`` is [batch, pos, 1].
    "shared" is over each head, and its ``hook_scale`` is [batch, pos, head, 1].
    """

    def __init__(self, config: BasedConfig) -> None:
        """As the config has it."""
        feature_map = FEATURE_MAPS[config.kernel]
        is_wide = config.norm_layout == "wide"
        width = (
            config.num_attention_heads * config.feature_dim
            if is_wide
            else config.feature_dim
        )
        super().__init__(
            width,
            config.qk_norm_eps,
            is_centred=True,
            has_weight=feature_map.has_gamma,
            has_bias=feature_map.has_beta,
        )
        self.normalizes, self.is_wide = feature_map.normalizes, is_wide
        if not self.normalizes:
            # A tap that nothing passes would let an edit go unnoticed.
            del self.hook_scale, self.hook_normalized

    def forward(self, x: Tensor) -> Tensor:
        """[batch, pos, head, feature_dim] -> the same shape."""
        heads = x.shape[-2]
        flat = x.flatten(-2) if self.is_wide else x
        # Under autocast the weights are wider than what they multiply, and the kernel wants queries, keys and values of one dtype.
        found = (
            super().forward(flat) if self.normalizes else self.affine(flat).to(x.dtype)
        )
        return found.unflatten(-1, (heads, -1)) if self.is_wide else found
