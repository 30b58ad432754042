"""Linear attention of ReBased at growing lengths, and decoding.

Against causal softmax attention with heads as wide as its values.
"""

import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import (
    peak_extra_bytes,
    ratio,
    refuse_mismatch,
    side_by_side,
    typical,
)
from benchmarks.sizes import dtype_name
from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_step,
    quadratic_attention_with_state,
)


class Sizes(NamedTuple):
    """Of one head, and of the tokens of a pass."""

    heads: int
    d: int
    """Width of queries and keys."""
    d_v: int
    """Width of values."""
    tokens: int
    """Batch times length, where the batch has more than one sequence."""
    dtype: torch.dtype
    tolerance: float
    """Of the comparison with the definition."""


SIZES = {
    "cpu": Sizes(12, 16, 64, 1, torch.float32, 1e-4),
    "cuda": Sizes(12, 16, 64, 65536, torch.bfloat16, 2e-2),
}
LENGTHS = {"cpu": (4096, 16384, 65536), "cuda": (1024, 2048, 4096, 16384, 65536)}
SOFTMAX_UP_TO = {"cpu": 16384, "cuda": 65536}
CHECKED_AT = 1024
DECODED = (1000, 100_000)
# The inputs that have gradients.
LINEAR = ("q", "k", "v")
SOFTMAX = ("wide_q", "wide_k", "v")

Attend = Callable[[dict[str, Tensor]], Tensor]


def inputs(pos: int, sizes: Sizes, device: str) -> dict[str, Tensor]:
    """Inputs of linear and of softmax attention, and the upstream gradient."""
    g = torch.Generator(device).manual_seed(0)
    batch = max(1, sizes.tokens // pos)
    widths = {
        "q": sizes.d,
        "k": sizes.d,
        "v": sizes.d_v,
        "wide_q": sizes.d_v,
        "wide_k": sizes.d_v,
        "upstream": sizes.d_v,
    }
    options: dict[str, Any] = {"generator": g, "device": device, "dtype": sizes.dtype}
    tensors = {
        name: torch.randn(batch, sizes.heads, pos, width, **options)
        for name, width in widths.items()
    }
    for name in (*LINEAR, *SOFTMAX):
        tensors[name].requires_grad_()
    return tensors


def ours(t: dict[str, Tensor], **options: Any) -> Tensor:
    """Linear attention."""
    return quadratic_attention(t["q"], t["k"], t["v"], **options)


def softmax(t: dict[str, Tensor]) -> Tensor:
    """Softmax attention, by the implementation that torch finds fastest."""
    return F.scaled_dot_product_attention(
        t["wide_q"], t["wide_k"], t["v"], is_causal=True
    )


def of_fla(t: dict[str, Tensor]) -> Tensor:
    """The same linear attention in flash-linear-attention, where it is installed.

    Its program is quadratic in the length.
    """
    parallel = importlib.import_module("fla.ops.rebased").parallel_rebased
    return parallel(t["q"], t["k"], t["v"])


def forward(attend: Attend, t: dict[str, Tensor]) -> Tensor:
    """The result, without gradients."""
    with torch.no_grad():
        return attend(t)


def step(attend: Attend, names: tuple[str, ...], t: dict[str, Tensor]) -> list[Tensor]:
    """Result and gradients."""
    out = attend(t)
    leaves = [t[name] for name in names]
    return [out, *torch.autograd.grad(out, leaves, t["upstream"])]


def prepare_decoding(n: int, device: str):
    """Decode ten tokens to warm up, and n to measure, one by one from a state."""
    tensors = inputs(64, SIZES[device], device)
    q, k, v = (tensors[name].detach()[0, :, :64] for name in LINEAR)

    def decode(n_tokens: int) -> AttentionState:
        with torch.no_grad():
            state = quadratic_attention_with_state(q, k, v).state
            for i in range(n_tokens):
                token = (part[:, i % 64] for part in (q, k, v))
                state = quadratic_attention_step(*token, state=state).state
        return state

    return partial(decode, 10), partial(decode, n)


def run(device: str = "cpu") -> dict[str, Any]:
    """Print the tables; returns their numbers."""
    sizes = SIZES[device]
    print(
        f"linear attention of ReBased ({sizes.heads} heads, {sizes.d} wide, "
        f"values {sizes.d_v} wide, {dtype_name(sizes.dtype)}) "
        f"and causal softmax attention ({sizes.d_v} wide)"
    )
    _check(sizes, device)

    rows = [measure_at(pos, sizes, device) for pos in LENGTHS[device]]
    per_token = _time_per_token(sizes, device)
    decoding = {
        str(n): peak_extra_bytes(prepare_decoding, n, device, device=device)
        for n in DECODED
    }
    print(
        f"time per token, longest over shortest: {per_token:.2f}; "
        f"extra memory of decoding: {decoding}"
    )
    return {
        "lengths": rows,
        "per_token_longest_over_shortest": per_token,
        "decoding_bytes": decoding,
    }


def _check(sizes: Sizes, device: str) -> None:
    """Check that the fast forms agree with the definition in float64."""
    t = inputs(CHECKED_AT, sizes, device)
    exact = {
        name: tensor.detach().double().requires_grad_() for name, tensor in t.items()
    }
    definition = partial(ours, form="dense", backend="reference")
    expected = step(definition, LINEAR, exact)
    for form in ("auto", "chunked"):
        results = step(partial(ours, form=form), LINEAR, t)
        refuse_mismatch(results, expected, sizes.tolerance)


def measure_at(pos: int, sizes: Sizes, device: str) -> dict[str, float]:
    """Print one line of the table; returns its numbers."""
    t = inputs(pos, sizes, device)
    forwards: dict[str, Any] = {"forward": partial(forward, ours, t)}
    steps: dict[str, Any] = {"step": partial(step, ours, LINEAR, t)}

    if pos <= SOFTMAX_UP_TO[device]:
        forwards["softmax_forward"] = partial(forward, softmax, t)
        steps["softmax_step"] = partial(step, softmax, SOFTMAX, t)
        if device == "cuda" and find_spec("fla") is not None:
            steps["fla_step"] = partial(step, of_fla, LINEAR, t)

    row: dict[str, float] = {"pos": pos}
    n_rounds = 3 if device == "cpu" else 9
    row |= _timed(forwards, "forward", 9, device)
    row |= _timed(steps, "step", n_rounds, device)
    print(", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def _timed(
    calls: dict[str, Any], our_name: str, n_rounds: int, device: str
) -> dict[str, float]:
    """The times of calls, and how many times as long as ours the others take."""
    times = side_by_side(calls, rounds=n_rounds, device=device)
    numbers = {f"{name}_s": typical(times, name) for name in calls}
    for name in calls:
        if name != our_name:
            numbers[f"{name}_ratio"] = ratio(times, name, our_name)
    return numbers


def _time_per_token(sizes: Sizes, device: str) -> float:
    """How many times as long a token takes in the longest pass as in the shortest."""
    lengths = LENGTHS[device]
    short = inputs(lengths[0], sizes, device)
    long = inputs(lengths[-1], sizes, device)
    calls = {
        "short": partial(forward, ours, short),
        "long": partial(forward, ours, long),
    }
    times = side_by_side(calls, rounds=7, device=device)

    def n_tokens(t: dict[str, Tensor]) -> int:
        return t["q"].shape[0] * t["q"].shape[2]

    n_short = n_tokens(short)
    n_long = n_tokens(long)
    return typical(times, lambda row: (row["long"] / n_long) / (row["short"] / n_short))
