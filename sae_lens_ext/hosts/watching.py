"""When a run of a torch module begins and ends, and which tokens it reads."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import Tensor, nn

from sae_lens_ext.hosts.base import Undo
from sae_lens_ext.hosts.skipping import is_partial_run


def token_ids(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
    """The first tensor of integers among a module's arguments."""
    for value in (*arguments, *keywords.values()):
        if not isinstance(value, Tensor):
            continue
        if not value.is_floating_point() and not value.is_complex():
            return value
    return None


def cached_positions(keywords: Mapping[str, Any]) -> int:
    """How many positions the cache among a model's keyword arguments already holds.

    0 without a cache.
    """
    cache = keywords.get("past_key_values")
    if cache is not None:
        return int(cache.get_seq_length())

    # HookedTransformer has a name and a kind of cache of its own.
    cache = keywords.get("past_kv_cache")
    return 0 if cache is None else int(cache[0].past_keys.shape[1])


def watch_modules(
    root: nn.Module,
    embed: nn.Module | None,
    at_start: Callable[[int], object],
    at_tokens: Callable[[Tensor], object],
    at_end: Callable[[bool], object],
    *,
    calls_forward: bool = False,
) -> Undo:
    """``Host.watch`` for a model made of torch modules.

    Args:
        root: the module that is called with the model's arguments, the cache among
            them.
        embed: the module that is called with token ids, if it is known.
        at_start: see ``Host.watch``.
        at_tokens: see ``Host.watch``.
        at_end: see ``Host.watch``.
        calls_forward: the model calls ``root.forward`` directly, past torch's hooks, so
            that ``forward`` itself is wrapped.
    """

    def started(keywords: Mapping[str, Any]) -> None:
        at_start(cached_positions(keywords))

    def ended(keywords: Mapping[str, Any], output: Any) -> None:
        # HookedTransformer stops early by returning; a run that raises has no output.
        is_cut_short = output is None or keywords.get("stop_at_layer") is not None
        at_end(not is_cut_short and not is_partial_run())

    def embedding(
        _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        tokens = token_ids(arguments, keywords)
        if tokens is not None:
            at_tokens(tokens)

    undo = ExitStack()
    if calls_forward:
        undo.callback(_around_forward(root, _Watcher(started, ended)))
    else:
        before = root.register_forward_pre_hook(
            lambda _, __, keywords: started(keywords), with_kwargs=True
        )
        undo.callback(before.remove)
        # always_call, so that the end of a run that raises is reported as well.
        after = root.register_forward_hook(
            lambda _, __, keywords, output: ended(keywords, output),
            with_kwargs=True,
            always_call=True,
        )
        undo.callback(after.remove)
    if embed is not None:
        before_embed = embed.register_forward_pre_hook(embedding, with_kwargs=True)
        undo.callback(before_embed.remove)
    return undo.close


class _Watcher(NamedTuple):
    """Callbacks before and after a call of ``forward``; both get its keywords."""

    started: Callable[[Mapping[str, Any]], None]
    ended: Callable[[Mapping[str, Any], Any], None]


class _WatchedForward:
    """A module's ``forward``, which reports to watchers before and after each call."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.watchers: list[_Watcher] = []

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        for watcher in self.watchers:
            watcher.started(keywords)
        output = None
        try:
            output = self.forward(*arguments, **keywords)
        finally:
            for watcher in self.watchers:
                watcher.ended(keywords, output)
        return output


def _around_forward(module: nn.Module, watcher: _Watcher) -> Undo:
    """Report calls of ``module.forward`` to a watcher.

    There is one wrapper for all watchers, so that they can stop in any order; the last
    one removes it.
    """
    watched = module.__dict__.get("forward")
    if not isinstance(watched, _WatchedForward):
        watched = _WatchedForward(module.forward)
        module.__dict__["forward"] = watched
    watched.watchers.append(watcher)

    def undo() -> None:
        watched.watchers.remove(watcher)
        if not watched.watchers:
            del module.__dict__["forward"]

    return undo
