"""How many positions a cache holds, whatever its class.

Models keep their past as a ``Cache`` of transformers (dynamic, static, sliding or
hybrid), as tuples of keys and values, or as a state without positions (RWKV, Mamba).
The length of the last kind cannot be read, so what earlier runs put in is remembered.
"""

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from jaxtyping import Int
from torch import Tensor

T = TypeVar("T")

CACHE_NAMES = (
    "past_key_values",
    "past_key_value",
    "layer_past",
    "past_kv_cache",
    "cache_params",
    "cache",
    "state",
)
"""Names of the arguments in which models take their past."""


class Seen(NamedTuple):
    """What earlier runs put into a cache.

    Attributes:
        columns: number of columns, padding included.
        lengths: number of tokens of text in each row.
    """

    columns: int
    lengths: Int[Tensor, " batch"]


def cache_length(cache: Any) -> int | None:
    """The number of columns in a cache; None where the cache does not say."""
    layers = getattr(cache, "layers", None)
    if isinstance(layers, list | tuple):
        # A hybrid's layers without attention have no length, or one of 0.
        lengths = [_length_of(layer) for layer in layers]
        return max((n for n in lengths if n is not None), default=None)
    if hasattr(cache, "get_seq_length"):
        return _length_of(cache)

    # Tuples of keys and values, [batch, head, pos, d_head], for every layer.
    if isinstance(cache, list | tuple):
        entry: Any = next(iter(cache), None)
        keys: Any = next(iter(entry), None) if isinstance(entry, list | tuple) else None
        has_positions = isinstance(keys, Tensor) and keys.ndim == 4
        return int(keys.shape[-2]) if has_positions else None

    # HookedTransformer has a cache of its own, with keys [batch, pos, head, d_head].
    entry = next(iter(getattr(cache, "entries", ())), None)
    keys = getattr(entry, "past_keys", None)
    return None if keys is None else int(keys.shape[1])


class CacheMemory(Generic[T]):
    """What is known about caches, such as what earlier runs put into them.

    Caches are not kept alive by it.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._seen: dict[int, tuple[weakref.ref[Any], T]] = {}

    def remember(self, cache: Any, seen: T) -> None:
        """Keep what is known about a cache after a run."""
        anchor = _anchor(cache)
        if anchor is None:
            return
        key = id(anchor)

        def forget(_: object) -> None:
            self._seen.pop(key, None)

        self._seen[key] = (weakref.ref(anchor, forget), seen)

    def recall(self, cache: Any) -> T | None:
        """What is known about a cache; None for nothing."""
        anchor = _anchor(cache)
        if anchor is None or id(anchor) not in self._seen:
            return None
        reference, seen = self._seen[id(anchor)]
        return seen if reference() is anchor else None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: on another machine there are other caches."""
        return {"_seen": {}}


def caches_in(output: Any) -> Iterator[Any]:
    """Everything in a model's output that may be a cache."""
    if isinstance(output, Mapping):
        values = [output[name] for name in CACHE_NAMES if name in output]
    elif isinstance(output, tuple):
        values = list(output[1:])
    else:
        values = [getattr(output, name, None) for name in CACHE_NAMES]
    for value in values:
        if value is not None and not isinstance(value, Tensor):
            yield value


def _length_of(cache: Any) -> int | None:
    try:
        return int(cache.get_seq_length())
    # Caches without positions have no such method, or one that raises.
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None


def _anchor(cache: Any) -> Any:
    """An object that lives as long as a cache does; None where there is none."""
    if isinstance(cache, list | tuple):
        # Lists cannot be referred to weakly; the tensors in them can.
        anchors = (_anchor(item) for item in cache)
        return next((anchor for anchor in anchors if anchor is not None), None)
    try:
        weakref.ref(cache)
    except TypeError:
        return None
    return cache
