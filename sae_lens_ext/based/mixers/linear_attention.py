"""Linear attention with a quadratic feature map; hooked taps choose its form."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.based.cache import LayerCache, check_layer_cache
from sae_lens_ext.based.config import FEATURE_MAPS, BasedConfig
from sae_lens_ext.based.mixers.forms import (
    AttentionInputs,
    AttentionOutput,
    DenseTaps,
    Form,
    RecurrentTaps,
    dense,
    fastest,
    recurrent,
)
from sae_lens_ext.based.mixers.heads import Heads
from sae_lens_ext.based.norms import QueryKeyNorm
from sae_lens_ext.based.taps import Tap, is_hooked
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels import AttentionState
from sae_lens_ext.kernels.autocast import no_autocast
from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap, divisor


class LinearAttention(Heads):
    """Causal attention whose weights are a quadratic polynomial of the scores.

    Its cost is linear in the number of tokens. Three exact forms give the same numbers,
    and the hooks on its taps decide which of them runs. Hooks on scores, weights
    (``hook_kernel``), denominator, pattern or features run the dense form; hooks on
    write or state run the recurrent one; without any of these the fastest form runs.

    An edit at any of these taps changes the output as the mathematics says: an edited
    pattern is not divided again; an edited write is remembered by all later tokens; an
    edited state is read at its own position, and at no other. ``form`` chooses for
    tools that read modules without torch's hooks, such as nnsight.

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
        coefficients = FEATURE_MAPS[config.kernel].coefficients
        scale = 1 / math.sqrt(config.feature_dim)
        self.feature_map = FeatureMap(coefficients, scale, config.attention_eps)
        self.ln_q = QueryKeyNorm(config)
        # A norm for both is registered once, because transformers does not save a
        # module that has two names.
        self.ln_k = None if config.norm_layout == "shared" else QueryKeyNorm(config)
        self.form: Form = "auto"

        # [batch, pos, head, feature_dim], before norm and affine map
        self.hook_q_pre = Tap()
        self.hook_k_pre = Tap()
        # [batch, pos, head, feature_dim], the input of the feature map
        self.hook_q = Tap()
        self.hook_k = Tap()
        # [batch, pos, head, d_head]
        self.hook_v = Tap()
        # [batch, pos, head, features]
        self.hook_phi_q = Tap()
        self.hook_phi_k = Tap()
        # [batch, head, query, key], those of later keys included
        self.hook_attn_scores = Tap()
        # [batch, head, query, key], the weights, which are 0 for later keys
        self.hook_kernel = Tap()
        # [batch, pos, head], the sum of the weights
        self.hook_denom = Tap()
        # [batch, head, query, key], the weights divided by their sum
        self.hook_pattern = Tap()
        # [batch, pos, head, features, d_head], what each token adds to the state
        self.hook_write = Tap()
        # [batch, pos, head, features, d_head], the state that each token reads
        self.hook_state = Tap()
        # [batch, pos, head, features], the state that the denominator reads
        self.hook_state_norm = Tap()

    def forward(self, x: Tensor, layer_cache: LayerCache | None = None) -> Tensor:
        """See the module ``mixers``."""
        q, k, v = self.project(x)

        q = self.hook_q_pre(q)
        q = self.ln_q(q)
        q = self.hook_q(q)

        ln_k = self.ln_k
        if ln_k is None:
            ln_k = self.ln_q
        k = self.hook_k_pre(k)
        k = ln_k(k)
        k = self.hook_k(k)

        v = self.hook_v(v)

        # Sums of many weights need float32.
        with no_autocast(x.device):
            z = self._attend(q, k, v, layer_cache)
        return self.to_stream(z)

    def pattern(
        self,
        q: Float[Tensor, "batch query head feature_dim"],
        k: Float[Tensor, "batch key head feature_dim"],
    ) -> Float[Tensor, "batch head query key"]:
        """The ``hook_pattern`` of ``hook_q`` and ``hook_k`` of all tokens of a text."""
        wide = torch.promote_types(torch.float32, q.dtype)
        q = rearrange(q, "b t h d -> b h t d").to(wide)
        k = rearrange(k, "b t h d -> b h t d").to(wide)
        with no_autocast(q.device):
            scores = self.feature_map.scale * q @ k.mT
            weights = self.feature_map.of_scores(scores)
            weights = weights.tril()

        # No earlier state: these are all the tokens of the text.
        total = weights.sum(-1)
        denominator = divisor(total, q, None, self.feature_map)
        return weights / denominator.unsqueeze(-1)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer_cache: LayerCache | None,
    ) -> Tensor:
        """The weighted values [batch, pos, head, d_head]; the cache is updated."""
        q = rearrange(q, "b t h d -> b h t d")
        k = rearrange(k, "b t h d -> b h t d")
        v = rearrange(v, "b t h d -> b h t d")

        # An empty cache has no earlier state, and is still filled with the next one.
        state = None
        if layer_cache:
            state = self._cached_state(layer_cache, q)
        returns_state = layer_cache is not None
        inputs = AttentionInputs(q, k, v, state, returns_state)

        output = self._run_forms(inputs)
        if layer_cache is not None and output.state is not None:
            # Detached: gradients do not flow from one call of the model to the next.
            layer_cache["kv"] = output.state.kv.detach()
            layer_cache["k"] = output.state.k.detach()
        return rearrange(output.z, "b h t d -> b t h d")

    def _cached_state(self, layer_cache: LayerCache, q: Tensor) -> AttentionState:
        features = n_features(q.shape[-1], self.feature_map.c)
        shapes = {
            "kv": (self.heads, features, self.d_head),
            "k": (self.heads, features),
        }
        check_layer_cache(layer_cache, q, shapes, sums=("kv", "k"))
        return AttentionState(layer_cache["kv"], layer_cache["k"])

    def _run_forms(self, inputs: AttentionInputs) -> AttentionOutput:
        """The output of the form that hooks have edited, or else of any that runs."""
        dense_taps = DenseTaps(
            self.hook_attn_scores,
            self.hook_phi_q,
            self.hook_phi_k,
            self.hook_kernel,
            self.hook_denom,
            self.hook_pattern,
        )
        recurrent_taps = RecurrentTaps(
            self.hook_write, self.hook_state, self.hook_state_norm
        )
        outputs = []
        if self._is_needed("dense", *dense_taps):
            shows_features = self._is_needed("dense", self.hook_phi_q, self.hook_phi_k)
            dense_output = dense(
                inputs,
                self.feature_map,
                dense_taps,
                shows_features=shows_features,
            )
            outputs.append(dense_output)
        if self._is_needed("recurrent", *recurrent_taps):
            recurrent_output = recurrent(inputs, self.feature_map, recurrent_taps)
            outputs.append(recurrent_output)

        if not outputs:
            return fastest(inputs, self.feature_map)

        edited = [output for output in outputs if output.is_edited]
        if len(edited) > 1:
            raise InvalidArgument(
                "the scores or features of a layer and its state were both edited, and "
                "each of them determines its output; edit one of them in a run"
            )
        return edited[0] if edited else outputs[0]

    def _is_needed(self, form: Form, *taps: nn.Module) -> bool:
        return self.form == form or any(map(is_hooked, taps))
