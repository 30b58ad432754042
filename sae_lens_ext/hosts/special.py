"""Which tokens are special: one rule, the same on every host.

A model's special tokens are those that the model itself names as BOS, EOS or padding:
in its config, in the config of the language model inside it (``text_config`` and the
like), in its generation config, and in those of the modules it is wrapped in or wraps.
So a bridge, an nnsight model and the bare module have the same ones, with or without a
tokenizer. Only where the model names none, as a ``HookedTransformer`` does not, its
tokenizer is asked: then every token that the tokenizer treats as special is.

Markers of a chat that the model does not name as an end of text are text by this rule,
because a module has no way to know them; a splice leaves them alone by ``positions=``,
or by ids in the SAE's ``exclude_special_tokens``.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")
# Configs of language models inside of other configs.
_TEXT_CONFIGS = (
    "text_config",
    "language_config",
    "llm_config",
    "thinker_config",
    "decoder",
)


def special_token_ids(modules: Iterable[nn.Module], tokenizer: Any) -> frozenset[int]:
    """Ids of the special tokens of a model; empty where nothing names them.

    Args:
        modules: the model's modules that may have a config: see ``config_holders``.
        tokenizer: the model's tokenizer, or None.
    """
    ids: set[int] = set()
    for config in _configs(modules):
        for name in _NAMES:
            ids |= _ids(_value(config, name))
    if ids or tokenizer is None:
        return frozenset(ids)
    return _ids_of_tokenizer(tokenizer)


def padding_id(
    modules: Iterable[nn.Module], tokenizer: Any, d_vocab: int | None
) -> int:
    """An id that the model can look up at padding, where it means nothing.

    That is the model's own where it has one, else any.
    """
    candidates = [getattr(tokenizer, "pad_token_id", None)]
    candidates += [_value(config, "pad_token_id") for config in _configs(modules)]
    for candidate in candidates:
        for token_id in _ids(candidate):
            if d_vocab is None or token_id < d_vocab:
                return token_id
    return 0


def config_holders(module: nn.Module, inner_path: str) -> list[nn.Module]:
    """A model and the modules in it down to an inner one, from the outermost.

    Args:
        module: the model, which may be a wrapper around another.
        inner_path: path of the inner one, as in ``named_modules``.
    """
    holders = [module]
    for name in filter(None, inner_path.split(".")):
        holders.append(getattr(holders[-1], name))
    return holders


def _configs(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """The configs of modules, and those inside of them."""
    for module in modules:
        for name in ("config", "generation_config"):
            config = getattr(module, name, None)
            if config is None:
                continue
            yield config
            for inner in _TEXT_CONFIGS:
                nested = _value(config, inner)
                if nested is not None:
                    yield nested


def _value(config: Any, name: str) -> Any:
    """A field of a config, which may be a dict; None where it has no such field."""
    if isinstance(config, Mapping):
        return config.get(name)
    return getattr(config, name, None)


def _ids(value: Any) -> set[int]:
    """Ids from a field: a number, or several, as where a model has several ends."""
    values = value if isinstance(value, list | tuple | set) else [value]
    return {
        item
        for item in values
        if isinstance(item, int) and not isinstance(item, bool) and item >= 0
    }


def _ids_of_tokenizer(tokenizer: Any) -> frozenset[int]:
    """Ids of every token that a tokenizer treats as special."""
    ids = set(getattr(tokenizer, "all_special_ids", ()))
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    ids |= {number for number, token in added.items() if token.special}
    return frozenset(ids)
