"""Based and ReBased in TransformerLens: a bridge with a HookedTransformer's hook names.

TransformerLens finds ``BasedArchitectureAdapter`` by the entry point
``transformer_lens.architectures``, and ``registration`` adds it to the table in which
``boot_transformers`` looks before entry points are read. So both
``TransformerBridge.boot_transformers(folder)`` and ``sae_lens_ext.based.boot`` work;
the latter also opens a model without a tokenizer.

Every tap of the model becomes a hook point of the same name. The model therefore
computes by itself what a hook needs (see ``mixers.linear_attention``), and an edit has
the same meaning on a bridge as without one. The mixer of a layer is
``blocks.{l}.attn``, whatever its kind.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.factories.architecture_adapter_factory import (
    ArchitectureAdapterFactory,
)
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    BlockBridge,
    EmbeddingBridge,
    PosEmbedBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.generalized_components.base import (
    GeneralizedComponent,
)
from transformer_lens.model_bridge.sources._bridge_builder import (
    build_bridge_from_module,
)

from sae_lens_ext.based.config import BasedConfig
from sae_lens_ext.based.mixers.linear_attention import LinearAttention
from sae_lens_ext.based.model import BasedForCausalLM
from sae_lens_ext.based.taps import Tap, is_hooked
from sae_lens_ext.errors import InvalidArgument

# Points of shape [batch, head, query, key], whose position is on the third axis.
_PAIR_POINTS = ("hook_attn_scores", "hook_kernel", "hook_pattern")

# TransformerLens needs a length of texts, also where nothing limits it: it cuts text
# that it tokenizes there, and its lists of parameters hold a table of zeros of that
# many positions. This is its own value for models without one.
_CONTEXT = 2048


def bridged(model: BasedForCausalLM, tokenizer: Any = None) -> TransformerBridge:
    """Open a model in a bridge, which takes it apart: use only the bridge afterwards.

    Raises:
        InvalidArgument: the model is in a bridge already, or there are hooks on its
            taps.
    """
    if any(isinstance(module, HookPoint) for module in model.modules()):
        raise InvalidArgument(
            "this model is in a bridge already, which has taken it apart; use that "
            "bridge, or boot a copy made before"
        )
    hooked_taps = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Tap) and is_hooked(module)
    ]
    if hooked_taps:
        raise InvalidArgument(
            f"there are hooks on {', '.join(hooked_taps)}, which a bridge replaces by "
            "hook points of its own: remove the hooks, boot, and hook the bridge"
        )

    architecture = "BasedForCausalLM"
    ArchitectureAdapterFactory.discover_entry_points()
    # A copy of the sources that was not installed has no entry points.
    ArchitectureAdapterFactory._adapters.setdefault(
        architecture, BasedArchitectureAdapter
    )
    return build_bridge_from_module(
        model,
        architecture,
        hf_config=model.config,
        tokenizer=tokenizer,
        model_name=architecture,
    )


class _TapsBridge(GeneralizedComponent):
    """A component of the bridge that replaces the taps of its module by hook points."""

    def set_original_component(self, original_component: nn.Module) -> None:
        """Replace the taps that are not inside another component."""
        super().set_original_component(original_component)
        inside_others = tuple(f"{part.name}." for part in self.submodules.values())
        names = [
            name
            for name, module in original_component.named_modules()
            if isinstance(module, Tap) and not name.startswith(inside_others)
        ]
        for name in names:
            parent, _, attribute = name.rpartition(".")
            point = HookPoint()
            point.pos_dim = 2 if attribute in _PAIR_POINTS else None
            setattr(original_component.get_submodule(parent), attribute, point)
            if parent:
                self._register_hook(name, point)
            else:
                setattr(self, name, point)


class _MixerBridge(_TapsBridge):
    """A short convolution, linear attention or softmax attention."""

    # TransformerLens reads this before it lets hook_result be hooked.
    supports_attn_result = True

    def set_original_component(self, original_component: nn.Module) -> None:
        """Specialise the component for linear attention.

        TransformerLens makes one component for the mixers of all layers.
        """
        if isinstance(original_component, LinearAttention):
            # The class can be replaced, because both have the same layout.
            self.__class__ = _LinearAttentionBridge  # pyright: ignore
        super().set_original_component(original_component)


class _LinearAttentionBridge(_MixerBridge):
    """Linear attention, a recurrent mixer that ``ActivationCache.ssm_layers`` lists."""

    def compute_effective_attention(
        self, cache: ActivationCache, layer_idx: int
    ) -> Float[Tensor, "batch head query key"]:
        """The cached ``hook_pattern``, or the pattern of the cached queries and keys.

        Raises:
            InvalidArgument: neither ``hook_pattern`` nor ``hook_q`` and ``hook_k`` were
                cached.
        """
        prefix = f"blocks.{layer_idx}.attn"
        if f"{prefix}.hook_pattern" in cache:
            return cache[f"{prefix}.hook_pattern"]

        attention = self.original_component
        names = [f"{prefix}.hook_q", f"{prefix}.hook_k"]
        are_cached = all(name in cache for name in names)
        if not isinstance(attention, LinearAttention) or not are_cached:
            raise InvalidArgument(
                f"the cache has neither {prefix}.hook_pattern nor {' and '.join(names)}"
                "; cache one or the other"
            )
        return attention.pattern(*(cache[name] for name in names))


class _BlockBridge(_TapsBridge, BlockBridge):
    """A block.

    Its ``hook_resid_mid`` is the stream itself, as in a HookedTransformer, and not the
    MLP's copy of it.
    """

    # TransformerLens warns of aliases whose points the model does not have, so they are
    # left out here.
    hook_aliases = {  # noqa: RUF012 - not a ClassVar in TransformerLens
        "hook_resid_pre": "hook_in",
        "hook_resid_post": "hook_out",
        "hook_attn_out": "attn.hook_out",
        "hook_mlp_out": "mlp.hook_out",
    }


class BasedArchitectureAdapter(ArchitectureAdapter):
    """Names the parts of a ``BasedForCausalLM`` for TransformerLens."""

    # The model would remember padding before a prompt as text.
    supports_batched_generation = False
    supports_hf_output_attentions = False
    supports_compatibility_mode = True
    applicable_phases: list[int] = []  # noqa: RUF012 - not a ClassVar in TransformerLens

    def __init__(self, cfg: Any) -> None:
        """The adapter for TransformerLens' config of a ``BasedConfig``."""
        super().__init__(cfg)
        self.supports_fold_ln = False
        self.supports_center_writing_weights = False
        block = _BlockBridge(
            name="model.layers",
            config=cfg,
            submodules={
                "ln1": _TapsBridge(name="norm1"),
                "attn": _MixerBridge(name="mixer", config=cfg),
                "ln2": _TapsBridge(name="norm2"),
                "mlp": _TapsBridge(name="mlp"),
            },
        )
        self.component_mapping = {
            "embed": EmbeddingBridge(name="model.embed_tokens"),
            "blocks": block,
            "ln_final": _TapsBridge(name="model.norm"),
            "unembed": UnembeddingBridge(name="lm_head"),
        }

    def preprocess_weights(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fold the last norm into the unembedding, where folding was asked for.

        Direct logit attribution takes the norm's gain to be in the unembedding. The
        norms before mixers and MLPs stay: a convolution of the synthetic tasks adds its
        normalised input to the stream.
        """
        if not self._fold_ln_requested:
            return state_dict
        folded = dict(state_dict)
        unembedding = folded["unembed.weight"]
        gain = folded["ln_final.weight"]
        dtype = unembedding.dtype
        # In float32 or wider, because the sums below are over all of d_model.
        W_U = unembedding.to(torch.promote_types(torch.float32, dtype))
        folded["unembed.weight"] = (W_U * gain).to(dtype)
        folded["ln_final.weight"] = torch.ones_like(gain)

        bias = folded.get("ln_final.bias")
        if bias is not None:
            logits_of_bias = W_U @ bias.to(W_U.dtype)
            folded["unembed.bias"] = folded["unembed.bias"] + logits_of_bias.to(dtype)
            folded["ln_final.bias"] = torch.zeros_like(bias)
        return folded

    def prepare_model(self, model: Any) -> None:
        """Set the fields of TransformerLens' config that it cannot read by itself."""
        config: BasedConfig = model.config
        is_rms = config.norm == "rms"
        self.cfg.normalization_type = "RMS" if is_rms else "LN"
        self.cfg.uses_rms_norm = is_rms
        self.cfg.final_rms = is_rms
        self.cfg.eps = config.norm_eps
        self.cfg.gated_mlp = config.mlp == "swiglu"
        self.cfg.act_fn = "silu"
        self.cfg.d_head = config.head_dim

        if config.max_position_embeddings:
            self.cfg.positional_embedding_type = "standard"
            self.cfg.n_ctx = config.max_position_embeddings
            self.components["pos_embed"] = PosEmbedBridge(name="model.embed_positions")
        else:
            self.cfg.positional_embedding_type = "none"
            self.cfg.n_ctx = _CONTEXT
