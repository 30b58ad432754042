"""What the hosts need to know about torch modules.

Where a module keeps its hidden states, and which modules of a language model are its
blocks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from sae_lens_ext.hosts.base import SiteFunction


def replaced_output(output: Any, function: SiteFunction) -> Any:
    """A module's output with its hidden states passed through ``function``.

    The hidden states are the output itself, or the first item of a tuple.
    """
    hidden = output[0] if isinstance(output, tuple) else output
    new = function(hidden)
    if new is None:
        return output
    if isinstance(output, tuple):
        return (new, *output[1:])
    return new


def replaced_input(
    arguments: tuple[Any, ...], keywords: Mapping[str, Any], function: SiteFunction
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A module's arguments with its hidden states passed through ``function``.

    The hidden states are the first positional argument, or ``hidden_states=``.
    """
    hidden = arguments[0] if arguments else keywords["hidden_states"]
    new = function(hidden)
    if new is None:
        return arguments, dict(keywords)
    if arguments:
        return (new, *arguments[1:]), dict(keywords)
    return arguments, {**keywords, "hidden_states": new}


def find_blocks(module: nn.Module) -> tuple[str, Sequence[nn.Module]]:
    """Path and members of the list of transformer blocks.

    It is the largest list of modules, by parameters, that is not inside another such
    list. Returns ``("", ())`` where there is none.
    """
    # In a model of text and images, only the language model's own lists count.
    decoder = called_if_there(module, "get_decoder") or module
    inside_decoder = {id(part) for part in decoder.modules()}
    lists = {
        path: part
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) and id(part) in inside_decoder
    }

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
    except (AttributeError, NotImplementedError):
        return None
    return part if isinstance(part, nn.Module) else None
