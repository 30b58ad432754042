"""Linear attention by a quadratic polynomial of the scores: Based, ReBased and more."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._types import Backend
from sae_lens_ext.errors import BackendError, InvalidArgument
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_attention, check_attention_state
from sae_lens_ext.kernels.quadratic_attention import chunked, reference
from sae_lens_ext.kernels.quadratic_attention.features import (
    Coefficients,
    checked_coefficients,
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
"""How attention is computed; all forms give the same numbers, up to rounding."""
_FORMS = get_args(Form)


class Attended(NamedTuple):
    """The output of attention, and the state after its last token."""

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
    """Compute causal attention whose weights are a quadratic polynomial of the scores.

    The weight of a key for a query is c0 + c1 s + c2 s^2, with the score
    s = scale * <q, k>. The output is the weighted sum of the values up to each token,
    divided by the sum of the weights.

    >>> import torch
    >>> q, k = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    >>> v = torch.tensor([[0.0], [1.0]])
    >>> quadratic_attention(q, k, v, scale=1.0).tolist()  # token 2 weighs 2^2 and 6^2
    [[0.0], [0.8999999761581421]]

    Sums and the division are in float32 or wider, also under autocast. Three cases
    deserve care:

    - The output is 0 for a token whose weights are all 0, that of its own key included;
      and for one whose weights, where they are read from a state, sum to less than the
      rounding error of that sum (see ``divisor``).
    - Weights are negative where c1^2 > 4 c0 c2 and the score is between the roots of
      the polynomial. Their sum can then be near 0 though they are not.
    - In float32, scores above about 1e19 give NaN. A NaN in the values of a token may
      reach earlier tokens of its chunk.

    The result is differentiable in q, k, v and the state. Second derivatives are those
    of the definition, in memory quadratic in pos.

    Args:
        q: queries.
        k: keys.
        v: values.
        c: the coefficients c0, c1 and c2, none of them negative. (1, 1, 1/2) is Based;
            (0, 0, 1) is ReBased, whose q and k have been normalised.
        scale: of the scores, a positive number; None is 1 / sqrt(d). For a scale per
            query, multiply q by a tensor.
        form: how to compute it. "dense" is quadratic in pos. "chunked" is linear in
            pos, in memory that does not grow with pos beyond that of its inputs (on a
            GPU it holds a state per 256 tokens). "recurrent" goes through the tokens
            one by one, which is slow and loses digits where weights are small, and is
            for comparison. "auto" chooses the form with the fewest multiplications, and
            on a CPU holds the scores of at most 4096 tokens at a time.
        backend: "reference", "cpu" or "gpu"; None chooses by device. "recurrent" is
            always the definition, and so is "dense" on a CPU. On a GPU "dense" does not
            hold the scores either. Where d is above 64, the GPU's version is torch code
            rather than Triton.
        eps: added to the sum of the weights before the division; at least the smallest
            normal number of the dtype of sums.
        state: of the tokens before these, from ``quadratic_attention_with_state`` with
            the same c and scale.

    Returns:
        A row per token, in the dtype of v.

    Raises:
        InvalidArgument: c, scale or eps is out of range; the form or the backend is
            unknown; q, k and v are not tensors of one floating-point dtype on one
            device; the state is not one for them; or ``torch.vmap`` is in use.
        ShapeMismatch: the tensors do not fit together.
        BackendError: the requested backend cannot run here, or not in this form.

    Source: Arora et al. 2024 (arXiv 2402.18668); Aksenov et al. 2024 (arXiv
    2402.10644).
    """
    check_attention(q, k, v)
    out, _ = _attend(q, k, v, c, scale, form, backend, eps, state, wants_state=False)
    return out


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
    """Compute ``quadratic_attention``, and the state after its last token.

    Continuing from that state gives the same as one call on all tokens.

    Gradients flow through the state; ``AttentionState(*(part.detach() for part in
    state))`` stops them. Its parts belong to the caller, who may change them in place
    where their gradient is not needed.

    The arguments, and the errors that they raise, are those of ``quadratic_attention``.

    Returns:
        ``out``, ``[*batch, pos, d_v]``, and ``state``, whose ``kv``,
        ``[*batch, features, d_v]``, and ``k``, ``[*batch, features]``, are in float32
        (float64 where q is), for the ``n_features(d, c)`` features in the order of
        ``feature_map``.
    """
    check_attention(q, k, v)
    out, final_state = _attend(
        q,
        k,
        v,
        c,
        scale,
        form,
        backend,
        eps,
        state,
        wants_state=True,
    )
    # Always there if it is wanted.
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
    """Compute ``quadratic_attention_with_state`` of one token.

    The cost does not depend on the number of tokens before it. It is plain torch on
    every device.

    Args:
        q: the token's query.
        k: its key.
        v: its value.
        state: of the tokens before it; None if it is the first.
        c: the coefficients, see ``quadratic_attention``.
        scale: of the scores, see ``quadratic_attention``.
        eps: see ``quadratic_attention``.

    Returns:
        ``out`` ``[*batch, d_v]``, and the ``state`` that includes this token.

    Raises:
        InvalidArgument: as in ``quadratic_attention``.
        ShapeMismatch: the tensors do not fit together.
    """
    check_attention(q, k, v, axes="...")
    out, final_state = _attend(
        q.unsqueeze(-2),
        k.unsqueeze(-2),
        v.unsqueeze(-2),
        c,
        scale,
        "recurrent",
        None,
        eps,
        state,
        wants_state=True,
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
    """Check what was not checked yet, and run the implementation that is asked for."""
    arguments.choice(form, "form", _FORMS)
    feature_map = _checked_feature_map(c, scale, eps, q)
    if state is not None:
        features = n_features(q.shape[-1], feature_map.c)
        _check_state(state, v, features, reference.accumulator(q))

    resolved = resolve(backend, q, k, v, *(state or ()))
    # Only a backend that was asked for is refused: None resolves to "cpu" here as well.
    is_plain = form == "recurrent" or (form == "dense" and backend == "cpu")
    if is_plain and backend in ("cpu", "gpu"):
        raise BackendError(
            f"backend={backend!r} was asked for, but form={form!r} is plain torch; "
            "leave backend out or pass backend='reference'"
        )

    # For one token after a state, an operator's overhead would be most of the cost.
    is_one_token = (
        form == "auto" and backend is None and state is not None and q.shape[-2] == 1
    )
    if form == "recurrent" or is_one_token:
        return reference.recurrent(q, k, v, feature_map, state)
    if resolved == "gpu":
        # Imports Triton.
        from sae_lens_ext.kernels.quadratic_attention import gpu

        return gpu.attend(q, k, v, feature_map, state, wants_state, form)
    if resolved == "cpu" and form != "dense":
        return chunked.attend(q, k, v, feature_map, state, wants_state, form)
    if form == "chunked":
        return reference.chunked(q, k, v, feature_map, state, wants_state)
    return reference.dense(q, k, v, feature_map, state, wants_state)


def _checked_feature_map(
    c: object,
    scale: object,
    eps: object,
    q: Tensor,
) -> FeatureMap:
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1])
    smallest = torch.finfo(reference.accumulator(q)).tiny
    return FeatureMap(
        c=checked_coefficients(c),
        scale=arguments.finite(scale, "scale", above=0.0),
        eps=arguments.finite(eps, "eps", at_least=smallest),
    )


def _check_state(
    state: object,
    v: Tensor,
    n_features: int,
    dtype: torch.dtype,
) -> None:
    if not isinstance(state, AttentionState):
        received = f"an object of type {type(state).__name__}"
    elif not all(isinstance(part, Tensor) for part in state):
        received = ", ".join(type(part).__name__ for part in state)
    else:
        check_attention_state(*state, v, n_features, dtype)
        return
    raise InvalidArgument(
        f"state must be an AttentionState of two tensors; got {received}; take it from "
        "the .state of quadratic_attention_with_state"
    )
