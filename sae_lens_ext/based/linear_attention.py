"""Linear attention with a quadratic kernel, in three exact forms of which the watched taps choose one."""

import math
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sae_lens_ext.based.config import KERNELS, BasedConfig
from sae_lens_ext.based.taps import Tap, is_watched, through
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import AttentionState, quadratic_attention, quadratic_attention_with_state
from sae_lens_ext.kernels.quadratic_attention import feature_map

Kept = dict[str, Tensor]
"""What a layer keeps of earlier tokens."""


class _Found(NamedTuple):
    z: Tensor
    """[batch, head, pos, d_head]."""
    after: AttentionState | None
    is_edited: bool
    """Whether somebody changed what it was computed from, so that no other form gives it."""


class QueryKeyNorm(nn.Module):
    """LayerNorm and an affine map of the queries, or the keys, of linear attention; each part only if the kernel has it.

    "wide" is over all heads of a token together, so one head's projection moves every head's query. "shared" is over each head.
    """

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__()
        _, self.normalizes, has_gamma, has_beta = KERNELS[config.kernel]
        self.is_wide, self.eps = config.norm_layout == "wide", config.norm_eps
        width = config.num_attention_heads * config.feature_dim if self.is_wide else config.feature_dim
        self.weight = nn.Parameter(torch.ones(width)) if has_gamma else None
        self.bias = nn.Parameter(torch.zeros(width)) if has_beta else None
        self.hook_scale = Tap()  # [batch, pos, 1] if wide, else [batch, pos, head, 1]; what the centred projection is divided by

    def forward(self, x: Tensor) -> Tensor:
        """[batch, pos, head, feature_dim] -> the same shape."""
        heads = x.shape[-2]
        x = x.flatten(-2) if self.is_wide else x
        if self.normalizes and not is_watched(self.hook_scale):
            # All of it in one pass; without a gamma or a beta torch leaves that part out.
            x = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
            return x.unflatten(-1, (heads, -1)) if self.is_wide else x
        if self.normalizes:
            x = x - x.mean(-1, keepdim=True)
            x = x / self.hook_scale((x.square().mean(-1, keepdim=True) + self.eps).sqrt())
        if self.weight is not None:
            x = x * self.weight
        if self.bias is not None:
            x = x + self.bias
        return x.unflatten(-1, (heads, -1)) if self.is_wide else x


class LinearAttention(nn.Module):
    """Attention whose weights are a quadratic polynomial of the scores; causal, and linear in the number of tokens.

    Three exact forms give the same numbers, and which of them runs is decided by who watches. Scores, kernel, denominator, pattern or
    features: the dense one. Write or state: the recurrent one. Nobody: the fastest there is. An edit of any of these changes the output
    as the mathematics says: an edited pattern is not divided again; an edited write is remembered by all later tokens; an edited state is
    what that position reads, and no other.

    Source: Arora et al. 2024; Aksenov et al. 2024.
    """

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__()
        d_model, self.heads, self.d_head = config.hidden_size, config.num_attention_heads, config.head_dim
        self.c, self.scale, self.eps = KERNELS[config.kernel][0], 1 / math.sqrt(config.feature_dim), config.attention_eps
        self.q_proj = nn.Linear(d_model, self.heads * config.feature_dim, bias=False)
        self.k_proj = nn.Linear(d_model, self.heads * config.feature_dim, bias=False)
        self.v_proj = nn.Linear(d_model, self.heads * self.d_head, bias=False)
        self.o_proj = nn.Linear(self.heads * self.d_head, d_model, bias=False)
        self.ln_q = QueryKeyNorm(config)
        self.ln_k = self.ln_q if config.norm_layout == "shared" else QueryKeyNorm(config)
        self.use_attn_result = False
        self.hook_q_pre = Tap()  # [batch, pos, head, feature_dim], before norm and affine map
        self.hook_k_pre = Tap()
        self.hook_q = Tap()  # [batch, pos, head, feature_dim], what the kernel sees
        self.hook_k = Tap()
        self.hook_v = Tap()  # [batch, pos, head, d_head]
        self.hook_phi_q = Tap()  # [batch, pos, head, features]
        self.hook_phi_k = Tap()
        self.hook_attn_scores = Tap()  # [batch, head, query, key], also of keys that come later
        self.hook_kernel = Tap()  # [batch, head, query, key], the weights; 0 for keys that come later
        self.hook_denom = Tap()  # [batch, pos, head], their sum
        self.hook_pattern = Tap()  # [batch, head, query, key], the weights divided by it
        self.hook_write = Tap()  # [batch, pos, head, features, d_head], what each token adds to the state
        self.hook_state = Tap()  # [batch, pos, head, features, d_head], what each token reads
        self.hook_state_norm = Tap()  # [batch, pos, head, features], and for the denominator
        self.hook_z = Tap()  # [batch, pos, head, d_head], what each head found
        self.hook_result = Tap()  # [batch, pos, head, d_model], what each head adds; only with use_attn_result

    def forward(self, x: Tensor, kept: Kept | None = None) -> Tensor:
        """See the module."""
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)) for project in (self.q_proj, self.k_proj, self.v_proj))
        q = self.hook_q(self.ln_q(self.hook_q_pre(q)))
        k = self.hook_k(self.ln_k(self.hook_k_pre(k)))
        z = self.hook_z(self._attend(q, k, self.hook_v(v), kept))
        if not self.use_attn_result:
            return self.o_proj(z.flatten(-2))
        W_O = self.o_proj.weight.unflatten(1, (self.heads, -1))
        return self.hook_result(einsum(z, W_O, "b t h v, d h v -> b t h d")).sum(2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, kept: Kept | None) -> Tensor:
        q, k, v = (rearrange(one, "b t h d -> b h t d") for one in (q, k, v))
        before = None if not kept else AttentionState(kept["kv"], kept["k"])
        forms = (self._dense, self._of_dense()), (self._recurrent, (self.hook_write, self.hook_state, self.hook_state_norm))
        found = [form(q, k, v, before) for form, taps in forms if any(map(is_watched, taps))]
        edited = [one for one in found if one.is_edited]
        if len(edited) > 1:
            raise InvalidArgument(
                "the scores or features of a layer were edited and so was its state: two ways to one output; edit one of them in a run"
            )
        chosen = (edited or found or [self._fastest(q, k, v, before, keeps=kept is not None)])[0]
        if kept is not None and chosen.after is not None:
            kept["kv"], kept["k"] = (one.detach() for one in chosen.after)
        return rearrange(chosen.z, "b h t d -> b t h d")

    def _of_dense(self) -> tuple[nn.Module, ...]:
        return self.hook_attn_scores, self.hook_phi_q, self.hook_phi_k, self.hook_kernel, self.hook_denom, self.hook_pattern

    def _fastest(self, q: Tensor, k: Tensor, v: Tensor, before: AttentionState | None, *, keeps: bool) -> _Found:
        options = {"c": self.c, "scale": self.scale, "eps": self.eps, "state": before}
        if not keeps:
            return _Found(quadratic_attention(q, k, v, **options), None, is_edited=False)
        return _Found(*quadratic_attention_with_state(q, k, v, **options), is_edited=False)

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, before: AttentionState | None) -> _Found:
        c0, c1, c2 = self.c
        wide = torch.promote_types(torch.float32, q.dtype)
        q, k, values = q.to(wide), k.to(wide), v.to(wide)
        scores, edited_scores = through(self.hook_attn_scores, self.scale * q @ k.mT)
        phi_q, edited_q = self._through_features(self.hook_phi_q, q)
        phi_k, edited_k = self._through_features(self.hook_phi_k, k)
        if edited_scores and (edited_q or edited_k):
            raise InvalidArgument(
                "the scores of a layer were edited and so were its features: two ways to one kernel; edit one of them in a run"
            )
        kernel = phi_q @ phi_k.mT if edited_q or edited_k else c0 + scores * (c1 + c2 * scores)
        kernel, edited_kernel = through(self.hook_kernel, kernel.tril())
        total = kernel.sum(-1)
        if before is not None:
            total = total + (phi_q @ before.k.unsqueeze(-1)).squeeze(-1)
        total, edited_total = through(self.hook_denom, rearrange(total, "b h t -> b t h"))
        divisor = rearrange(total, "b t h -> b h t 1") + self.eps
        pattern, edited_pattern = through(self.hook_pattern, kernel / divisor)
        z = pattern @ values
        if before is not None:
            z = z + phi_q @ before.kv / divisor
        after = AttentionState(phi_k.mT @ values, phi_k.sum(-2))
        after = after if before is None else AttentionState(before.kv + after.kv, before.k + after.k)
        edited = edited_scores or edited_q or edited_k or edited_kernel or edited_total or edited_pattern
        return _Found(z.to(v.dtype), after, edited)

    def _recurrent(self, q: Tensor, k: Tensor, v: Tensor, before: AttentionState | None) -> _Found:
        wide = torch.promote_types(torch.float32, q.dtype)
        phi_q, phi_k = self._features(q.to(wide)), self._features(k.to(wide))
        write = einsum(phi_k, v.to(wide), "b h t f, b h t v -> b t h f v")
        write, edited_write = through(self.hook_write, write)
        state, norm = write.cumsum(1), rearrange(phi_k, "b h t f -> b t h f").cumsum(1)
        if before is not None:
            state, norm = state + before.kv.unsqueeze(1), norm + before.k.unsqueeze(1)
        last = AttentionState(state[:, -1], norm[:, -1]) if state.shape[1] else before
        state, edited_state = through(self.hook_state, state)
        norm, edited_norm = through(self.hook_state_norm, norm)
        sums = einsum(phi_q, state, "b h t f, b t h f v -> b h t v")
        total = einsum(phi_q, norm, "b h t f, b t h f -> b h t")
        return _Found((sums / (total + self.eps).unsqueeze(-1)).to(v.dtype), last, edited_write or edited_state or edited_norm)

    def _features(self, x: Tensor) -> Tensor:
        return feature_map(x, self.c, self.scale)

    def _through_features(self, tap: nn.Module, x: Tensor) -> tuple[Tensor, bool]:
        features, is_edited = through(tap, rearrange(self._features(x), "b h t f -> b t h f"))
        return rearrange(features, "b t h f -> b h t f"), is_edited
