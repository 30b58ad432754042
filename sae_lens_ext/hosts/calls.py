"""What the arguments of a run say about where its columns stand in the text."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from sae_lens_ext.hosts.caches import CACHE_NAMES, cache_length


@dataclass
class CallFacts:
    """Facts about the run in progress, from the arguments of the modules it calls.

    A model hands its arguments on to the model inside it, and may change them on the
    way: a wrapper puts a prompt before them, or a mask is expanded. So the innermost
    module counts that has an argument in the form that is understood here.

    Attributes:
        attention_mask: True at text, in all columns of the rows up to the end of this
            run, those in a cache included.
        attended: the same as a mask over pairs of positions, ``[batch, head, query,
            key]``, True where attention is allowed.
        position_ids: the positions that the caller gave.
        cache: the past that the caller gave, in any form.
        cached: number of columns in it; None where it cannot be read.
        shape: rows and columns of the run's input.
    """

    attention_mask: Bool[Tensor, "batch column"] | None = None
    attended: Bool[Tensor, "batch head query key"] | None = None
    position_ids: Int[Tensor, "batch pos"] | None = None
    cache: Any = None
    cached: int | None = None
    shape: tuple[int, int] | None = None

    def read(self, arguments: Mapping[str, Any]) -> None:
        """Take in the arguments of a module, by name."""
        # Of a model with an encoder, sites are in the decoder.
        is_decoder = "decoder_input_ids" in arguments
        mask = arguments.get(
            "decoder_attention_mask" if is_decoder else "attention_mask"
        )
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self.attention_mask = mask != 0
        else:
            pairs = _pair_mask(mask)
            self.attended = self.attended if pairs is None else pairs

        position_ids = arguments.get("position_ids")
        if isinstance(position_ids, Tensor) and position_ids.ndim == 2:
            self.position_ids = position_ids
        self._read_cache(arguments)

        shape = _input_shape(arguments)
        self.shape = self.shape if shape is None else shape

    def _read_cache(self, arguments: Mapping[str, Any]) -> None:
        caches = [arguments.get(name) for name in CACHE_NAMES]
        caches = [value for value in caches if value is not None]
        if not caches:
            return
        self.cache = caches[0]
        # Now, because the run will add its own columns to it.
        self.cached = cache_length(self.cache)


def named_arguments(
    module: nn.Module, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a module's call, by the names that its ``forward`` has."""
    # Of the class, because libraries put wrappers without names on instances.
    names = _positional_names(type(module).forward)
    return {**dict(zip(names, arguments, strict=False)), **keywords}


def token_ids(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Tensor | None:
    """The first tensor of integers among a module's arguments."""
    for value in (*arguments, *keywords.values()):
        if not isinstance(value, Tensor):
            continue
        if not value.is_floating_point() and not value.is_complex():
            return value
    return None


def takes(module: nn.Module, name: str) -> bool:
    """Whether a model's ``forward`` has an argument of this name.

    A wrapper that hands on whatever it gets has the arguments of the model inside it.
    """
    parameters = inspect.signature(type(module).forward).parameters
    if name in parameters:
        return True
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        return False
    # What DataParallel, PEFT and torch.compile call the model inside them.
    inner_names = ("module", "base_model", "model", "_orig_mod", "_fsdp_wrapped_module")
    inner = [module._modules.get(inner_name) for inner_name in inner_names]
    return any(takes(part, name) for part in inner if part is not None)


def _positional_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    # Faster than a signature, and a cache of those could not be sent to an nnsight
    # server with a splice.
    code = getattr(inspect.unwrap(forward), "__code__", None)
    if code is None:
        return ()
    # The first one is the module itself.
    return code.co_varnames[1 : code.co_argcount]


def _pair_mask(mask: Any) -> Tensor | None:
    """A mask over pairs of positions as booleans; None for anything else."""
    if isinstance(mask, Mapping):
        # By kind of layer; only one of full attention sees all of the text.
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return None
    if mask.is_floating_point():
        # What is added to the scores: 0, or the lowest number where not allowed.
        return mask == 0
    return mask != 0


def _input_shape(arguments: Mapping[str, Any]) -> tuple[int, int] | None:
    is_decoder = "decoder_input_ids" in arguments
    embeddings = arguments.get("inputs_embeds") if not is_decoder else None
    if isinstance(embeddings, Tensor) and embeddings.ndim == 3:
        return embeddings.shape[0], embeddings.shape[1]
    ids = arguments.get("decoder_input_ids", arguments.get("input_ids"))
    if isinstance(ids, Tensor) and ids.ndim == 2:
        return ids.shape[0], ids.shape[1]
    return None
