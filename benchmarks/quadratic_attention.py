"""Linear attention of ReBased at growing lengths, against causal softmax attention.

The heads of softmax attention are as wide as the values. Decoding is measured too.
"""

import importlib
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import peak_extra_bytes, refuse_mismatch, side_by_side, typical
from sae_lens_ext.kernels import (
    AttentionState,
    quadratic_attention,
    quadratic_attention_step,
    quadratic_attention_with_state,
)


class Sizes(NamedTuple):
    """Sizes of one head; ``tokens`` is batch times length for several sequences."""

    heads: int
    d: int
    d_v: int
    tokens: int
    dtype: torch.dtype
    tolerance: float


SIZES = {
    "cpu": Sizes(12, 16, 64, 1, torch.float32, 1e-4),
    "cuda": Sizes(12, 16, 64, 65536, torch.bfloat16, 2e-2),
}
LENGTHS = {"cpu": (4096, 16384, 65536), "cuda": (1024, 2048, 4096, 16384, 65536)}
SOFTMAX_UP_TO = {"cpu": 16384, "cuda": 65536}
CHECKED_AT = 1024
DECODED = (1000, 100_000)


def inputs(pos: int, sizes: Sizes, device: str) -> dict[str, Tensor]:
    """Inputs of linear and of softmax attention, and the gradient of the output."""
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
    made = {
        name: torch.randn(
            batch,
            sizes.heads,
            pos,
            width,
            generator=g,
            device=device,
            dtype=sizes.dtype,
        )
        for name, width in widths.items()
    }
    return {
        name: tensor.requires_grad_(name != "upstream") for name, tensor in made.items()
    }


def ours(t: dict[str, Tensor], **options: Any) -> Tensor:
    """Linear attention."""
    return quadratic_attention(t["q"], t["k"], t["v"], **options)


def softmax(t: dict[str, Tensor]) -> Tensor:
    """Softmax attention, by whatever torch finds fastest for it."""
    return F.scaled_dot_product_attention(
        t["wide_q"], t["wide_k"], t["v"], is_causal=True
    )


def of_fla(t: dict[str, Tensor]) -> Tensor:
    """The same attention in flash-linear-attention, quadratic in the length."""
    parallel = importlib.import_module("fla.ops.rebased").parallel_rebased
    return parallel(t["q"], t["k"], t["v"])


def forward(attend: Any, t: dict[str, Tensor]) -> Tensor:
    """Without gradients."""
    with torch.no_grad():
        return attend(t)


def step(attend: Any, names: tuple[str, ...], t: dict[str, Tensor]) -> list[Tensor]:
    """Result and gradients."""
    out = attend(t)
    return [out, *torch.autograd.grad(out, [t[name] for name in names], t["upstream"])]


def prepare_decoding(n: int, device: str):
    """Decode ten tokens to warm up, then the tokens to measure, from a state."""
    sizes = SIZES[device]
    t = {
        name: tensor.detach()[0, :, :64]
        for name, tensor in inputs(64, sizes, device).items()
    }

    def decode(n_tokens: int) -> AttentionState:
        with torch.no_grad():
            state = quadratic_attention_with_state(t["q"], t["k"], t["v"]).state
            for i in range(n_tokens):
                token = (t[name][:, i % 64] for name in ("q", "k", "v"))
                state = quadratic_attention_step(*token, state=state).state
        return state

    return lambda: decode(10), lambda: decode(n)


def run(device: str = "cpu") -> dict[str, Any]:
    """Print the tables; returns their numbers."""
    sizes, rows = SIZES[device], []
    dtype = str(sizes.dtype).removeprefix("torch.")
    shape = f"{sizes.heads} heads, {sizes.d} wide, values {sizes.d_v} wide, {dtype}"
    print(
        f"linear attention of ReBased ({shape}) and causal softmax attention "
        f"({sizes.d_v} wide)"
    )
    t = inputs(CHECKED_AT, sizes, device)
    linear, wide = ("q", "k", "v"), ("wide_q", "wide_k", "v")
    exact = {
        name: tensor.detach().double().requires_grad_() for name, tensor in t.items()
    }
    expected = step(lambda t: ours(t, form="dense", backend="reference"), linear, exact)
    for form in ("auto", "chunked"):
        refuse_mismatch(
            step(lambda t, form=form: ours(t, form=form), linear, t),
            expected,
            sizes.tolerance,
        )
    has_fla = device == "cuda" and find_spec("fla") is not None
    for pos in LENGTHS[device]:
        t = inputs(pos, sizes, device)
        forwards, steps = (
            {"forward": lambda t=t: forward(ours, t)},
            {"step": lambda t=t: step(ours, linear, t)},
        )
        if pos <= SOFTMAX_UP_TO[device]:
            forwards["softmax_forward"] = lambda t=t: forward(softmax, t)
            steps["softmax_step"] = lambda t=t: step(softmax, wide, t)
        if has_fla and pos <= SOFTMAX_UP_TO[device]:
            steps["fla_step"] = lambda t=t: step(of_fla, linear, t)
        row: dict[str, float] = {"pos": pos}
        for calls, rounds in ((forwards, 9), (steps, 3 if device == "cpu" else 9)):
            times = side_by_side(calls, rounds=rounds, device=device)
            row |= {f"{name}_s": typical(times, name) for name in calls}
            one_of_ours, *others = calls
            row |= {
                f"{other}_ratio": typical(
                    times, lambda t, o=other, own=one_of_ours: t[o] / t[own]
                )
                for other in others
            }
        print(
            ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True
        )
        rows.append(row)
    short, long = (
        inputs(pos, sizes, device) for pos in (LENGTHS[device][0], LENGTHS[device][-1])
    )
    times = side_by_side(
        {"short": lambda: forward(ours, short), "long": lambda: forward(ours, long)},
        rounds=7,
        device=device,
    )
    tokens = {
        name: inputs["q"].shape[0] * inputs["q"].shape[2]
        for name, inputs in (("short", short), ("long", long))
    }
    per_token = typical(
        times,
        lambda round_s: (
            (round_s["long"] / tokens["long"]) / (round_s["short"] / tokens["short"])
        ),
    )
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
