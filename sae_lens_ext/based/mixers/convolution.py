"""Short convolutions: the mixer that looks back a few tokens."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sae_lens_ext.based.cache import LayerCache, check_layer_cache
from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.initialization import ResidualLinear
from sae_lens_ext.based.taps import Tap, is_hooked


class ShortConvolution(nn.Module):
    """A convolution of the last few tokens, times a gate.

    The "gated" form of the language models splits a projection of the input in two
    halves, convolves one and passes it through SiLU, multiplies it by the other, and
    projects the product back. The "base" form of the synthetic tasks multiplies the
    convolved input by a projection of the input, and adds the input.

    Source: Arora et al. 2023, "Zoology" (BaseConv); Arora et al. 2024.
    """

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__()
        d_model = config.hidden_size
        self.heads = config.num_attention_heads
        self.taps = config.conv_kernel_size
        self.is_gated = config.conv_form == "gated"
        self.shows_taps = False

        if self.is_gated:
            inner = config.conv_expansion * d_model // 2
            self.in_proj = nn.Linear(d_model, 2 * inner)
            self.out_proj = ResidualLinear(inner, d_model)
        else:
            inner = d_model
            self.in_proj = nn.Linear(d_model, d_model)
        # One group per channel: a depthwise convolution.
        self.conv = nn.Conv1d(
            inner,
            inner,
            self.taps,
            groups=inner,
            bias=not self.is_gated,
        )

        # [batch, pos, inner], the input of the convolution
        self.hook_conv_in = Tap()
        # [batch, pos, taps, inner], what each of the last tokens adds to the output;
        # the last tap is the token itself
        self.hook_conv_taps = Tap()
        # [batch, pos, inner], the sum of the taps and the bias
        self.hook_conv_out = Tap()
        # [batch, pos, inner]
        self.hook_gate = Tap()
        # [batch, pos, inner], the product with the gate
        self.hook_conv_prod = Tap()
        # [batch, pos, head, d_model], what is added to the stream apart from the bias;
        # a convolution has no heads, so that head 0 holds all of it
        self.hook_result = Tap()

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """The bias of the gated form's last projection, added whatever the input is."""
        if not self.is_gated or self.out_proj.bias is None:
            raise AttributeError(
                "a short convolution of the base form has no output bias"
            )
        return self.out_proj.bias

    def forward(self, x: Tensor, layer_cache: LayerCache | None = None) -> Tensor:
        """See the module ``mixers``."""
        projected = self.in_proj(x)
        if self.is_gated:
            source, gate = projected.chunk(2, dim=-1)
        else:
            source = x
            gate = projected
        source = self.hook_conv_in(source)
        gate = self.hook_gate(gate)

        # The convolution of the first of these tokens sees the last tokens before them.
        n_before = self.taps - 1
        batch, pos, inner = source.shape
        if layer_cache:
            expected_shapes = {"conv": (n_before, inner)}
            check_layer_cache(layer_cache, x, expected_shapes)
            before = layer_cache["conv"]
        else:
            before = source.new_zeros(batch, n_before, inner)
        extended = torch.cat([before, source], dim=1)

        if layer_cache is not None:
            # From ``pos`` on, because -n_before would take all of it for a single tap.
            last = extended[:, pos:]
            # Cloned, because a view would keep the memory of all tokens.
            layer_cache["conv"] = last.detach().clone()

        convolved = self._convolve(extended)
        convolved = self.hook_conv_out(convolved)
        if self.is_gated:
            convolved = F.silu(convolved)
        product = self.hook_conv_prod(convolved * gate)
        return self._to_stream(product, x)

    def _convolve(self, extended: Tensor) -> Tensor:
        """Convolve [batch, taps - 1 + pos, inner] to [batch, pos, inner]."""
        if not self.shows_taps and not is_hooked(self.hook_conv_taps):
            convolved = self.conv(extended.mT)
            return convolved.mT

        # [batch, pos, inner, taps]
        windows = extended.unfold(1, self.taps, 1)
        weight = self.conv.weight.squeeze(1)
        products = windows * weight
        contributions = rearrange(products, "b t c k -> b t k c")
        contributions = self.hook_conv_taps(contributions)

        convolved = contributions.sum(2)
        if self.conv.bias is None:
            return convolved
        return convolved + self.conv.bias

    def _to_stream(self, product: Tensor, x: Tensor) -> Tensor:
        """What the convolution adds to the stream."""
        if not is_hooked(self.hook_result):
            if self.is_gated:
                return self.out_proj(product)
            return product + x

        # The bias is added after the tap, which shows what depends on the input.
        if self.is_gated:
            share = F.linear(product, self.out_proj.weight)
        else:
            share = product + x

        # Zeros for every head but the first.
        n_empty = self.heads - 1
        by_head = F.pad(share.unsqueeze(2), (0, 0, 0, n_empty))
        by_head = self.hook_result(by_head)
        written = by_head.sum(2)
        if self.is_gated:
            written = written + self.out_proj.bias
        return written
