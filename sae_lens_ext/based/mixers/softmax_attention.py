"""What mixes tokens in the other layers: short convolutions, and softmax attention over a window or over all.

Every mixer is called with the normalised residual stream [batch, pos, d_model] and what the cache holds for its layer, and returns what it
adds to the stream. Its taps (``hook_...``) are named as TransformerLens names such places; their shapes stand beside them. What is behind
some is computed only where they are watched, or always with ``shows_taps``.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sae_lens_ext.based.cache import Kept, refuse_foreign
from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.mixers.heads import Heads
from sae_lens_ext.based.taps import Tap, is_watched
from sae_lens_ext.based.writer import Writer


class ShortConvolution(nn.Module):
    """A gate times a convolution of the last few tokens.

    "gated", of the language models: the projection of the input is split in two, one half convolved and passed through SiLU, times the
    other half, and projected back. "base", of the synthetic tasks: the convolved input times its projection, plus the input.

    Source: Arora et al. 2023, "Zoology" (BaseConv); Arora et al. 2024.
    """

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__()
        d_model, self.heads, self.taps = (
            config.hidden_size,
            config.num_attention_heads,
            config.conv_kernel_size,
        )
        self.is_gated, self.shows_taps = config.conv_form == "gated", False
        if self.is_gated:
            inner = config.conv_expansion * d_model // 2
            self.in_proj = nn.Linear(d_model, 2 * inner)
            self.out_proj = Writer(inner, d_model)
        else:
            inner = d_model
            self.in_proj = nn.Linear(d_model, d_model)
        self.conv = nn.Conv1d(
            inner, inner, self.taps, groups=inner, bias=not self.is_gated
        )
        self.hook_conv_in = Tap()  # [batch, pos, inner], what is convolved
        self.hook_conv_taps = Tap()  # [batch, pos, taps, inner], what each of the last tokens adds; the last tap is the token itself
        self.hook_conv_out = Tap()  # [batch, pos, inner], their sum and the bias
        self.hook_gate = Tap()  # [batch, pos, inner]
        self.hook_conv_prod = Tap()  # [batch, pos, inner], the product
        self.hook_result = Tap()  # [batch, pos, head, d_model], what is added but for the bias, all of it by head 0: it has no heads

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """What is added whatever the input is: the bias of the gated form's last projection."""
        if not self.is_gated or self.out_proj.bias is None:
            raise AttributeError(
                "a short convolution of the base form has no output bias"
            )
        return self.out_proj.bias

    def forward(self, x: Tensor, kept: Kept | None = None) -> Tensor:
        """See the module."""
        projected = self.in_proj(x)
        source, gate = projected.chunk(2, dim=-1) if self.is_gated else (x, projected)
        source, gate = self.hook_conv_in(source), self.hook_gate(gate)
        if kept:
            refuse_foreign(kept, x, {"conv": (self.taps - 1, source.shape[-1])})
        before = (
            kept["conv"]
            if kept
            else source.new_zeros(len(source), self.taps - 1, source.shape[-1])
        )
        longer = torch.cat([before, source], dim=1)
        if kept is not None:
            # A copy, for a view would keep all of it.
            kept["conv"] = (
                longer[:, longer.shape[1] - (self.taps - 1) :].detach().clone()
            )
        convolved = self.hook_conv_out(self._convolved(longer))
        product = self.hook_conv_prod(
            (F.silu(convolved) if self.is_gated else convolved) * gate
        )
        if not is_watched(self.hook_result):
            return self.out_proj(product) if self.is_gated else product + x
        share = (
            F.linear(product, self.out_proj.weight) if self.is_gated else product + x
        )
        out = self.hook_result(
            F.pad(share.unsqueeze(2), (0, 0, 0, self.heads - 1))
        ).sum(2)
        return out + self.out_proj.bias if self.is_gated else out

    def _convolved(self, longer: Tensor) -> Tensor:
        if not self.shows_taps and not is_watched(self.hook_conv_taps):
            return self.conv(longer.mT).mT
        windows = longer.unfold(1, self.taps, 1)  # [batch, pos, inner, taps]
        each = self.hook_conv_taps(
            rearrange(windows * self.conv.weight.squeeze(1), "b t c k -> b t k c")
        )
        return each.sum(2) if self.conv.bias is None else each.sum(2) + self.conv.bias


class SoftmaxAttention(Heads):
    """Softmax attention over the last ``sliding_window`` tokens and the token itself, or over all; with rotary positions or without."""

    def __init__(self, config: BasedConfig, window: int | None) -> None:
        """Random weights."""
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            config.head_dim,
            config.head_dim,
        )
        self.window, self.theta, self.shows_taps = (
            window,
            config.rope_theta if config.use_rope else None,
            False,
        )
        self.hook_q = (
            Tap()
        )  # [batch, pos, head, d_head], before rotation, as in TransformerLens
        self.hook_k = Tap()
        self.hook_v = Tap()
        self.hook_rot_q = Tap()  # [batch, pos, head, d_head], after it
        self.hook_rot_k = Tap()
        self.hook_attn_scores = (
            Tap()
        )  # [batch, head, query, key], minus infinity where a query may not look
        self.hook_pattern = Tap()  # [batch, head, query, key]

    def forward(self, x: Tensor, kept: Kept | None = None) -> Tensor:
        """See the module."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, self.d_head))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        seen = self._seen(kept, x) if kept else 0
        if self.theta is not None:
            q, k = (
                self.hook_rot_q(rotated(q, seen, self.theta)),
                self.hook_rot_k(rotated(k, seen, self.theta)),
            )
        if kept:
            k, v = (
                torch.cat([kept["keys"], k], dim=1),
                torch.cat([kept["values"], v], dim=1),
            )
        if kept is not None:
            first = 0 if self.window is None else max(0, k.shape[1] - self.window)
            last = (one[:, first:].detach() for one in (k, v))
            # Copies of less than the whole, for a view would keep all of it.
            kept["keys"], kept["values"] = (
                one.clone() if first else one for one in last
            )
            kept["seen"] = torch.full((len(x),), seen + x.shape[1])
        return self.mix(self._attend(q, k, v))

    def _seen(self, kept: Kept, x: Tensor) -> int:
        seen = int(kept["seen"][0]) if "seen" in kept else 0
        shape = (
            seen if self.window is None else min(seen, self.window),
            self.heads,
            self.d_head,
        )
        refuse_foreign(kept, x, {"keys": shape, "values": shape, "seen": ()})
        return seen

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (rearrange(one, "b t h d -> b h t d") for one in (q, k, v))
        is_plain = (
            not self.shows_taps
            and not is_watched(self.hook_attn_scores)
            and not is_watched(self.hook_pattern)
        )
        if is_plain and self.window is None and q.shape == k.shape:
            # Without a mask, which would keep torch from its fastest ways.
            return rearrange(
                F.scaled_dot_product_attention(q, k, v, is_causal=True),
                "b h t d -> b t h d",
            )
        back = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)[
            :, None
        ] - torch.arange(k.shape[2], device=q.device)
        allowed = (
            (back >= 0) if self.window is None else (back >= 0) & (back <= self.window)
        )
        if is_plain:
            return rearrange(
                F.scaled_dot_product_attention(q, k, v, attn_mask=allowed),
                "b h t d -> b t h d",
            )
        scores = self.hook_attn_scores(
            (q @ k.mT / self.d_head**0.5).masked_fill(~allowed, float("-inf"))
        )
        pattern = self.hook_pattern(
            scores.softmax(
                -1, dtype=torch.promote_types(torch.float32, scores.dtype)
            ).to(v.dtype)
        )
        return rearrange(pattern @ v, "b h t d -> b t h d")


def rotated(x: Tensor, first: int, theta: float) -> Tensor:
    """Rotary positions ``first``, ``first`` + 1, ... on [batch, pos, head, d_head]; halves are paired, not neighbours.

    Source: Su et al. 2021, "RoFormer".
    """
    half = x.shape[-1] // 2
    positions = torch.arange(
        first, first + x.shape[1], device=x.device, dtype=torch.float32
    )
    angles = positions[:, None, None] * theta ** (
        -torch.arange(half, device=x.device, dtype=torch.float32) / half
    )
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first_half, second_half, rest = (
        x[..., :half],
        x[..., half : 2 * half],
        x[..., 2 * half :],
    )
    return torch.cat(
        [
            first_half * cos - second_half * sin,
            second_half * cos + first_half * sin,
            rest,
        ],
        dim=-1,
    )
