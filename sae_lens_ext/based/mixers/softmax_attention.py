"""Softmax attention over a sliding window or over all tokens."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext.based.cache import LayerCache, check_layer_cache
from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.mixers.heads import Heads
from sae_lens_ext.based.taps import Tap, is_hooked
from sae_lens_ext.kernels import holds_numbers


class SoftmaxAttention(Heads):
    """Causal softmax attention, with rotary positions if ``config.use_rope``.

    With a window, a token sees the last ``window`` tokens and itself; without one, all
    tokens before it and itself.
    """

    def __init__(self, config: BasedConfig, window: int | None) -> None:
        """Random weights."""
        super().__init__(
            config.hidden_size,
            config.num_attention_heads,
            config.head_dim,
            config.head_dim,
        )
        self.window = window
        self.theta = None
        if config.use_rope:
            self.theta = config.rope_theta
        self.shows_taps = False

        # [batch, pos, head, d_head], before rotation, as in TransformerLens
        self.hook_q = Tap()
        self.hook_k = Tap()
        self.hook_v = Tap()
        # [batch, pos, head, d_head], after rotation
        self.hook_rot_q = Tap()
        self.hook_rot_k = Tap()

        # The next two are computed only if hooked, or with ``shows_taps``:
        # [batch, head, query, key], minus infinity where a query may not look
        self.hook_attn_scores = Tap()
        # [batch, head, query, key]
        self.hook_pattern = Tap()

    def forward(self, x: Tensor, layer_cache: LayerCache | None = None) -> Tensor:
        """See the module ``mixers``."""
        q, k, v = self.project(x)
        q = self.hook_q(q)
        k = self.hook_k(k)
        v = self.hook_v(v)

        # An empty cache is that of a text that begins here.
        n_seen = 0
        if layer_cache:
            n_seen = self._n_seen(layer_cache, x)

        # Before keys are cached: the rotation depends on their own position only.
        if self.theta is not None:
            q = rotate(q, n_seen, self.theta)
            q = self.hook_rot_q(q)
            k = rotate(k, n_seen, self.theta)
            k = self.hook_rot_k(k)

        if layer_cache:
            k = torch.cat([layer_cache["keys"], k], dim=1)
            v = torch.cat([layer_cache["values"], v], dim=1)
        if layer_cache is not None:
            batch, pos = x.shape[:2]
            layer_cache["keys"] = self._last_window(k)
            layer_cache["values"] = self._last_window(v)
            # One number per row, so that the cache can be reordered along the batch.
            layer_cache["seen"] = torch.full((batch,), n_seen + pos)

        q = rearrange(q, "b t h d -> b h t d")
        k = rearrange(k, "b t h d -> b h t d")
        v = rearrange(v, "b t h d -> b h t d")

        # With a cache there are more keys than queries, which are the last tokens.
        z = self._attend(q, k, v)
        z = rearrange(z, "b h t d -> b t h d")
        return self.to_stream(z)

    def _n_seen(self, layer_cache: LayerCache, x: Tensor) -> int:
        """The number of earlier tokens, from a cache that is checked here."""
        n_seen = 0
        if "seen" in layer_cache:
            n_seen = _read(layer_cache["seen"], layer_cache.get("keys"))

        n_stored = n_seen
        if self.window is not None:
            n_stored = min(n_seen, self.window)

        shape = (n_stored, self.heads, self.d_head)
        expected_shapes = {
            "keys": shape,
            "values": shape,
            "seen": (),
        }
        check_layer_cache(layer_cache, x, expected_shapes)
        return n_seen

    def _last_window(self, heads: Tensor) -> Tensor:
        """The keys or values [batch, pos, head, d_head] that later tokens can see."""
        heads = heads.detach()
        n_tokens = heads.shape[1]
        if self.window is None or n_tokens <= self.window:
            return heads

        first = n_tokens - self.window
        # Cloned, because a view would keep the memory of all tokens.
        return heads[:, first:].clone()

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Weighted values [batch, head, pos, d_head] of the last tokens of the text."""
        shows_pattern = (
            self.shows_taps
            or is_hooked(self.hook_attn_scores)
            or is_hooked(self.hook_pattern)
        )
        has_no_mask = self.window is None and q.shape == k.shape
        if has_no_mask and not shows_pattern:
            # No mask, which would keep torch from its fastest implementations.
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        n_queries = q.shape[2]
        n_keys = k.shape[2]
        is_visible = self._visible_keys(n_queries, n_keys, q.device)
        if not shows_pattern:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=is_visible)

        scores = q @ k.mT
        scores = scores / self.d_head**0.5
        scores = scores.masked_fill(~is_visible, float("-inf"))
        scores = self.hook_attn_scores(scores)

        # The softmax sums over all keys, which needs float32 or wider.
        wide = torch.promote_types(torch.float32, scores.dtype)
        pattern = scores.softmax(-1, dtype=wide)
        pattern = self.hook_pattern(pattern.to(v.dtype))
        return pattern @ v

    def _visible_keys(
        self, n_queries: int, n_keys: int, device: torch.device
    ) -> Tensor:
        """[query, key], whether a query sees a key; the queries are the last tokens."""
        n_earlier = n_keys - n_queries
        query_positions = torch.arange(n_earlier, n_keys, device=device)
        key_positions = torch.arange(n_keys, device=device)
        distance = query_positions[:, None] - key_positions

        is_visible = distance >= 0
        if self.window is not None:
            is_near = distance <= self.window
            is_visible = is_visible & is_near
        return is_visible


def _read(seen: Tensor, keys: Tensor | None) -> int:
    """The number of earlier tokens that a cache has seen."""
    if holds_numbers(seen) or torch.compiler.is_compiling():
        return int(seen[0])
    # Without numbers only shapes count, and those are of the keys that are stored.
    return 0 if keys is None else keys.shape[1]


def rotate(x: Tensor, first: int, theta: float) -> Tensor:
    """Rotate [batch, pos, head, d_head] by the positions ``first``, ``first`` + 1, ...

    Coordinate i is paired with i + d_head // 2, not with its neighbour.

    Source: Su et al. 2021, "RoFormer".
    """
    _, pos, _, width = x.shape
    half = width // 2
    stop = first + pos

    # Angles in float32: in half precision large positions would not be distinct.
    positions = torch.arange(first, stop, device=x.device, dtype=torch.float32)
    pairs = torch.arange(half, device=x.device, dtype=torch.float32)
    frequencies = theta ** (-pairs / half)
    angles = positions[:, None, None] * frequencies
    cos = angles.cos().to(x.dtype)
    sin = angles.sin().to(x.dtype)

    first_half = x[..., :half]
    second_half = x[..., half : 2 * half]
    # An odd width leaves one coordinate that is not rotated.
    rest = x[..., 2 * half :]

    rotated_first = first_half * cos - second_half * sin
    rotated_second = second_half * cos + first_half * sin
    parts = [rotated_first, rotated_second, rest]
    return torch.cat(parts, dim=-1)
