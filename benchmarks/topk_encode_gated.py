"""The encoder with a threshold per feature, cut at k and uncapped, beside plain TopK.

Thresholds are set so that as many features are active per token as in published
JumpReLU SAEs.
"""

from functools import partial
from typing import Any, NamedTuple

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
    "cpu": Sizes(2048, 640, 65536, torch.float32, 1e-4),
    "cuda": Sizes(8192, 2304, 65536, torch.bfloat16, 2e-2),
}
K = 32
ACTIVE = (80, 500)
# Tokens that are compared with the definition, which keeps all pre-activations.
_CHECKED = 128


class Encoder(NamedTuple):
    """Tokens, an encoder that is stored feature by feature, and thresholds."""

    x: Tensor
    W_enc: Tensor
    b_enc: Tensor
    threshold: Tensor


def inputs(n_active: int, sizes: Sizes, device: str) -> Encoder:
    """An encoder with about ``n_active`` active features per token."""
    g = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": g, "device": device, "dtype": sizes.dtype}
    x = torch.randn(sizes.n, sizes.d_model, **options)
    rows = torch.randn(sizes.d_sae, sizes.d_model, **options) / sizes.d_model**0.5
    b_enc = torch.zeros(sizes.d_sae, device=device, dtype=sizes.dtype)

    # Pre-activations are almost normal.
    share = torch.tensor(1 - n_active / sizes.d_sae, dtype=torch.float64)
    quantile = torch.special.ndtri(share).item()
    spread = torch.rand(sizes.d_sae, **options) / 10 + 0.95
    return Encoder(x, rows.T, b_enc, quantile * spread)


@torch.no_grad()
def encode(
    encoder: Encoder, k: int | None, *, gated: bool, backend: Any = None
) -> tuple[Tensor, Tensor]:
    """Values and indices, with the threshold or without."""
    x, W_enc, b_enc, threshold = encoder
    return topk_encode(
        x, W_enc, b_enc, k, backend, threshold=threshold if gated else None
    )


def prepare_memory(n_active: int, k: int | None, gated: bool, device: str):
    """A small call to warm up, and the one to measure."""
    large = inputs(n_active, SIZES[device], device)
    small = large._replace(x=large.x[:64])
    return (
        partial(encode, small, k, gated=gated),
        partial(encode, large, k, gated=gated),
    )


def run(device: str = "cpu") -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes = SIZES[device]
    print(f"encoder with thresholds, forward, k={K}: {sizes.described()}")
    return [measure_at(n_active, sizes, device) for n_active in ACTIVE]


def measure_at(n_active: int, sizes: Sizes, device: str) -> dict[str, float]:
    """Print the lines of one activity; returns its numbers."""
    encoder = inputs(n_active, sizes, device)
    checked = encoder._replace(x=encoder.x[:_CHECKED])
    for k in (K, None):
        fast, _ = encode(checked, k, gated=True)
        plain, _ = encode(checked, k, gated=True, backend="reference")
        refuse_mismatch([fast], [plain], sizes.tolerance)

    calls = {
        "topk": partial(encode, encoder, K, gated=False),
        "gated": partial(encode, encoder, K, gated=True),
        "uncapped": partial(encode, encoder, None, gated=True),
    }
    times = side_by_side(calls, rounds=7, device=device)
    values, _ = calls["uncapped"]()
    row: dict[str, float] = {
        "active": (values > 0).sum(1).float().mean().item(),
        "width": values.shape[1],
    }
    for name, (k, gated) in {
        "topk": (K, False),
        "gated": (K, True),
        "uncapped": (None, True),
    }.items():
        row[f"{name}_s"] = typical(times, name)
        row[f"{name}_speed"] = ratio(times, "topk", name)
        row[f"{name}_bytes"] = peak_extra_bytes(
            prepare_memory, n_active, k, gated, device, device=device
        )

    print(f"{row['active']:.0f} active per token, {row['width']} at most")
    for name in calls:
        print(
            f"{name:>10}: {milliseconds(row[f'{name}_s'], 0)}, "
            f"{row[f'{name}_speed']:.3f} of the speed of topk, "
            f"{megabytes(row[f'{name}_bytes'])}"
        )
    return row
