"""A block of the model: a mixer and an MLP, each behind a norm."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sae_lens_ext.based.cache import LayerCache
from sae_lens_ext.based.config import BasedConfig, LayerType
from sae_lens_ext.based.initialization import ResidualLinear
from sae_lens_ext.based.mixers.convolution import ShortConvolution
from sae_lens_ext.based.mixers.linear_attention import LinearAttention
from sae_lens_ext.based.mixers.softmax_attention import SoftmaxAttention
from sae_lens_ext.based.norms import Norm
from sae_lens_ext.based.taps import Tap


class SwiGLU(nn.Module):
    """An MLP with a gate: ``down(silu(gate(x)) * up(x))``, without biases."""

    def __init__(self, config: BasedConfig) -> None:
        """Random weights, ``config.intermediate_size`` wide."""
        super().__init__()
        d_model = config.hidden_size
        d_mlp = config.intermediate_size
        self.gate_proj = nn.Linear(d_model, d_mlp, bias=False)
        self.up_proj = nn.Linear(d_model, d_mlp, bias=False)
        self.down_proj = ResidualLinear(d_mlp, d_model, bias=False)
        # [batch, pos, d_mlp], the gate before its activation function
        self.hook_pre = Tap()
        # [batch, pos, d_mlp], the factor that is gated
        self.hook_pre_linear = Tap()
        # [batch, pos, d_mlp], the product
        self.hook_post = Tap()

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"]:
        """Weights of the gate."""
        return self.gate_proj.weight.T

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """Weights of the factor that is gated."""
        return self.up_proj.weight.T

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """Weights with which the MLP writes into the stream."""
        return self.down_proj.weight.T

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d_model] to the same shape."""
        gate = F.silu(self.hook_pre(self.gate_proj(x)))
        linear = self.hook_pre_linear(self.up_proj(x))
        return self.down_proj(self.hook_post(gate * linear))


class Block(nn.Module):
    """``x + mixer(norm1(x))``, and the same with ``norm2`` and the MLP."""

    def __init__(self, config: BasedConfig, layer: int) -> None:
        """The block of a layer, with the mixer that ``config.layer_types`` names."""
        super().__init__()
        self.norm1 = Norm(config)
        self.norm2 = Norm(config)
        self.mixer = _mixer(config, config.layer_types[layer])
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else nn.Identity()
        # [batch, pos, d_model]; an edit reaches both the MLP and the stream beside it
        self.hook_resid_mid = Tap()

    def forward(
        self, hidden_states: Tensor, layer_cache: LayerCache | None = None
    ) -> Tensor:
        """Map the stream [batch, pos, d_model]; the layer's cache is updated."""
        mixed = self.mixer(self.norm1(hidden_states), layer_cache)
        hidden_states = self.hook_resid_mid(hidden_states + mixed)
        return hidden_states + self.mlp(self.norm2(hidden_states))


def _mixer(config: BasedConfig, layer_type: LayerType) -> nn.Module:
    if layer_type == "conv":
        return ShortConvolution(config)
    if layer_type == "linear_attention":
        return LinearAttention(config)
    is_sliding = layer_type == "sliding_attention"
    return SoftmaxAttention(config, config.sliding_window if is_sliding else None)
