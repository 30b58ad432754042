"""TransformerLens 4 (TransformerBridge) and 3 (TransformerBridge, HookedTransformer), and anything else with its hook points."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.errors import UnknownSite, UnsupportedHost, closest
from sae_lens_ext.hosts.base import Host, Points, Site, SiteFunction, Undo
from sae_lens_ext.hosts.modules import config_token_ids, watch_modules
from sae_lens_ext.hosts.names import block_and_point, name_of_path, spellings


class _HookPoints(Points):
    def __init__(self, points: dict[str, HookPoint]) -> None:
        self._points = points

    def passed(
        self, name: str, value: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        point = self._points[name]
        if not (point.fwd_hooks or point.bwd_hooks):
            return None
        before = value()
        # A listener may write into what it is given, so it gets a tensor of its own.
        return before, point(before.clone())


class LensHost:
    """A TransformerLens model, by its hook points."""

    def __init__(self, model: Any) -> None:
        """Wrap ``model`` without changing it.

        Raises:
            UnsupportedHost: the model has no hook points.
        """
        if not hasattr(model, "hook_dict"):
            raise UnsupportedHost(
                f"this {type(model).__name__} has no hook points (hook_dict); give a model of TransformerLens"
            )
        self.model = model
        self.blocks: Sequence[nn.Module] = getattr(model, "blocks", ())
        self.embed: nn.Module | None = getattr(model, "embed", None)
        self.unembed: nn.Module | None = getattr(model, "unembed", None)
        self._points: dict[str, HookPoint] = dict(model.hook_dict)
        self.d_vocab: int | None = getattr(getattr(model, "cfg", None), "d_vocab", None)
        self._is_bridge = hasattr(model, "original_model")

    def site(self, name: str) -> Site:
        """See ``Host.site``."""
        asked = name
        if name not in self._points:
            # Of a class derived from a bridge, some models know only one of the two spellings.
            name = next(
                (
                    other
                    for other in spellings(name_of_path(name) or name)
                    if other in self._points
                ),
                name,
            )
        if name not in self._points:
            raise UnknownSite(
                f"no site {asked!r} in this model; the closest: {closest(asked, self._points)}"
            )
        mids = (
            self._points[other]
            for other in self._points
            if other.endswith(("hook_resid_mid", "ln2.hook_in"))
        )
        is_own = (self._points[name].name or "").endswith("hook_resid_mid")
        if (
            self._is_bridge
            and not is_own
            and any(point is self._points[name] for point in mids)
        ):
            raise UnknownSite(
                f"{name} cannot be edited on a TransformerBridge: it is only the MLP's copy of the residual stream, so an edit "
                "there does not reach the stream itself; use hook_attn_out or hook_resid_post of the same block"
            )
        key = next(
            other
            for other, point in self._points.items()
            if point is self._points[name]
        )
        return Site(asked, key, *(block_and_point(name) or (None, None)))

    def width(self, site: Site) -> int | None:
        """See ``Host.width``."""
        wide = site.point not in (None, "z") or site.name.endswith("hook_embed")
        return (
            getattr(getattr(self.model, "cfg", None), "d_model", None) if wide else None
        )

    def attach(self, site: Site, function: SiteFunction) -> Undo:
        """See ``Host.attach``. The hook is a permanent one, so that the user's ``reset_hooks`` does not take it away."""
        point = self._points[site.key]

        def hook(tensor: Tensor, *, hook: HookPoint) -> Tensor | None:
            # Heads have an axis of their own here; an SAE reads them side by side.
            new = function(tensor.flatten(2) if tensor.ndim > 3 else tensor)
            return None if new is None else new.reshape(tensor.shape)

        try:
            self.model.add_hook(site.key, hook, dir="fwd", is_permanent=True)
        except (ValueError, AssertionError) as error:
            # TransformerLens computes some points only on request, and says how to ask: a bridge by a ValueError.
            raise UnknownSite(
                f"{site.name} does not fire in this model as it is set up: {error}"
            ) from error
        # Version 3 returns no handle, so take the one that was just appended.
        handle = point.fwd_hooks[-1]

        def detach() -> None:
            handle.hook.remove()
            point.fwd_hooks = [
                other for other in point.fwd_hooks if other is not handle
            ]

        return detach

    def points(self, site: Site, names: Sequence[str]) -> tuple[Points, Undo]:
        """See ``Host.points``: hook points of the model for as long as they are open, under both of the site's names.

        When two splices share a place, the points are those of the one that was attached first.
        """
        points = {name: HookPoint() for name in names}
        registered = {
            f"{prefix}.{name}": point
            for prefix in {site.name, site.key}
            for name, point in points.items()
        }
        if not registered.keys().isdisjoint(self.model.hook_dict):
            return Points(), lambda: None
        # A bridge answers hook_dict from its registry; any other root module keeps the two dicts themselves.
        registries = (
            [self.model._hook_registry]
            if self._is_bridge
            else [self.model.hook_dict, self.model.mod_dict]
        )
        for name, point in points.items():
            point.name = f"{site.key}.{name}"
        for registry in registries:
            registry.update(registered)

        def close() -> None:
            for registry in registries:
                for name in registered:
                    registry.pop(name, None)

        return _HookPoints(points), close

    def watch(
        self,
        at_start: Callable[[int], object],
        at_tokens: Callable[[Tensor], object],
        at_end: Callable[[bool], object],
    ) -> Undo:
        """See ``Host.watch``."""
        # A bridge hands its arguments, the cache among them, to the Hugging Face model it wraps. A HookedTransformer that generates
        # calls its own forward, past torch's hooks.
        root = self.model.original_model if self._is_bridge else self.model
        return watch_modules(
            root,
            self.embed,
            at_start,
            at_tokens,
            at_end,
            calls_forward=not self._is_bridge,
        )

    def logits(
        self, tokens: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch unembedded d_vocab"]:
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
        return config_token_ids(
            getattr(getattr(self.model, "original_model", None), "config", None)
        )

    def plain(self) -> Host:
        """See ``Host.plain``."""
        return self


def boot(model: nn.Module, tokenizer: Any) -> Any:
    """A TransformerBridge over a Hugging Face model, without asking a hub for anything."""
    from transformer_lens.model_bridge import TransformerBridge

    dtype = next(model.parameters()).dtype
    return TransformerBridge.boot_transformers(
        tokenizer.name_or_path, hf_model=model, tokenizer=tokenizer, dtype=dtype
    )
