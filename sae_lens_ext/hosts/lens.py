"""TransformerLens 4 (TransformerBridge), and TransformerLens 3 (TransformerBridge and HookedTransformer)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.errors import UnknownSite, UnsupportedHost, closest
from sae_lens_ext.hosts.base import Site, SiteFunction

# Points as wide as the residual stream that do not hold it themselves, by the end of their names.
_RESIDUAL_WIDTH = ("hook_attn_out", "hook_mlp_out", "hook_embed")


class LensHost:
    """A TransformerLens model, by its hook points."""

    def __init__(self, model: Any) -> None:
        """Wrap ``model`` without changing it.

        Raises:
            UnsupportedHost: the model lacks the parts that every TransformerLens language model has.
        """
        missing = [name for name in ("hook_dict", "blocks", "embed", "unembed", "cfg") if not hasattr(model, name)]
        if missing:
            raise UnsupportedHost(f"this {type(model).__name__} has no {', '.join(missing)}; give a TransformerLens language model")
        self.model = model
        self.blocks: Sequence[nn.Module] = model.blocks
        self.embed: nn.Module = model.embed
        self.unembed: nn.Module = model.unembed
        self._points: dict[str, HookPoint] = dict(model.hook_dict)
        self._is_bridge = hasattr(model, "original_model")

    def site(self, name: str) -> Site:
        """See ``Host.site``."""
        if name not in self._points:
            raise UnknownSite(f"no site {name!r} in this model; the closest: {closest(name, self._points)}")
        if self._is_bridge and any(
            self._points[name] is point for other, point in self._points.items() if other.endswith("hook_resid_mid")
        ):
            raise UnknownSite(
                f"{name} cannot be edited on a TransformerBridge: it is only the MLP's copy of the residual stream, so an edit "
                "there does not reach the stream itself; use hook_attn_out or hook_resid_post of the same block"
            )
        return Site(name=name, key=self._points[name].name or name)

    def width(self, site: Site) -> int | None:
        """See ``Host.width``."""
        return self.model.cfg.d_model if site.is_residual or site.name.endswith(_RESIDUAL_WIDTH) else None

    def attach(self, site: Site, function: SiteFunction) -> Callable[[], None]:
        """See ``Host.attach``. The hook is a permanent one, so that the user's ``reset_hooks`` does not take it away."""
        point = self._points[site.name]

        def hook(tensor: Tensor, *, hook: HookPoint) -> Tensor | None:
            return function(tensor)

        try:
            self.model.add_hook(site.name, hook, dir="fwd", is_permanent=True)
        except (ValueError, AssertionError) as error:
            # TransformerLens computes some points only on request, and says how to ask: a bridge by a ValueError.
            raise UnknownSite(f"{site.name} does not fire in this model as it is set up: {error}") from error
        # Version 3 returns no handle, so take the one that was just appended.
        handle = point.fwd_hooks[-1]

        def detach() -> None:
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]

        return detach

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch unembedded d_vocab"]:
        """See ``Host.logits``."""
        return self.model(tokens, return_type="logits")

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """See ``Host.to_tokens``."""
        return self.model.to_tokens(text)

    def special_token_ids(self) -> frozenset[int]:
        """See ``Host.special_token_ids``."""
        tokenizer = getattr(self.model, "tokenizer", None)
        if tokenizer is not None:
            return frozenset(tokenizer.all_special_ids)
        config = getattr(getattr(self.model, "original_model", None), "config", None)
        found = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
        return frozenset(i for item in found for i in (item if isinstance(item, list) else [item]) if i is not None)


def boot(folder: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """A TransformerBridge over a local Hugging Face folder, without asking a hub for anything."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, dtype=dtype)
