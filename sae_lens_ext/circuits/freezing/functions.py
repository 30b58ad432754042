"""Functions of torch with a part of what they compute held fixed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sae_lens_ext.circuits.freezing.tape import Tape
from sae_lens_ext.hosts import attention_by_queries

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
_ROOTS = {
    torch.rsqrt,
    torch.sqrt,
    torch.std,
    torch.norm,
    torch.linalg.vector_norm,
    torch.linalg.norm,
    Tensor.rsqrt,
    Tensor.sqrt,
    Tensor.std,
    Tensor.norm,
}
_POWERS = {torch.pow, Tensor.pow, Tensor.__pow__}
_LAYER_NORM = {F.layer_norm, torch.layer_norm}
_RMS_NORM = {F.rms_norm, torch.rms_norm}


class HeldFunctions(TorchFunctionMode):
    """While active, functions that a model calls compute with what a tape holds."""

    def __init__(
        self, tape: Tape, kinds: Sequence[str], is_in_norm: Callable[[], bool]
    ) -> None:
        """Hold the parts of these kinds.

        Args:
            tape: records or gives back what is held.
            kinds: ``"attention"``, ``"norms"``, or both.
            is_in_norm: whether a norm's ``forward`` is running, in which a root is a
                denominator.
        """
        super().__init__()
        self._tape = tape
        self._holds_attention = "attention" in kinds
        self._holds_norms = "norms" in kinds
        self._is_in_norm = is_in_norm

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function, or what it is with a part of it held."""
        kwargs = kwargs or {}
        if self._holds_attention:
            if func in _SOFTMAX and _is_over_keys(*args, **kwargs):
                return self._result("softmax", "attention", func, args, kwargs)
            if func is F.scaled_dot_product_attention:
                return self._attention(*args, **kwargs)
            if func is attention_by_queries:
                return self._attention_by_queries(*args)

        if self._holds_norms:
            is_root = func in _ROOTS or (func in _POWERS and _is_root(*args, **kwargs))
            if is_root and self._is_in_norm():
                return self._result("a root", "norms", func, args, kwargs)
            if func in _LAYER_NORM:
                return self._norm(True, func, *args, **kwargs)
            if func in _RMS_NORM:
                return self._norm(False, func, *args, **kwargs)
        return func(*args, **kwargs)

    def _result(
        self,
        name: str,
        kind: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """The result of a function, held as a whole."""
        (result,) = self._tape.held(name, kind, lambda: (func(*args, **kwargs),))
        return result

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Attention whose pattern is held, by the queries and keys that it is of."""
        query, key = self._tape.held(
            "scaled_dot_product_attention", "attention", lambda: (query, key)
        )
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)

    def _attention_by_queries(
        self, attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any
    ) -> Tensor:
        """The same of long rows."""
        query, key = self._tape.held(
            "attention by queries", "attention", lambda: (query, key)
        )
        return attention_by_queries(attention, query, key, value, mask)

    def _norm(
        self,
        is_centred: bool,
        func: Callable[..., Tensor],
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float | None = None,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        """A norm whose denominator is held.

        The output is that of the recorded run and what the linear map, that the norm
        then is, makes of the difference of the inputs. So the recorded run keeps its
        bits, which the map alone would round otherwise.
        """
        axes = tuple(range(-len(normalized_shape), 0))

        def output() -> Tensor:
            if is_centred:
                # torch has a default of its own.
                options = {} if eps is None else {"eps": eps}
                return func(input, normalized_shape, weight, bias, **options)
            return func(input, normalized_shape, weight, eps)

        def centred() -> Tensor:
            wide = input.to(torch.promote_types(input.dtype, torch.float32))
            return wide - wide.mean(axes, keepdim=True) if is_centred else wide

        def scale() -> Tensor:
            smallest = eps
            if smallest is None:
                smallest = 1e-5 if is_centred else torch.finfo(input.dtype).eps
            mean_square = centred().square().mean(axes, keepdim=True)
            return (mean_square + smallest).rsqrt()

        def linear(scale: Tensor) -> Tensor:
            mapped = centred() * scale
            return mapped if weight is None else mapped * weight

        def record() -> tuple[Tensor, Tensor, Tensor]:
            recorded_scale = scale().detach()
            return recorded_scale, linear(recorded_scale), output()

        recorded_scale, recorded_linear, recorded_output = self._tape.held(
            "a norm", "norms", record
        )
        difference = linear(recorded_scale) - recorded_linear
        return recorded_output + difference.to(recorded_output.dtype)


def _is_over_keys(input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> bool:
    """Whether a softmax makes a pattern ``[batch, head, query, key]``."""
    return input.ndim == 4 and dim in (-1, 3)


def _is_root(input: Any, exponent: Any = None, *_: Any, **__: Any) -> bool:
    return exponent in (0.5, -0.5) if isinstance(exponent, float) else False
