"""What the hosts need to know about torch modules.

Where a module keeps its hidden states, and which modules of a language model are its
blocks.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sae_lens_ext.errors import UnknownSite
from sae_lens_ext.hosts.base import SiteFunction


def replaced_output(output: Any, function: SiteFunction) -> Any:
    """A module's output with its hidden states passed through ``function``.

    The hidden states are the output itself, or the first floating-point tensor of a
    tuple, a list, a dict, or a named output such as those of Hugging Face; there
    ``hidden_states`` and ``last_hidden_state`` come before other names.

    Raises:
        UnknownSite: the output holds no tensor.
    """
    if isinstance(output, Tensor):
        new = function(output)
        return output if new is None else new

    items = parts_of(output)
    key = _key_of_hidden(items)
    if key is None:
        raise UnknownSite(
            "a module is a site if it returns a tensor, alone or in a tuple, a list, a "
            f"dict or a named output; this one returns a {type(output).__name__} "
            "without any"
        )
    new = function(items[key])
    return output if new is None else with_part(output, key, new)


def replaced_input(
    arguments: tuple[Any, ...], keywords: Mapping[str, Any], function: SiteFunction
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A module's arguments with its hidden states passed through ``function``.

    The hidden states are the first floating-point tensor among the positional
    arguments; without one there, ``hidden_states=``, or the first such tensor that is
    passed by another name.

    Raises:
        UnknownSite: no argument is a tensor.
    """
    positional = dict(enumerate(arguments))
    # Token ids are the only tensor that an embedding is called with.
    for is_fit in (_is_floating, _is_tensor):
        for items in (positional, keywords):
            key = _key_of_hidden(items, is_fit)
            if key is None:
                continue
            new = function(items[key])
            if new is None:
                return arguments, dict(keywords)
            if items is positional:
                return with_part(arguments, key, new), dict(keywords)
            return arguments, {**keywords, key: new}

    raise UnknownSite(
        "the input of a module is a site if the module is called with a tensor; this "
        f"one is called with {len(arguments)} arguments and {list(keywords)}, none of "
        "which is one"
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _key_of_hidden(
    items: Mapping[Any, Any], is_fit: Callable[[object], bool] = _is_floating
) -> Any:
    """The key of the hidden states among the parts of an output; None without any."""
    keys = ("hidden_states", "last_hidden_state", *items)
    return next((key for key in keys if is_fit(items.get(key))), None)


def parts_of(output: Any) -> Mapping[Any, Any]:
    """The parts of a module's output, by index or by name; empty for one value."""
    if isinstance(output, Mapping):
        return output
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {
            field.name: getattr(output, field.name)
            for field in dataclasses.fields(output)
        }
    return {}


def with_part(output: Any, key: Any, value: Any) -> Any:
    """A copy of a module's output in which one part is another."""
    if isinstance(output, tuple | list):
        parts = list(output)
        parts[key] = value
        # A named tuple is made from its parts one by one.
        make = getattr(type(output), "_make", type(output))
        return make(parts)

    if isinstance(output, Mapping):
        # The outputs of Hugging Face models are mappings that know their own kind.
        changed: Any = copy.copy(output)
        changed[key] = value
        return changed
    return dataclasses.replace(output, **{key: value})


def find_blocks(module: nn.Module) -> tuple[str, Sequence[nn.Module]]:
    """Path and members of the list of transformer blocks.

    It is the largest list of modules, by parameters, that is not inside another such
    list. Returns ``("", ())`` where there is none.
    """
    lists = {
        path: part
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part)
    }
    # In a model of text and images, only the language model's own lists count. What the
    # model calls its decoder may also be a part without blocks, or outside of it.
    decoder = called_if_there(module, "get_decoder") or module
    inside_decoder = {id(part) for part in decoder.modules()}
    of_decoder = {
        path: part for path, part in lists.items() if id(part) in inside_decoder
    }
    lists = of_decoder or lists

    # Lists inside a list, such as the experts of a block, are parts of blocks.
    sizes = {}
    for path, blocks in lists.items():
        is_nested = any(path.startswith(f"{outer}.") for outer in lists)
        if not is_nested:
            sizes[path] = sum(parameter.numel() for parameter in blocks.parameters())
    if not sizes:
        return "", ()

    path = max(sizes, key=lambda path: sizes[path])
    return path, list(lists[path])


def called_if_there(module: nn.Module, getter: str) -> nn.Module | None:
    """What a Hugging Face model's own accessor, such as ``get_decoder``, returns.

    None where the model has no such accessor, or the accessor does not know.
    """
    try:
        part = getattr(module, getter)()
    # Some need an argument, or look for parts that the model does not have.
    except Exception:
        return None
    return part if isinstance(part, nn.Module) else None


def n_logits(unembed: nn.Module | None, config: Any) -> int | None:
    """The number of logits that an output layer makes; None where nothing tells.

    Quantised layers have weights of other shapes, or none, but say how wide they are,
    as the model's config does.
    """
    # Several heads in a list make logits of several kinds.
    if unembed is None or isinstance(unembed, nn.ModuleList):
        return None
    weight = getattr(unembed, "weight", None)
    n_rows = (
        weight.shape[0] if isinstance(weight, Tensor) and weight.ndim == 2 else None
    )
    # In a model of text and images, the config of the language model is inside it.
    text_config = getattr(config, "text_config", None)
    numbers = (
        getattr(unembed, "out_features", None),
        n_rows,
        getattr(config, "vocab_size", None),
        getattr(text_config, "vocab_size", None),
    )
    return next((number for number in numbers if isinstance(number, int)), None)
