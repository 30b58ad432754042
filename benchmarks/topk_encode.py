"""The TopK encoder, forward and backward, against its plain definition."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.hierarchical_loss import Sizes
from benchmarks.measure import peak_extra_bytes, refuse_mismatch, side_by_side, typical
from sae_lens_ext.kernels import topk_encode

SIZES = {
    "cpu": Sizes(2048, 640, 8192, torch.float32, 1e-4),
    "cuda": Sizes(8192, 2304, 65536, torch.bfloat16, 2e-2),
}
KS = (32, 64)


def inputs(sizes: Sizes, device: str) -> dict[str, Tensor]:
    """Tokens, and an encoder stored feature by feature, as an SAE's is."""
    g = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": g, "device": device, "dtype": sizes.dtype}
    made = {
        "x": torch.randn(sizes.n, sizes.d_model, **options),
        "W_enc": (
            torch.randn(sizes.d_sae, sizes.d_model, **options) / sizes.d_model**0.5
        ).T,
        "b_enc": torch.zeros(sizes.d_sae, device=device, dtype=sizes.dtype),
    }
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def step(t: dict[str, Tensor], k: int, backend: Any) -> list[Tensor]:
    """Values and gradients."""
    values, _ = topk_encode(**t, k=k, backend=backend)
    return [values, *torch.autograd.grad(values.square().sum(), list(t.values()))]


def prepare_memory(k: int, backend: str | None, device: str):
    """A small step to warm up, and the one to measure."""
    # Large enough to take the same way.
    small, large = (
        inputs(SIZES[device]._replace(n=64), device),
        inputs(SIZES[device], device),
    )
    return lambda: step(small, k, backend), lambda: step(large, k, backend)


def run(device: str = "cpu") -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes, rows = SIZES[device], []
    dtype = str(sizes.dtype).removeprefix("torch.")
    of = f"N={sizes.n}, d_model={sizes.d_model}, d_sae={sizes.d_sae}, {dtype}"
    print(f"topk encode, forward and all gradients: {of}")
    t = inputs(sizes, device)
    for k in KS:
        refuse_mismatch(step(t, k, None), step(t, k, "reference"), sizes.tolerance)
        calls = {
            "ours": lambda k=k: step(t, k, None),
            "plain": lambda k=k: step(t, k, "reference"),
            "product": lambda: torch.addmm(
                t["b_enc"].detach(), t["x"].detach(), t["W_enc"].detach()
            ),
        }
        times = side_by_side(calls, rounds=9, device=device)
        row: dict[str, float] = {
            "k": k,
            **{f"{name}_s": typical(times, name) for name in calls},
        }
        row["ratio"] = typical(
            times, lambda round_s: round_s["plain"] / round_s["ours"]
        )
        row["over_product"] = typical(
            times, lambda round_s: round_s["ours"] / round_s["product"]
        )
        for name, backend in (("ours", None), ("plain", "reference")):
            row[f"{name}_bytes"] = peak_extra_bytes(
                prepare_memory, k, backend, device, device=device
            )
        print(
            f"k={k}: plain {1e3 * row['plain_s']:.1f} ms and "
            f"{row['plain_bytes'] / 1e6:.0f} MB, ours {1e3 * row['ours_s']:.2f} ms "
            f"and {row['ours_bytes'] / 1e6:.0f} MB: {row['ratio']:.1f}x; "
            f"{row['over_product']:.2f} of the product alone"
        )
        rows.append(row)
    return rows
