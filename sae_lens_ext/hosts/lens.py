"""Models of TransformerLens, by their hook points.

TransformerLens 4 (TransformerBridge) and 3 (TransformerBridge, HookedTransformer), and
any other model that has hook points.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.tokenize_utils import get_attention_mask

from sae_lens_ext.errors import UnknownSite, UnsupportedHost, closest
from sae_lens_ext.hosts.base import (
    BeforeRun,
    Host,
    Points,
    RunListener,
    Site,
    SiteFunction,
    Undo,
)
from sae_lens_ext.hosts.batch import TokenBatch
from sae_lens_ext.hosts.calls import takes
from sae_lens_ext.hosts.lens_logits import last_logits
from sae_lens_ext.hosts.lens_texts import TextListener, with_ids
from sae_lens_ext.hosts.modules import find_blocks
from sae_lens_ext.hosts.names import block_and_point, name_of_path, spellings
from sae_lens_ext.hosts.padding import check_decoder_only, run_right_padded
from sae_lens_ext.hosts.special import (
    config_holders,
    padding_id,
    special_token_ids,
)
from sae_lens_ext.hosts.watching import (
    before_calls,
    before_every_call,
    watch_modules,
)


class _HookPoints(Points):
    """Hook points of TransformerLens, opened for a splice."""

    def __init__(self, points: dict[str, HookPoint]) -> None:
        self._points = points

    def passed(
        self, name: str, value: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        point = self._points[name]
        if not (point.fwd_hooks or point.bwd_hooks):
            return None
        before = value()
        # A hook may write into the tensor that it gets, so it gets one of its own.
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
                f"this {type(model).__name__} has no hook points (hook_dict); give a "
                "model of TransformerLens"
            )
        self.model = model
        self._is_bridge = hasattr(model, "original_model")
        # A root module of the user's own may have none of these.
        self.blocks: Sequence[nn.Module] = getattr(model, "blocks", ())
        self.embed: nn.Module | None = getattr(model, "embed", None)
        self.unembed: nn.Module | None = getattr(model, "unembed", None)
        self._config: Any = getattr(model, "cfg", None)
        self.tokenizer: Any = getattr(model, "tokenizer", None)
        self.d_vocab: int | None = getattr(self._config, "d_vocab", None)
        # A copy, in which the points of splices do not appear.
        self._points: dict[str, HookPoint] = dict(model.hook_dict)

    def site(self, name: str) -> Site:
        """See ``Host.site``."""
        registered = self._registered(name)
        if registered is None:
            raise UnknownSite(
                f"no site {name!r} in this model; the closest: "
                f"{closest(name, self._points)}"
            )

        block, point = block_and_point(registered) or (None, None)
        # The MLP's copy of the stream is what it reads, where no norm is before it.
        if point != "mlp_in" and self._is_copy_of_the_stream(registered):
            raise UnknownSite(
                f"{registered} cannot be edited on a TransformerBridge: it is only the "
                "MLP's copy of the residual stream, so an edit there does not reach "
                "the stream itself; use hook_attn_out or hook_resid_post of the same "
                "block"
            )

        return Site(name, self._key(registered), block, point)

    def _registered(self, name: str) -> str | None:
        """The name under which the model has this point, or None.

        Raises:
            UnknownSite: the point of that name is another in TransformerLens.
        """
        known = block_and_point(name)
        if known is not None and known[1] == "mlp_in":
            return self._mlp_input(name, known[0])
        if name in self._points:
            return name
        # Of the classes derived from a bridge, some know only one of the two spellings.
        hook_name = name_of_path(name) or name
        for spelling in spellings(hook_name):
            if spelling in self._points:
                return spelling
        return None

    def _mlp_input(self, name: str, block: int) -> str | None:
        """The name of what the MLP of a block reads, behind its norm.

        A bridge has a point for it. What TransformerLens calls ``hook_mlp_in`` is the
        stream before the norm, and fires only on request.
        """
        registered = f"blocks.{block}.mlp.hook_in"
        if registered in self._points:
            return registered
        if name in self._points:
            raise UnknownSite(
                f"{name} is the stream before the MLP's norm in this model, and what "
                "the MLP reads on others; use the output of the norm, such as "
                f"blocks.{block}.ln2.hook_normalized"
            )
        return None

    def _key(self, registered: str) -> str:
        """The first name in the model's table of the same point."""
        point = self._points[registered]
        names = [name for name, entry in self._points.items() if entry is point]
        return names[0]

    def _is_copy_of_the_stream(self, registered: str) -> bool:
        """Whether a point between attention and MLP is on a copy of the stream.

        On a bridge it is, except where the block has a ``hook_resid_mid`` of its own.
        """
        point = self._points[registered]
        own_name = point.name or ""
        is_own = own_name.endswith("hook_resid_mid")
        if not self._is_bridge or is_own:
            return False

        # A bridge has one point under several names.
        names = [name for name, entry in self._points.items() if entry is point]
        suffixes = ("hook_resid_mid", "ln2.hook_in")
        return any(name.endswith(suffixes) for name in names)

    def width(self, site: Site) -> int | None:
        """See ``Host.width``."""
        # Any other point may have another width: heads and neurons do.
        is_embedding = site.name.endswith("hook_embed")
        if site.point in (None, "z") and not is_embedding:
            return None
        return getattr(self._config, "d_model", None)

    def attach(self, site: Site, function: SiteFunction) -> Undo:
        """See ``Host.attach``.

        The hook is a permanent one, so that the user's ``reset_hooks`` leaves it alone.
        """
        point = self._points[site.key]

        def hook(tensor: Tensor, *, hook: HookPoint) -> Tensor | None:
            # Heads have an axis of their own here; an SAE reads them side by side.
            activation = tensor
            if tensor.ndim > 3:
                activation = tensor.flatten(2)

            new = function(activation)
            if new is None:
                return None
            return new.reshape(-1, *tensor.shape[1:])

        try:
            self.model.add_hook(site.key, hook, dir="fwd", is_permanent=True)
        except (ValueError, AssertionError) as error:
            # TransformerLens computes some points only on request. Its error, a
            # ValueError on a bridge, says how to request them.
            raise UnknownSite(
                f"{site.name} does not fire in this model as it is set up: {error}"
            ) from error

        # TransformerLens 3 returns no handle, so take the one that was just appended.
        handle = point.fwd_hooks[-1]

        def detach() -> None:
            handle.hook.remove()
            # By identity, because handles of equal content may be compared equal.
            remaining = [
                attached for attached in point.fwd_hooks if attached is not handle
            ]
            point.fwd_hooks = remaining

        return detach

    def points(self, site: Site, names: Sequence[str]) -> tuple[Points, Undo]:
        """See ``Host.points``.

        While they are open, they are hook points of the model, under both of the site's
        names. Where two splices share a place, the points are those of the one that was
        attached first.
        """
        points = {name: HookPoint() for name in names}
        registered = {
            f"{prefix}.{name}": point
            for prefix in {site.name, site.key}
            for name, point in points.items()
        }
        # Another splice has opened them already.
        hook_names = self.model.hook_dict
        is_new = registered.keys().isdisjoint(hook_names)
        if not is_new:
            return Points(), lambda: None

        for name, point in points.items():
            point.name = f"{site.key}.{name}"

        # A bridge builds hook_dict from its registry; any other root module stores two
        # dicts.
        if self._is_bridge:
            registries = [self.model._hook_registry]
        else:
            registries = [self.model.hook_dict, self.model.mod_dict]
        for registry in registries:
            registry.update(registered)

        def close() -> None:
            for registry in registries:
                for name in registered:
                    registry.pop(name, None)

        return _HookPoints(points), close

    def watch(self, listener: RunListener) -> Undo:
        """See ``Host.watch``."""
        # A HookedTransformer that generates calls its own forward, past torch's hooks.
        return watch_modules(
            [self.model, *self._wrapped()],
            self.embed,
            self.blocks,
            TextListener(listener, self.tokenizer, self._mask_of),
            calls_forward=not self._is_bridge,
        )

    def before_runs(self, function: BeforeRun) -> Undo:
        """See ``Host.before_runs``."""

        def called(arguments: Mapping[str, Any]) -> None:
            function(self, partial(self._with_ids, arguments))

        if self._is_bridge:
            # Its run_with_cache calls forward directly.
            return before_every_call(self.model, called)
        return before_calls(self.model, called, calls_forward=True)

    def _with_ids(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        to_tokens = getattr(self.model, "to_tokens", None)
        return with_ids(arguments, to_tokens, self.tokenizer, self._mask_of)

    def _mask_of(self, tokens: Tensor, side: str) -> Tensor:
        """The attention mask of texts that TransformerLens has padded."""
        prepends_bos = getattr(self._config, "default_prepend_bos", True)
        return get_attention_mask(
            self.tokenizer, tokens, prepends_bos, padding_side=side
        )

    def step(
        self, ids: Int[Tensor, "batch pos"], cache: Any, **options: Any
    ) -> tuple[Float[Tensor, "rows d_vocab"], Any]:
        """See ``Host.step``."""
        forward = inspect.signature(type(self.model).forward)
        # The bridge of TransformerLens 3 does not hand caches of transformers on.
        has_cache = self._is_bridge and "past_key_values" in forward.parameters
        if has_cache:
            options |= {"return_type": "logits_and_cache", "use_cache": True}
        else:
            options["return_type"] = "logits"
        if cache is not None:
            options["past_key_values"] = cache
        return last_logits(self.model(ids, **options), self.d_vocab)

    def _wrapped(self) -> list[nn.Module]:
        """The modules of Hugging Face that a bridge wraps, from the outermost."""
        if not self._is_bridge:
            return []
        original = self.model.original_model
        path, _ = find_blocks(original)
        parent, _, _ = path.rpartition(".")
        return config_holders(original, parent)

    def logits(
        self, tokens: TokenBatch | Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch unembedded d_vocab"]:
        """See ``Host.logits``."""
        for module in self._wrapped():
            check_decoder_only(getattr(module, "config", None))
        return run_right_padded(
            partial(self.model, return_type="logits"),
            tokens,
            takes_mask=takes(self.model, "attention_mask"),
        )

    def to_tokens(self, text: str | list[str]) -> Int[Tensor, "batch pos"]:
        """See ``Host.to_tokens``."""
        # A text longer than the context is an error of the model, and not cut silently.
        return self.model.to_tokens(text, truncate=False)

    def special_token_ids(self) -> frozenset[int]:
        """See ``Host.special_token_ids``."""
        return special_token_ids(self._wrapped(), self.tokenizer)

    def padding_id(self) -> int:
        """See ``Host.padding_id``."""
        return padding_id(self._wrapped(), self.tokenizer, self.d_vocab)

    def plain(self) -> Host:
        """See ``Host.plain``."""
        return self


def boot(model: nn.Module, tokenizer: Any) -> Any:
    """A TransformerBridge over a Hugging Face model, without a request to any hub."""
    from transformer_lens.model_bridge import TransformerBridge

    dtype = next(model.parameters()).dtype
    return TransformerBridge.boot_transformers(
        tokenizer.name_or_path,
        hf_model=model,
        tokenizer=tokenizer,
        dtype=dtype,
    )
