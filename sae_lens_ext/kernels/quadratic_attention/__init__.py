"""Linear attention with a quadratic kernel: Based, ReBased and all between them."""

import math
from typing import Literal, NamedTuple, get_args

from jaxtyping import Float
from torch import Tensor

from sae_lens_ext._types import Backend
from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.kernels._backend import resolve
from sae_lens_ext.kernels._checks import check_attention, check_attention_state
from sae_lens_ext.kernels.quadratic_attention import cpu, reference
from sae_lens_ext.kernels.quadratic_attention.features import Coefficients, feature_map, feature_pairs, n_features
from sae_lens_ext.kernels.quadratic_attention.reference import AttentionState, Kernel

__all__ = [
    "AttentionState",
    "Form",
    "feature_map",
    "feature_pairs",
    "n_features",
    "quadratic_attention",
    "quadratic_attention_step",
    "quadratic_attention_with_state",
]

Form = Literal["auto", "dense", "chunked", "recurrent"]
"""How it is computed; all give the same numbers."""
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

    Sums and the division are in float32 or wider; a token that weighs nothing at all, itself included, gets 0. Differentiable in q, k, v
    and the state.

    Args:
        q: queries.
        k: keys.
        v: values.
        c: c0, c1 and c2, none below 0: (1, 1, 1/2) is Based, (0, 0, 1) ReBased (whose q and k have been normalised).
        scale: of the scores; None means 1 / sqrt(d).
        form: "dense" is quadratic in pos; "chunked" is linear, in memory that does not grow with pos beyond that of its inputs;
            "recurrent" goes token by token, which is slow, and is for comparison; "auto" picks what is fastest.
        backend: "reference", "cpu" or "gpu"; None picks by device. "dense" is the definition on a CPU, and on a GPU holds no scores
            either; "recurrent" is always the definition.
        eps: added to the sum of the weights before it divides.
        state: of tokens before these.

    Raises:
        InvalidArgument: numbers that define no such attention; an unknown form or backend; what should be tensors of one floating
            dtype on one device is not; or ``torch.vmap``.
        ShapeMismatch: the tensors do not fit together.
        BackendError: the backend that was asked for cannot run here.

    Source: Arora et al. 2024 (arXiv 2402.18668); Aksenov et al. 2024 (arXiv 2402.10644).
    """
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
    """``quadratic_attention`` and the state after its last token; going on from there gives what one call on all tokens gives."""
    out, after = _attend(q, k, v, c, scale, form, backend, eps, state, wants_state=True)
    assert after is not None
    return Attended(out, after)


def quadratic_attention_step(
    q: Float[Tensor, "*batch d"],
    k: Float[Tensor, "*batch d"],
    v: Float[Tensor, "*batch d_v"],
    state: AttentionState | None,
    c: Coefficients = (0.0, 0.0, 1.0),
    scale: float | None = None,
    *,
    eps: float = 1e-12,
) -> Attended:
    """One token: added to the state (None before the first) and read from it. The cost does not depend on how many came before."""
    tensors = q.unsqueeze(-2), k.unsqueeze(-2), v.unsqueeze(-2)
    out, after = quadratic_attention_with_state(*tensors, c, scale, form="recurrent", eps=eps, state=state)
    return Attended(out.squeeze(-2), after)


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
    check_attention(q, k, v)
    kernel = _kernel(c, scale, eps, q.shape[-1])
    if state is not None:
        check_attention_state(*state, v, n_features(q.shape[-1], kernel.c), reference.accumulator(q))
    chosen = resolve(backend, q, k, v, *(state or ()))
    if form == "recurrent":
        return reference.recurrent(q, k, v, kernel, state)
    if chosen == "gpu":
        from sae_lens_ext.kernels.quadratic_attention import gpu  # loads Triton, so only when needed

        return gpu.attend(q, k, v, kernel, state, wants_state, form)
    if chosen == "cpu" and form != "dense":
        return cpu.chunked(q, k, v, kernel, state, wants_state)
    return (reference.chunked if form == "chunked" else reference.dense)(q, k, v, kernel, state)


def _kernel(c: Coefficients, scale: float | None, eps: float, d: int) -> Kernel:
    numbers = isinstance(c, tuple | list) and len(c) == 3 and all(isinstance(one, int | float) for one in c)
    if not numbers or not all(math.isfinite(one) and one >= 0 for one in c) or not any(c):
        raise InvalidArgument(f"c must be three numbers c0, c1, c2, none below 0 and not all 0; got {c!r}")
    scale = 1 / math.sqrt(d) if scale is None else scale
    if not (math.isfinite(scale) and scale > 0):
        raise InvalidArgument(f"scale must be a number above 0; got {scale!r}")
    if not (math.isfinite(eps) and eps > 0):
        raise InvalidArgument(f"eps must be a number above 0; got {eps!r}")
    c0, c1, c2 = map(float, c)
    return Kernel((c0, c1, c2), float(scale), float(eps))
