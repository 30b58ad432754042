"""RMSNorm and LayerNorm with taps, for the residual stream and for queries and keys."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sae_lens_ext.based.config import FEATURE_MAPS, BasedConfig
from sae_lens_ext.based.taps import Tap, is_hooked


class _Norm(nn.Module):
    """RMSNorm over the last axis, or LayerNorm if ``is_centred``.

    It computes in float32 or wider and returns the dtype of its input.
    """

    def __init__(
        self,
        width: int,
        eps: float,
        *,
        is_centred: bool,
        has_weight: bool = True,
        has_bias: bool = False,
    ) -> None:
        """Weights of one, and biases of zero."""
        super().__init__()
        self.eps = eps
        self.is_centred = is_centred
        self.weight = nn.Parameter(torch.ones(width)) if has_weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if has_bias else None
        self.hook_scale = Tap()  # [..., 1], the divisor of the input
        self.hook_normalized = Tap()  # [..., width], before weight and bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., width] over its last axis."""
        if is_hooked(self.hook_scale) or is_hooked(self.hook_normalized):
            return self._forward_in_steps(x)

        # torch's own functions are several times as fast as the steps.
        shape = x.shape[-1:]
        if self.is_centred:
            normalized = F.layer_norm(x, shape, self.weight, self.bias, self.eps)
        else:
            normalized = F.rms_norm(x, shape, self.weight, self.eps)
        return normalized.to(x.dtype)

    def affine(self, x: Tensor) -> Tensor:
        """Multiply by the weight and add the bias, where the norm has them."""
        if self.weight is not None:
            x = x * self.weight
        if self.bias is not None:
            x = x + self.bias
        return x

    def _forward_in_steps(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(torch.float32, x.dtype))
        if self.is_centred:
            wide = wide - wide.mean(-1, keepdim=True)
        mean_square = wide.square().mean(-1, keepdim=True)
        scale = self.hook_scale((mean_square + self.eps).sqrt())
        normalized = self.hook_normalized(wide / scale)
        return self.affine(normalized).to(x.dtype)


class Norm(_Norm):
    """The norm of the residual stream: RMSNorm, or LayerNorm with a bias."""

    def __init__(self, config: BasedConfig) -> None:
        """The norm that ``config.norm`` names."""
        is_layer_norm = config.norm == "layer"
        super().__init__(
            config.hidden_size,
            config.norm_eps,
            is_centred=is_layer_norm,
            has_bias=is_layer_norm,
        )


class QueryKeyNorm(_Norm):
    """LayerNorm and an affine map of queries or keys, as the feature map needs them.

    The layout "wide" normalises all heads of a token together, so the projection of one
    head moves the queries of every head; its ``hook_scale`` is [batch, pos, 1]. The
    layout "shared" normalises each head, and its ``hook_scale`` is [batch, pos, head,
    1].
    """

    def __init__(self, config: BasedConfig) -> None:
        """The norm of ``config.kernel``, in ``config.norm_layout``."""
        feature_map = FEATURE_MAPS[config.kernel]
        is_wide = config.norm_layout == "wide"
        n_heads = config.num_attention_heads if is_wide else 1
        super().__init__(
            n_heads * config.feature_dim,
            config.qk_norm_eps,
            is_centred=True,
            has_weight=feature_map.has_gamma,
            has_bias=feature_map.has_beta,
        )
        self.normalizes = feature_map.normalizes
        self.is_wide = is_wide
        if not self.normalizes:
            # An edit at a tap that no tensor passes would have no effect, unnoticed.
            del self.hook_scale
            del self.hook_normalized

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, pos, head, feature_dim] to the same shape."""
        n_heads = x.shape[-2]
        flat = x.flatten(-2) if self.is_wide else x
        if self.normalizes:
            mapped = super().forward(flat)
        else:
            # Under autocast the weights are wider than the input, and linear attention
            # needs queries, keys and values of one dtype.
            mapped = self.affine(flat).to(x.dtype)
        return mapped.unflatten(-1, (n_heads, -1)) if self.is_wide else mapped
