"""What hosts have in common about torch modules: where a module keeps its hidden states, and when a run begins."""

from collections.abc import Callable, Mapping
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
    return ((new, *arguments[1:]), dict(keywords)) if arguments else (arguments, {**keywords, "hidden_states": new})


def token_ids(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor | None:
    """The first tensor of whole numbers among a module's arguments."""
    for item in (*arguments, *keywords.values()):
        if isinstance(item, Tensor) and not item.is_floating_point() and not item.is_complex():
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
    at_end: Callable[[], object],
) -> Undo:
    """``Host.watch`` by hooks on the module that takes the model's arguments and on the one that is called with token ids."""

    def started(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        at_start(cached_positions(keywords))

    def ended(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        # HookedTransformer's way to stop early, by returning.
        if keywords.get("stop_at_layer") is None:
            at_end()

    def embedding(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        tokens = token_ids(arguments, keywords)
        if tokens is not None:
            at_tokens(tokens)

    handles = [root.register_forward_pre_hook(started, with_kwargs=True), root.register_forward_hook(ended, with_kwargs=True)]
    if embed is not None:
        handles.append(embed.register_forward_pre_hook(embedding, with_kwargs=True))

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def config_token_ids(config: Any) -> frozenset[int]:
    """Ids of BOS, EOS and padding that a Hugging Face config names."""
    found = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
    return frozenset(i for item in found for i in (item if isinstance(item, list) else [item]) if i is not None)
