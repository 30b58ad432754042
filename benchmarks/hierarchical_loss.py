"""The hierarchical loss with all gradients.

Against the cumulative-sum definition and against plain TopK; on a GPU also against the
compiled definition, with the deterministic mode, and beside the speed of copying
memory.
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
from sae_lens_ext.kernels import hierarchical_loss, sparse_decode
from sae_lens_ext.kernels._backend import has_numba

SIZES = {
    "cpu": Sizes(1024, 640, 8192, torch.float32, 1e-4),
    "cuda": Sizes(8192, 2304, 65536, torch.bfloat16, 2e-2),
}
KS = (32, 64, 128)


def inputs(k: int, sizes: Sizes, device: str) -> dict[str, Tensor]:
    """A code like that of a trained SAE: distinct features, values that fall."""
    g = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": g, "device": device, "dtype": sizes.dtype}
    W_dec = torch.randn(sizes.d_sae, sizes.d_model, **options)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    target = torch.randn(sizes.n, sizes.d_model, **options)
    b_dec = torch.randn(sizes.d_model, **options)

    # In chunks, because [n, d_sae] is large.
    codes = [(chunk @ W_dec.T).topk(k) for chunk in target.split(1024)]
    values = torch.cat([code.values for code in codes]).relu()
    indices = torch.cat([code.indices for code in codes])
    return {
        "values": values.requires_grad_(),
        "W_dec": W_dec.requires_grad_(),
        "b_dec": b_dec.requires_grad_(),
        "target": target.requires_grad_(),
        "indices": indices,
    }


def gradients(loss: Tensor, tensors: dict[str, Tensor]) -> list[Tensor]:
    """The loss and every gradient."""
    leaves = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def step(tensors: dict[str, Tensor], backend: Any, **options: Any) -> list[Tensor]:
    """The hierarchical loss and its gradients."""
    loss = hierarchical_loss(**tensors, backend=backend, **options)
    return gradients(loss, tensors)


def topk_step(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The loss of a plain TopK SAE for the same features, and its gradients."""
    code = {name: tensors[name] for name in ("values", "indices", "W_dec", "b_dec")}
    error = sparse_decode(**code) - tensors["target"]
    return gradients(error.square().mean(), tensors)


def check(tensors: dict[str, Tensor], tolerance: float) -> None:
    """Check the fast version on the first tokens, for which the definition fits."""
    first = {}
    for name, tensor in tensors.items():
        part = tensor if name in ("W_dec", "b_dec") else tensor[:1024]
        first[name] = part.detach().requires_grad_(part.is_floating_point())

    expected = step(first, "reference")
    for deterministic in (False, True):
        results = step(first, None, deterministic=deterministic)
        refuse_mismatch(results, expected, tolerance)


def prepare_memory(k: int, backend: str | None, device: str):
    """A step on a small dictionary to warm up, and the one to measure."""
    sizes = SIZES[device]
    # As densely used as the large one, to take the same way.
    small = inputs(k, sizes._replace(n=128, d_sae=1024), device)
    large = inputs(k, sizes, device)
    return partial(step, small, backend), partial(step, large, backend)


def run(device: str = "cpu") -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes = SIZES[device]
    head = f"hierarchical loss, forward and all gradients: {sizes.described()}"
    if device == "cpu":
        head += f", compiled={has_numba()}"
    print(head)
    return [measure_at(k, sizes, device) for k in KS]


def measure_at(k: int, sizes: Sizes, device: str) -> dict[str, float]:
    """Print one line of the table; returns its numbers."""
    tensors = inputs(k, sizes, device)
    check(tensors, sizes.tolerance)

    calls = {
        "ours": partial(step, tensors, None),
        "topk": partial(topk_step, tensors),
        "cumsum": partial(step, tensors, "reference"),
    }
    if device == "cuda":
        calls |= _gpu_calls(tensors)
    n_rounds = 5 if device == "cpu" else 20
    times = side_by_side(calls, rounds=n_rounds, device=device)

    row: dict[str, float] = {"k": k}
    row |= {f"{name}_s": typical(times, name) for name in calls}
    row["ratio"] = ratio(times, "cumsum", "ours")
    row["ours_over_topk"] = ratio(times, "ours", "topk")
    for name, backend in (("cumsum", "reference"), ("ours", None)):
        row[f"{name}_bytes"] = peak_extra_bytes(
            prepare_memory, k, backend, device, device=device
        )
    print(
        f"K={k}: cumsum {milliseconds(row['cumsum_s'])} "
        f"and {megabytes(row['cumsum_bytes'])}, "
        f"ours {milliseconds(row['ours_s'], 2)} and {megabytes(row['ours_bytes'])}: "
        f"{row['ratio']:.1f}x; {row['ours_over_topk']:.2f} of TopK"
    )

    if device == "cuda":
        row["over_compiled"] = ratio(times, "compiled_cumsum", "ours")
        row["deterministic_over_ours"] = ratio(times, "deterministic", "ours")
        # Every chosen row read once, and a gradient row in float32 read and written for
        # it.
        bytes_per_element = tensors["W_dec"].element_size() + 8
        n_bytes = k * sizes.n * sizes.d_model * bytes_per_element
        row["gather_bytes_per_s"] = n_bytes / row["ours_s"]
        row["copy_bytes_per_s"] = copy_bandwidth()
        share = row["gather_bytes_per_s"] / row["copy_bytes_per_s"]
        print(
            f"     compiled cumsum {milliseconds(row['compiled_cumsum_s'])}: "
            f"{row['over_compiled']:.1f}x; deterministic "
            f"{row['deterministic_over_ours']:.2f} of that; "
            f"traffic {share:.2f} of copying"
        )
    return row


def _gpu_calls(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The calls that only a GPU is measured with."""
    compiled = torch.compile(hierarchical_loss, fullgraph=True)

    def compiled_cumsum() -> list[Tensor]:
        return gradients(compiled(**tensors, backend="reference"), tensors)

    return {
        "compiled_cumsum": compiled_cumsum,
        "deterministic": partial(step, tensors, None, deterministic=True),
    }


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying a gigabyte on the GPU."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    times = side_by_side(
        {"copy": lambda: target.copy_(source)}, rounds=20, device="cuda"
    )
    return 2 * source.numel() * 4 / typical(times, "copy")
