"""The sparse decoder, forward and backward.

Against the dense product that most SAEs are trained with.
"""

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
from sae_lens_ext.kernels import sparse_decode

SIZES = {
    "cpu": Sizes(1024, 640, 16384, torch.float32, 1e-4),
    "cuda": Sizes(8192, 2304, 65536, torch.bfloat16, 2e-2),
}
KS = (32, 64)


def inputs(k: int, sizes: Sizes, device: str) -> dict[str, Tensor]:
    """A code of distinct features, its dense form, a dictionary, and a gradient."""
    g = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": g, "device": device, "dtype": sizes.dtype}
    permutations = [
        torch.randperm(sizes.d_sae, generator=g, device=device)[:k]
        for _ in range(sizes.n)
    ]
    indices = torch.stack(permutations)
    values = torch.rand(sizes.n, k, **options)
    dense_code = torch.zeros(sizes.n, sizes.d_sae, device=device, dtype=sizes.dtype)
    dense_code.scatter_(1, indices, values)
    return {
        "values": values.requires_grad_(),
        "indices": indices,
        "dense": dense_code.requires_grad_(),
        "W_dec": torch.randn(sizes.d_sae, sizes.d_model, **options).requires_grad_(),
        "b_dec": torch.randn(sizes.d_model, **options).requires_grad_(),
        "upstream": torch.randn(sizes.n, sizes.d_model, **options),
    }


def ours(t: dict[str, Tensor]) -> list[Tensor]:
    """Reconstruction and gradients."""
    out = sparse_decode(t["values"], t["indices"], t["W_dec"], t["b_dec"])
    leaves = (t["values"], t["W_dec"], t["b_dec"])
    return [out, *torch.autograd.grad(out, leaves, t["upstream"])]


def dense(t: dict[str, Tensor]) -> list[Tensor]:
    """The same, by a product with a matrix that is nearly all zeros."""
    out = torch.addmm(t["b_dec"], t["dense"], t["W_dec"])
    leaves = (t["dense"], t["W_dec"], t["b_dec"])
    grad_dense, *others = torch.autograd.grad(out, leaves, t["upstream"])
    return [out, grad_dense.gather(1, t["indices"]), *others]


def prepare_memory(k: int, name: str, device: str):
    """A small step to warm up, and the one to measure."""
    call = {"ours": ours, "dense": dense}[name]
    sizes = SIZES[device]
    small = inputs(k, sizes._replace(n=8, d_sae=2 * k), device)
    large = inputs(k, sizes, device)
    return partial(call, small), partial(call, large)


def run(device: str = "cpu") -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes = SIZES[device]
    print(f"sparse decode, forward and all gradients: {sizes.described()}")
    return [measure_at(k, sizes, device) for k in KS]


def measure_at(k: int, sizes: Sizes, device: str) -> dict[str, float]:
    """Print one line of the table; returns its numbers."""
    t = inputs(k, sizes, device)
    refuse_mismatch(ours(t), dense(t), sizes.tolerance)

    calls = {"ours": partial(ours, t), "dense": partial(dense, t)}
    times = side_by_side(calls, rounds=9, device=device)
    row: dict[str, float] = {"k": k}
    row |= {f"{name}_s": typical(times, name) for name in calls}
    row["ratio"] = ratio(times, "dense", "ours")
    for name in calls:
        row[f"{name}_bytes"] = peak_extra_bytes(
            prepare_memory, k, name, device, device=device
        )
    print(
        f"k={k}: dense {milliseconds(row['dense_s'])} "
        f"and {megabytes(row['dense_bytes'])}, "
        f"ours {milliseconds(row['ours_s'], 2)} and {megabytes(row['ours_bytes'])}: "
        f"{row['ratio']:.1f}x"
    )
    return row
