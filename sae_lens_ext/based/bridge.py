"""Based and ReBased in TransformerLens: a ``TransformerBridge`` with the hook names of a HookedTransformer.

TransformerLens is told of ``BasedArchitectureAdapter`` by the entry point ``transformer_lens.architectures``, and by ``BasedConfig``
before ``boot_transformers`` looks it up, which is before entry points are read. So ``TransformerBridge.boot_transformers(folder)`` works;
``sae_lens_ext.based.boot`` is the short way, for a model without a tokenizer too.

Every tap of the model becomes a hook point of the same name, so the model computes by itself what a hook asks for (see
``linear_attention.py``), and an edit means on a bridge what it means without one. A mixer of any kind is ``blocks.{l}.attn``.
"""

from typing import Any

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
from sae_lens_ext.based.taps import Tap, is_watched
from sae_lens_ext.errors import InvalidArgument

# Points whose position is not on the second axis.
_OVER_PAIRS = ("hook_attn_scores", "hook_kernel", "hook_pattern")
# How long a text may be where nothing limits it; TransformerLens wants a number.
_NO_END = 2**31 - 1


def bridged(model: BasedForCausalLM, tokenizer: Any = None) -> TransformerBridge:
    """A bridge over a model, which it takes apart: use the bridge from then on.

    Raises:
        InvalidArgument: the model is in a bridge already, or there are hooks on its taps.
    """
    if any(isinstance(part, HookPoint) for part in model.modules()):
        raise InvalidArgument(
            "this model is in a bridge already, which has taken it apart; use that bridge, or boot a copy made before"
        )
    watched = [
        name
        for name, part in model.named_modules()
        if isinstance(part, Tap) and is_watched(part)
    ]
    if watched:
        raise InvalidArgument(
            f"there are hooks on {', '.join(watched)}, and a bridge puts hook points of its own in the places of these: "
            "remove the hooks, boot, and hook the bridge"
        )
    architecture = "BasedForCausalLM"
    ArchitectureAdapterFactory.discover_entry_points()
    # Of a copy of the sources that was not installed there are none.
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


class _Tapped(GeneralizedComponent):
    """A module whose taps are hook points."""

    def set_original_component(self, original_component: nn.Module) -> None:
        """Put a hook point in the place of each tap that is not in a component of its own."""
        super().set_original_component(original_component)
        inside = tuple(f"{part.name}." for part in self.submodules.values())
        taps = [
            (name, tap)
            for name, tap in original_component.named_modules()
            if isinstance(tap, Tap) and not name.startswith(inside)
        ]
        for name, _ in taps:
            parent, _, attribute = name.rpartition(".")
            point = HookPoint()
            point.pos_dim = 2 if attribute in _OVER_PAIRS else None
            setattr(original_component.get_submodule(parent), attribute, point)
            if parent:
                self._register_hook(name, point)
            else:
                setattr(self, name, point)


class _Mixer(_Tapped):
    """A short convolution, linear attention or softmax attention."""

    # What TransformerLens asks before it lets hook_result be hooked.
    supports_attn_result = True

    def set_original_component(self, original_component: nn.Module) -> None:
        """TransformerLens has one component for the mixers of all layers; that of linear attention can do more."""
        if isinstance(original_component, LinearAttention):
            self.__class__ = _LinearAttention  # pyright: ignore[reportAttributeAccessIssue] - of one layout
        super().set_original_component(original_component)


class _LinearAttention(_Mixer):
    """Linear attention, in TransformerLens a recurrent mixer: ``ActivationCache.ssm_layers`` counts it."""

    def compute_effective_attention(
        self, cache: ActivationCache, layer_idx: int
    ) -> Float[Tensor, "batch head query key"]:
        """The pattern of a run: its ``hook_pattern``, or what its ``hook_q`` and ``hook_k`` make of it.

        Raises:
            InvalidArgument: none of these was cached.
        """
        prefix, attention = f"blocks.{layer_idx}.attn", self.original_component
        names = [f"{prefix}.hook_q", f"{prefix}.hook_k"]
        if f"{prefix}.hook_pattern" in cache:
            return cache[f"{prefix}.hook_pattern"]
        if not isinstance(attention, LinearAttention) or any(
            name not in cache for name in names
        ):
            raise InvalidArgument(
                f"the cache has neither {prefix}.hook_pattern nor {' and '.join(names)}; cache what is missing"
            )
        return attention.pattern(*(cache[name] for name in names))


class _Block(_Tapped, BlockBridge):
    """A block; its ``hook_resid_mid`` is the stream itself, as in a HookedTransformer, and not the MLP's copy of it."""

    # Without those of the points that the model does not have, of which TransformerLens would warn.
    hook_aliases = {
        "hook_resid_pre": "hook_in",
        "hook_resid_post": "hook_out",
        "hook_attn_out": "attn.hook_out",
        "hook_mlp_out": "mlp.hook_out",
    }


class BasedArchitectureAdapter(ArchitectureAdapter):
    """What is what in a ``BasedForCausalLM``."""

    # Padding before a prompt would be remembered as if it were text.
    supports_batched_generation = False
    supports_hf_output_attentions = False
    supports_compatibility_mode = True
    applicable_phases: list[int] = []

    def __init__(self, cfg: Any) -> None:
        """For the config that TransformerLens has made of a ``BasedConfig``."""
        super().__init__(cfg)
        self.supports_fold_ln = self.supports_center_writing_weights = False
        block = _Block(
            name="model.layers",
            config=cfg,
            submodules={
                "ln1": _Tapped(name="norm1"),
                "attn": _Mixer(name="mixer", config=cfg),
                "ln2": _Tapped(name="norm2"),
                "mlp": _Tapped(name="mlp"),
            },
        )
        self.component_mapping = {
            "embed": EmbeddingBridge(name="model.embed_tokens"),
            "blocks": block,
            "ln_final": _Tapped(name="model.norm"),
            "unembed": UnembeddingBridge(name="lm_head"),
        }

    def prepare_model(self, model: Any) -> None:
        """Read from the model what the config of TransformerLens has no field for."""
        config: BasedConfig = model.config
        self.cfg.normalization_type = "RMS" if config.norm == "rms" else "LN"
        self.cfg.uses_rms_norm = self.cfg.final_rms = config.norm == "rms"
        self.cfg.eps = config.norm_eps
        self.cfg.gated_mlp, self.cfg.act_fn = config.mlp == "swiglu", "silu"
        self.cfg.d_head = config.head_dim
        self.cfg.positional_embedding_type = (
            "standard" if config.max_position_embeddings else "none"
        )
        self.cfg.n_ctx = config.max_position_embeddings or _NO_END
        if config.max_position_embeddings:
            self.components["pos_embed"] = PosEmbedBridge(name="model.embed_positions")
