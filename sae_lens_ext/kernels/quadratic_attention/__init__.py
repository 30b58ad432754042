"""Linear attention with a quadratic kernel: Based, ReBased and all between them."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext._arguments import as_real
from sae_lens_ext._types import Backend
from sae_lens_ext.errors import BackendError, InvalidArgument
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_attention, check_attention_state
from sae_lens_ext.kernels.quadratic_attention import chunked, reference
from sae_lens_ext.kernels.quadratic_attention.features import (
    Coefficients,
    checked_coefficients,
    checked_scale,
    feature_map,
    feature_pairs,
    n_features,
)
from sae_lens_ext.kernels.quadratic_attention.reference import (
    AttentionState,
    FeatureMap,
    divisor,
)

__all__ = [
    "Attended",
    "AttentionState",
    "Coefficients",
    "FeatureMap",
    "Form",
    "divisor",
    "feature_map",
    "feature_pairs",
    "n_features",
    "quadratic_attention",
    "quadratic_attention_step",
    "quadratic_attention_with_state",
]

Form = Literal["auto", "dense", "chunked", "recurrent"]
"""How it is computed; all give the same numbers, up to rounding."""
_FORMS = get_args(Form)


class Attended(NamedTuple):
    """What came out, and what is left for the tokens that come."""

    out: Tensor
    state: AttentionState


def quadratic_attention(
    q: Float[Tensor, "*batch pos d"],
    k: Float[Tensor, "*batch pos d"],
    v: Float[Tensor, "*batch pos d_v"],
    c: Coefficients = (0.0, 0.0, 1.0),
    scale: float | None = None,
    form: Form = "auto",
    backend: Backend | None = None,
    *,
    eps: float = 1e-12,
    state: AttentionState | None = None,
) -> Float[Tensor, "*batch pos d_v"]:
    """Causal attention whose weights are c0 + c1 s + c2 s^2 of the scores s = scale * q.k, divided by their sum.

    >>> import torch
    >>> q, k, v = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    >>> quadratic_attention(q, k, v, scale=1.0).tolist()  # the second token weighs 2^2 and 6^2
    [[0.0], [0.8999999761581421]]

    Sums and the division are in float32 or wider, and autocast leaves them there. A token that weighs nothing at all, itself included,
    gets 0; so does one whose weights, read from a state, sum to less than the rounding of that sum (``divisor``). Weights are negative
    where c1^2 > 4 c0 c2 and the score is between the roots; then their sum can be near 0 though they are not. In float32 scores above
    some 1e19 give NaN. A NaN in the values of a token may reach earlier tokens of its chunk.

    Differentiable in q, k, v and the state. Gradients of gradients are those of the definition, in memory quadratic in pos.

    Args:
        q: queries.
        k: keys.
        v: values.
        c: c0, c1 and c2, none below 0: (1, 1, 1/2) is Based, (0, 0, 1) ReBased (whose q and k have been normalised).
        scale: of the scores; None means 1 / sqrt(d).
        form: "dense" is quadratic in pos; "chunked" is linear, in memory that does not grow with pos beyond that of its inputs (on a GPU
            it holds a state for every 256 tokens); "recurrent" goes token by token through the state, which is slow and loses digits
            where weights are small, and is for comparison; "auto" picks what multiplies least, and
            on a CPU holds the scores of at most 4096 tokens at a time.
        backend: "reference", "cpu" or "gpu"; None picks by device. "recurrent" is always the definition, and so is "dense" on a CPU; on a
            GPU that holds no scores either. Where d is above 64 the GPU's version is torch code rather than Triton.
        eps: added to the sum of the weights before it divides.
        state: of tokens before these, from ``quadratic_attention_with_state`` with the same c and scale.

    Returns:
        A row for every token, in the dtype of v.

    Raises:
        InvalidArgument: numbers that define no such attention; an unknown form or backend; what should be tensors of one floating
            dtype on one device is not, or what should be a state; or ``torch.vmap``.
        ShapeMismatch: the tensors do not fit together.
        BackendError: the backend that was asked for cannot run here, or not in this form.

    Source: Arora et al. 2024 (arXiv 2402.18668); Aksenov et al. 2024 (arXiv 2402.10644).
    """
    check_attention(q, k, v)
    return _attend(q, k, v, c, scale, form, backend, eps, state, wants_state=False)[0]


def quadratic_attention_with_state(
    q: Float[Tensor, "*batch pos d"],
    k: Float[Tensor, "*batch pos d"],
    v: Float[Tensor, "*batch pos d_v"],
    c: Coefficients = (0.0, 0.0, 1.0),
    scale: float | None = None,
    form: Form = "auto",
    backend: Backend | None = None,
    *,
    eps: float = 1e-12,
    state: AttentionState | None = None,
) -> Attended:
    """``quadratic_attention`` and the state after its last token; going on from there gives what one call on all tokens gives.

    Gradients flow through the state. It has no ``detach`` of its own: ``AttentionState(*(part.detach() for part in state))``. Its parts
    are the caller's, and may be changed in place where no gradient is wanted of them.

    Args:
        q: as ``quadratic_attention`` takes it.
        k: likewise.
        v: likewise.
        c: likewise.
        scale: likewise.
        form: likewise.
        backend: likewise.
        eps: likewise.
        state: likewise.

    Returns:
        ``out`` [*batch, pos, d_v], and ``state``: ``kv`` [*batch, features, d_v] and ``k`` [*batch, features], with ``n_features(d, c)``
        features in the order of ``feature_map``, in float32 (float64 where q is).

    Raises:
        InvalidArgument: as ``quadratic_attention`` does.
        ShapeMismatch: likewise.
        BackendError: likewise.
    """
    check_attention(q, k, v)
    out, final_state = _attend(
        q, k, v, c, scale, form, backend, eps, state, wants_state=True
    )
    assert final_state is not None
    return Attended(out, final_state)


def quadratic_attention_step(
    q: Float[Tensor, "*batch d"],
    k: Float[Tensor, "*batch d"],
    v: Float[Tensor, "*batch d_v"],
    state: AttentionState | None,
    *,
    c: Coefficients = (0.0, 0.0, 1.0),
    scale: float | None = None,
    eps: float = 1e-12,
) -> Attended:
    """``quadratic_attention_with_state`` of one token, at a cost that does not depend on how many came before.

    In plain torch on every device.

    Args:
        q: its query.
        k: its key.
        v: its value.
        state: of the tokens before it; None if it is the first.
        c: as ``quadratic_attention`` takes it.
        scale: likewise.
        eps: likewise.

    Returns:
        ``out`` [*batch, d_v], and the ``state`` with this token in it.

    Raises:
        InvalidArgument: as ``quadratic_attention`` does.
        ShapeMismatch: likewise.
        BackendError: likewise.
    """
    check_attention(q, k, v, axes="...")
    tensors = q.unsqueeze(-2), k.unsqueeze(-2), v.unsqueeze(-2)
    out, final_state = _attend(
        *tensors, c, scale, "recurrent", None, eps, state, wants_state=True
    )
    assert final_state is not None
    return Attended(out.squeeze(-2), final_state)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    c: Coefficients,
    scale: float | None,
    form: Form,
    backend: Backend | None,
    eps: float,
    state: AttentionState | None,
    wants_state: bool,
) -> tuple[Tensor, AttentionState | None]:
    if form not in _FORMS:
        raise InvalidArgument(f"form must be one of {', '.join(_FORMS)}; got {form!r}")
    feature_map = _feature_map(c, scale, eps, q)
    if state is not None:
        _check_state(
            state, v, n_features(q.shape[-1], feature_map.c), reference.accumulator(q)
        )
    chosen = resolve(backend, q, k, v, *(state or ()))
    if backend in ("cpu", "gpu") and (
        form == "recurrent" or (form, backend) == ("dense", "cpu")
    ):
        raise BackendError(
            f"backend={backend!r} was asked for, but form={form!r} is plain torch; leave backend out or pass backend='reference'"
        )
    # One token after a state has nothing to be laid out for, and an operator's own cost would be most of it.
    is_one_token = (
        form == "auto" and backend is None and state is not None and q.shape[-2] == 1
    )
    if form == "recurrent" or is_one_token:
        return reference.recurrent(q, k, v, feature_map, state)
    if chosen == "gpu":
        from sae_lens_ext.kernels.quadratic_attention import (
            gpu,
        )  # loads Triton, so only when needed

        return gpu.attend(q, k, v, feature_map, state, wants_state, form)
    if chosen == "cpu" and form != "dense":
        return chunked.attend(q, k, v, feature_map, state, wants_state, form)
    return (reference.chunked if form == "chunked" else reference.dense)(
        q, k, v, feature_map, state, wants_state
    )


def _feature_map(c: object, scale: object, eps: object, q: Tensor) -> FeatureMap:
    dtype = reference.accumulator(q)
    smallest = torch.finfo(dtype).tiny
    if not smallest <= as_real(eps) < math.inf:
        raise InvalidArgument(
            f"eps must be a number above 0, and at least {smallest:.2g}, the smallest of {dtype}; got {eps!r}"
        )
    return FeatureMap(
        checked_coefficients(c),
        1 / math.sqrt(q.shape[-1]) if scale is None else checked_scale(scale),
        as_real(eps),
    )


def _check_state(state: object, v: Tensor, n_features: int, dtype: torch.dtype) -> None:
    if not isinstance(state, AttentionState) or not all(
        isinstance(part, Tensor) for part in state
    ):
        found = (
            ", ".join(type(part).__name__ for part in state)
            if isinstance(state, AttentionState)
            else f"a {type(state).__name__}"
        )
        raise InvalidArgument(
            f"state must be an AttentionState of two tensors; got {found}; take it from the .state of quadratic_attention_with_state"
        )
    check_attention_state(*state, v, n_features, dtype)
