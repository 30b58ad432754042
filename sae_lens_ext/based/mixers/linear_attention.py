"""Linear attention with a quadratic kernel, in three exact forms of which the watched taps choose one."""

import math
from typing import Literal, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.based.cache import Kept, refuse_foreign
from sae_lens_ext.based.config import FEATURE_MAPS, BasedConfig
from sae_lens_ext.based.mixers.heads import Heads
from sae_lens_ext.based.norms import QueryKeyNorm
from sae_lens_ext.based.taps import Tap, is_watched, through
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_with_state,
)
from sae_lens_ext.kernels.autocast import no_autocast
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap, divisor

Form = Literal["auto", "dense", "recurrent"]
"""How linear attention is computed: as the watched taps need it, and always by way of the taps of one form too."""


class _Found(NamedTuple):
    z: Tensor
    """[batch, head, pos, d_head]."""
    after: AttentionState | None
    is_edited: bool
    """Whether somebody changed what it was computed from, so that no other form gives it."""


class LinearAttention(Heads):
    """Attention whose weights are a quadratic polynomial of the scores; causal, and linear in the number of tokens.

    Three exact forms give the same numbers, and which of them runs is decided by who watches. Scores, kernel, denominator, pattern or
    features: the dense one. Write or state: the recurrent one. Nobody: the fastest there is. An edit of any of these changes the output
    as the mathematics says: an edited pattern is not divided again; an edited write is remembered by all later tokens; an edited state is
    what that position reads, and no other. ``form`` decides for tools that read modules without torch's hooks, such as nnsight.

    Source: Arora et al. 2024; Aksenov et al. 2024.
    """

    def __init__(self, config: BasedConfig) -> None:
        """Random weights."""
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            config.feature_dim,
            config.head_dim,
        )
        self.feature_map = FeatureMap(
            FEATURE_MAPS[config.kernel].coefficients,
            1 / math.sqrt(config.feature_dim),
            config.attention_eps,
        )
        self.ln_q = QueryKeyNorm(config)
        # One norm for both is registered once: transformers does not save a module that has two names.
        self.ln_k = None if config.norm_layout == "shared" else QueryKeyNorm(config)
        self.form: Form = "auto"
        self.hook_q_pre = (
            Tap()
        )  # [batch, pos, head, feature_dim], before norm and affine map
        self.hook_k_pre = Tap()
        self.hook_q = Tap()  # [batch, pos, head, feature_dim], what the kernel sees
        self.hook_k = Tap()
        self.hook_v = Tap()  # [batch, pos, head, d_head]
        self.hook_phi_q = Tap()  # [batch, pos, head, features]
        self.hook_phi_k = Tap()
        self.hook_attn_scores = (
            Tap()
        )  # [batch, head, query, key], also of keys that come later
        self.hook_kernel = (
            Tap()
        )  # [batch, head, query, key], the weights; 0 for keys that come later
        self.hook_denom = Tap()  # [batch, pos, head], their sum
        self.hook_pattern = (
            Tap()
        )  # [batch, head, query, key], the weights divided by it
        self.hook_write = (
            Tap()
        )  # [batch, pos, head, features, d_head], what each token adds to the state
        self.hook_state = (
            Tap()
        )  # [batch, pos, head, features, d_head], what each token reads
        self.hook_state_norm = (
            Tap()
        )  # [batch, pos, head, features], and for the denominator

    def forward(self, x: Tensor, kept: Kept | None = None) -> Tensor:
        """See the module."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = self.hook_q(self.ln_q(self.hook_q_pre(q)))
        k = self.hook_k(
            (self.ln_q if self.ln_k is None else self.ln_k)(self.hook_k_pre(k))
        )
        v = self.hook_v(v)
        # Sums of many weights need float32.
        with no_autocast(x.device):
            z = self._attend(q, k, v, kept)
        return self.mix(z)

    def pattern(
        self,
        q: Float[Tensor, "batch query head feature_dim"],
        k: Float[Tensor, "batch key head feature_dim"],
    ) -> Float[Tensor, "batch head query key"]:
        """What ``hook_pattern`` is for these ``hook_q`` and ``hook_k``, from the first token on."""
        q, k = (
            rearrange(one, "b t h d -> b h t d").to(
                torch.promote_types(torch.float32, one.dtype)
            )
            for one in (q, k)
        )
        with no_autocast(q.device):
            weights = self.feature_map.of_scores(
                self.feature_map.scale * q @ k.mT
            ).tril()
        return weights / divisor(weights.sum(-1), q, None, self.feature_map).unsqueeze(
            -1
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, kept: Kept | None) -> Tensor:
        q, k, v = (rearrange(one, "b t h d -> b h t d") for one in (q, k, v))
        before = None
        if kept:
            features = n_features(q.shape[-1], self.feature_map.c)
            shapes = {
                "kv": (self.heads, features, self.d_head),
                "k": (self.heads, features),
            }
            refuse_foreign(kept, q, shapes, sums=("kv", "k"))
            before = AttentionState(kept["kv"], kept["k"])
        ways = (
            (self._dense, "dense", self._of_dense()),
            (self._recurrent, "recurrent", self._of_recurrent()),
        )
        keeps = kept is not None
        found = [
            way(q, k, v, before, keeps)
            for way, form, taps in ways
            if self._is_asked(form, *taps)
        ]
        edited = [one for one in found if one.is_edited]
        if len(edited) > 1:
            raise InvalidArgument(
                "the scores or features of a layer were edited and so was its state: two ways to one output; edit one of them in a run"
            )
        chosen = (edited or found or [self._fastest(q, k, v, before, keeps)])[0]
        if kept is not None and chosen.after is not None:
            kept["kv"], kept["k"] = (one.detach() for one in chosen.after)
        return rearrange(chosen.z, "b h t d -> b t h d")

    def _is_asked(self, form: str, *taps: nn.Module) -> bool:
        return self.form == form or any(map(is_watched, taps))

    def _of_dense(self) -> tuple[nn.Module, ...]:
        return (
            self.hook_attn_scores,
            self.hook_phi_q,
            self.hook_phi_k,
            self.hook_kernel,
            self.hook_denom,
            self.hook_pattern,
        )

    def _of_recurrent(self) -> tuple[nn.Module, ...]:
        return self.hook_write, self.hook_state, self.hook_state_norm

    def _fastest(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        before: AttentionState | None,
        keeps: bool,
    ) -> _Found:
        # Not by _asdict(), which torch.compile of torch 2.8 does not know.
        options = {
            "c": self.feature_map.c,
            "scale": self.feature_map.scale,
            "eps": self.feature_map.eps,
            "state": before,
        }
        if not keeps:
            return _Found(
                quadratic_attention(q, k, v, **options), None, is_edited=False
            )
        return _Found(
            *quadratic_attention_with_state(q, k, v, **options), is_edited=False
        )

    def _dense(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        before: AttentionState | None,
        keeps: bool,
    ) -> _Found:
        wide = torch.promote_types(torch.float32, q.dtype)
        q, k, values = q.to(wide), k.to(wide), v.to(wide)
        scores, edited_scores = through(
            self.hook_attn_scores, self.feature_map.scale * q @ k.mT
        )
        weights, edited_features = self.feature_map.of_scores(scores), False
        phi_q = self.feature_map.features(q) if before is not None else None
        phi_k = self.feature_map.features(k) if keeps else None
        if self._is_asked("dense", self.hook_phi_q, self.hook_phi_k):
            phi_q, edited_q = self._through_features(self.hook_phi_q, q)
            phi_k, edited_k = self._through_features(self.hook_phi_k, k)
            edited_features = edited_q or edited_k
            watches_features = is_watched(self.hook_phi_q) or is_watched(
                self.hook_phi_k
            )
            if edited_features or (
                watches_features and not is_watched(self.hook_attn_scores)
            ):
                # Gradients go one way: by the scores if somebody watches these.
                weights = phi_q @ phi_k.mT
        if edited_scores and edited_features:
            raise InvalidArgument(
                "the scores of a layer were edited and so were its features: two ways to one kernel; edit one of them in a run"
            )
        weights, edited_weights = through(self.hook_kernel, weights.tril())
        total = weights.sum(-1)
        if before is not None and phi_q is not None:
            total = total + (phi_q @ before.k.unsqueeze(-1)).squeeze(-1)
        total, edited_total = through(
            self.hook_denom, rearrange(total, "b h t -> b t h")
        )
        n = None if before is None else before.k.unsqueeze(-2)
        by = divisor(
            rearrange(total, "b t h -> b h t"), q, n, self.feature_map
        ).unsqueeze(-1)
        pattern, edited_pattern = through(self.hook_pattern, weights / by)
        z = pattern @ values
        if before is not None and phi_q is not None:
            z = z + phi_q @ before.kv / by
        after = None if not keeps or phi_k is None else _after(before, phi_k, values)
        is_edited = (
            edited_scores
            or edited_features
            or edited_weights
            or edited_total
            or edited_pattern
        )
        return _Found(z.to(v.dtype), after, is_edited)

    def _recurrent(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        before: AttentionState | None,
        keeps: bool,
    ) -> _Found:
        wide = torch.promote_types(torch.float32, q.dtype)
        phi_q, phi_k = (
            self.feature_map.features(q.to(wide)),
            self.feature_map.features(k.to(wide)),
        )
        write = einsum(phi_k, v.to(wide), "b h t f, b h t v -> b t h f v")
        write, edited_write = through(self.hook_write, write)
        state, norm = write.cumsum(1), rearrange(phi_k, "b h t f -> b t h f").cumsum(1)
        if before is not None:
            state, norm = state + before.kv.unsqueeze(1), norm + before.k.unsqueeze(1)
        # Copies, for views would keep the states of all tokens, and be edited in place with them.
        last = (
            AttentionState(state[:, -1].clone(), norm[:, -1].clone())
            if keeps and state.shape[1]
            else before
        )
        state, edited_state = through(self.hook_state, state)
        norm, edited_norm = through(self.hook_state_norm, norm)
        sums = einsum(phi_q, state, "b h t f, b t h f v -> b h t v")
        total = einsum(phi_q, norm, "b h t f, b t h f -> b h t")
        z = sums / divisor(
            total, q.to(wide), rearrange(norm, "b t h f -> b h t f"), self.feature_map
        ).unsqueeze(-1)
        return _Found(
            z.to(v.dtype),
            last if keeps else None,
            edited_write or edited_state or edited_norm,
        )

    def _through_features(self, tap: nn.Module, x: Tensor) -> tuple[Tensor, bool]:
        features, is_edited = through(
            tap, rearrange(self.feature_map.features(x), "b h t f -> b t h f")
        )
        return rearrange(features, "b t h f -> b h t f"), is_edited


def _after(
    before: AttentionState | None, phi_k: Tensor, values: Tensor
) -> AttentionState:
    kv, k = phi_k.mT @ values, phi_k.sum(-2)
    return (
        AttentionState(kv, k)
        if before is None
        else AttentionState(before.kv + kv, before.k + k)
    )
