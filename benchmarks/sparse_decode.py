"""The sparse decoder, forward and backward, against the usual dense product."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.hierarchical_loss import Sizes
from benchmarks.measure import peak_extra_bytes, refuse_mismatch, side_by_side, typical
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
    indices = torch.stack(
        [
            torch.randperm(sizes.d_sae, generator=g, device=device)[:k]
            for _ in range(sizes.n)
        ]
    )
    values = torch.rand(sizes.n, k, **options)
    return {
        "values": values.requires_grad_(),
        "indices": indices,
        "dense": torch.zeros(sizes.n, sizes.d_sae, device=device, dtype=sizes.dtype)
        .scatter(1, indices, values.detach())
        .requires_grad_(),
        "W_dec": torch.randn(sizes.d_sae, sizes.d_model, **options).requires_grad_(),
        "b_dec": torch.randn(sizes.d_model, **options).requires_grad_(),
        "upstream": torch.randn(sizes.n, sizes.d_model, **options),
    }


def ours(t: dict[str, Tensor]) -> list[Tensor]:
    """Reconstruction and gradients."""
    out = sparse_decode(t["values"], t["indices"], t["W_dec"], t["b_dec"])
    return [
        out,
        *torch.autograd.grad(out, (t["values"], t["W_dec"], t["b_dec"]), t["upstream"]),
    ]


def dense(t: dict[str, Tensor]) -> list[Tensor]:
    """The same, by a product with a matrix that is nearly all zeros."""
    out = torch.addmm(t["b_dec"], t["dense"], t["W_dec"])
    grad_dense, *rest = torch.autograd.grad(
        out, (t["dense"], t["W_dec"], t["b_dec"]), t["upstream"]
    )
    return [out, grad_dense.gather(1, t["indices"]), *rest]


def prepare_memory(k: int, kind: str, device: str):
    """A small step to warm up, and the one to measure."""
    sizes, call = SIZES[device], {"ours": ours, "dense": dense}[kind]
    small, large = (
        inputs(k, sizes._replace(n=8, d_sae=2 * k), device),
        inputs(k, sizes, device),
    )
    return lambda: call(small), lambda: call(large)


def run(device: str = "cpu") -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes, rows = SIZES[device], []
    dtype = str(sizes.dtype).removeprefix("torch.")
    of = f"N={sizes.n}, d_model={sizes.d_model}, d_sae={sizes.d_sae}, {dtype}"
    print(f"sparse decode, forward and all gradients: {of}")
    for k in KS:
        t = inputs(k, sizes, device)
        refuse_mismatch(ours(t), dense(t), sizes.tolerance)
        times = side_by_side(
            {"ours": lambda t=t: ours(t), "dense": lambda t=t: dense(t)},
            rounds=9,
            device=device,
        )
        row: dict[str, float] = {
            "k": k,
            "ours_s": typical(times, "ours"),
            "dense_s": typical(times, "dense"),
        }
        row["ratio"] = typical(
            times, lambda round_s: round_s["dense"] / round_s["ours"]
        )
        for kind in ("ours", "dense"):
            row[f"{kind}_bytes"] = peak_extra_bytes(
                prepare_memory, k, kind, device, device=device
            )
        print(
            f"k={k}: dense {1e3 * row['dense_s']:.1f} ms and "
            f"{row['dense_bytes'] / 1e6:.0f} MB, ours {1e3 * row['ours_s']:.2f} ms "
            f"and {row['ours_bytes'] / 1e6:.0f} MB: {row['ratio']:.1f}x"
        )
        rows.append(row)
    return rows
