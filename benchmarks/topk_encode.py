"""The TopK encoder, forward and backward, against ``torch.topk`` and autograd."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import (
    megabytes,
    milliseconds,
    peak_extra_bytes,
    ratio,
    refuse_mismatch,
    side_by_side,
    typical,
)
from benchmarks.sizes import Sizes
from sae_lens_ext.kernels import topk_encode

SIZES = {
    "cpu": Sizes(2048, 640, 8192, torch.float32, 1e-4),
    "cuda": Sizes(8192, 2304, 65536, torch.bfloat16, 2e-2),
}
KS = (32, 64)


def inputs(sizes: Sizes, device: str) -> dict[str, Tensor]:
    """Tokens, and an encoder that is stored feature by feature, as an SAE's is."""
    g = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": g, "device": device, "dtype": sizes.dtype}
    x = torch.randn(sizes.n, sizes.d_model, **options)
    rows = torch.randn(sizes.d_sae, sizes.d_model, **options) / sizes.d_model**0.5
    b_enc = torch.zeros(sizes.d_sae, device=device, dtype=sizes.dtype)
    return {
        "x": x.requires_grad_(),
        "W_enc": rows.T.requires_grad_(),
        "b_enc": b_enc.requires_grad_(),
    }


def step(t: dict[str, Tensor], k: int, backend: Any) -> list[Tensor]:
    """Values and gradients."""
    values, _ = topk_encode(**t, k=k, backend=backend)
    return [values, *torch.autograd.grad(values.square().sum(), list(t.values()))]


def plain_step(t: dict[str, Tensor], k: int) -> list[Tensor]:
    """Values and gradients as one would write them without this package.

    The definition sorts every row, which would be an easy mark.
    """
    pre_activations = torch.addmm(t["b_enc"], t["x"], t["W_enc"])
    values = pre_activations.topk(k, dim=-1).values.relu()
    return [values, *torch.autograd.grad(values.square().sum(), list(t.values()))]


def product(t: dict[str, Tensor]) -> Tensor:
    """The encoder's product alone."""
    return torch.addmm(t["b_enc"].detach(), t["x"].detach(), t["W_enc"].detach())


def prepare_memory(k: int, name: str, device: str):
    """A small step to warm up, and the one to measure."""
    # Large enough to take the same way.
    small = inputs(SIZES[device]._replace(n=64), device)
    large = inputs(SIZES[device], device)
    if name == "plain":
        return partial(plain_step, small, k), partial(plain_step, large, k)
    return partial(step, small, k, None), partial(step, large, k, None)


def run(device: str = "cpu") -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes = SIZES[device]
    print(f"topk encode, forward and all gradients: {sizes.described()}")
    t = inputs(sizes, device)
    return [measure_at(k, t, sizes, device) for k in KS]


def measure_at(
    k: int, t: dict[str, Tensor], sizes: Sizes, device: str
) -> dict[str, float]:
    """Print one line of the table; returns its numbers."""
    refuse_mismatch(step(t, k, None), step(t, k, "reference"), sizes.tolerance)

    calls = {
        "ours": partial(step, t, k, None),
        "plain": partial(plain_step, t, k),
        "product": partial(product, t),
    }
    times = side_by_side(calls, rounds=9, device=device)
    row: dict[str, float] = {"k": k}
    row |= {f"{name}_s": typical(times, name) for name in calls}
    row["ratio"] = ratio(times, "plain", "ours")
    row["over_product"] = ratio(times, "ours", "product")
    for name in ("ours", "plain"):
        row[f"{name}_bytes"] = peak_extra_bytes(
            prepare_memory, k, name, device, device=device
        )
    print(
        f"k={k}: plain {milliseconds(row['plain_s'])} "
        f"and {megabytes(row['plain_bytes'])}, "
        f"ours {milliseconds(row['ours_s'], 2)} and {megabytes(row['ours_bytes'])}: "
        f"{row['ratio']:.1f}x; {row['over_product']:.2f} of the product alone"
    )
    return row
