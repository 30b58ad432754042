"""What hosts have in common about torch modules: where one keeps its hidden states and its blocks, and when a run begins."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from sae_lens_ext.hosts.base import SiteFunction, Undo


def replaced_output(output: Any, function: SiteFunction) -> Any:
    """A module's output with its hidden states, the output itself or the first of a tuple, passed through ``function``."""
    hidden = output[0] if isinstance(output, tuple) else output
    new = function(hidden)
    if new is None:
        return output
    return (new, *output[1:]) if isinstance(output, tuple) else new


def replaced_input(
    arguments: tuple[Any, ...], keywords: Mapping[str, Any], function: SiteFunction
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A module's arguments with its hidden states, the first of them or ``hidden_states=``, passed through ``function``."""
    hidden = arguments[0] if arguments else keywords["hidden_states"]
    new = function(hidden)
    if new is None:
        return arguments, dict(keywords)
    return (
        ((new, *arguments[1:]), dict(keywords))
        if arguments
        else (arguments, {**keywords, "hidden_states": new})
    )


def token_ids(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
    """The first tensor of whole numbers among a module's arguments."""
    for item in (*arguments, *keywords.values()):
        if (
            isinstance(item, Tensor)
            and not item.is_floating_point()
            and not item.is_complex()
        ):
            return item
    return None


def cached_positions(keywords: Mapping[str, Any]) -> int:
    """How many positions the cache in a model's keyword arguments already holds; 0 without one."""
    cache = keywords.get("past_key_values")
    if cache is not None:
        return int(cache.get_seq_length())
    cache = keywords.get("past_kv_cache")  # HookedTransformer's
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
    """``Host.watch`` on the module that takes the model's arguments and on the one that is called with token ids.

    By torch's hooks, or, where the model calls its own ``forward`` directly, around that.
    """

    def started(keywords: Mapping[str, Any]) -> None:
        at_start(cached_positions(keywords))

    def ended(keywords: Mapping[str, Any], output: Any) -> None:
        # HookedTransformer stops early by returning; one that raises returns nothing.
        at_end(output is not None and keywords.get("stop_at_layer") is None)

    def embedding(
        _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        tokens = token_ids(arguments, keywords)
        if tokens is not None:
            at_tokens(tokens)

    undo = ExitStack()
    if calls_forward:
        undo.callback(_around_forward(root, (started, ended)))
    else:
        undo.callback(
            root.register_forward_pre_hook(
                lambda _, __, keywords: started(keywords), with_kwargs=True
            ).remove
        )
        after = root.register_forward_hook(
            lambda _, __, keywords, output: ended(keywords, output),
            with_kwargs=True,
            always_call=True,
        )
        undo.callback(after.remove)
    if embed is not None:
        undo.callback(
            embed.register_forward_pre_hook(embedding, with_kwargs=True).remove
        )
    return undo.close


class _Watched:
    """A module's ``forward`` with somebody told before and after it."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.watchers: list[
            tuple[
                Callable[[Mapping[str, Any]], None],
                Callable[[Mapping[str, Any], Any], None],
            ]
        ] = []

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        for started, _ in self.watchers:
            started(keywords)
        output = None
        try:
            output = self.forward(*arguments, **keywords)
        finally:
            for _, ended in self.watchers:
                ended(keywords, output)
        return output


def _around_forward(module: nn.Module, watcher: Any) -> Undo:
    """One wrapper however many watch, so that they can stop in any order; the last one takes it away."""
    watched = module.__dict__.get("forward")
    if not isinstance(watched, _Watched):
        watched = module.__dict__["forward"] = _Watched(module.forward)
    watched.watchers.append(watcher)

    def undo() -> None:
        watched.watchers.remove(watcher)
        if not watched.watchers:
            del module.__dict__["forward"]

    return undo


def config_token_ids(config: Any) -> frozenset[int]:
    """Ids of BOS, EOS and padding that a Hugging Face config names."""
    found = (
        getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")
    )
    return frozenset(
        i
        for item in found
        for i in (item if isinstance(item, list) else [item])
        if i is not None
    )


def find_blocks(module: nn.Module) -> tuple[str, Sequence[nn.Module]]:
    """Path and members of the list of blocks: the largest list of modules that is in no other such list."""
    # In a model of text and images, the language model's own.
    decoder = called_if_there(module, "get_decoder") or module
    inside = {id(part) for part in decoder.modules()}
    lists = {
        path: part
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) and id(part) in inside
    }
    outer = {
        path: part
        for path, part in lists.items()
        if not any(path.startswith(f"{other}.") for other in lists)
    }
    if not outer:
        return "", ()
    path = max(
        outer,
        key=lambda path: sum(
            parameter.numel() for parameter in outer[path].parameters()
        ),
    )
    return path, list(outer[path])


def called_if_there(module: nn.Module, getter: str) -> nn.Module | None:
    """What a Hugging Face model's own accessor returns; None where the model has none, or it does not know."""
    try:
        found = getattr(module, getter)()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None
