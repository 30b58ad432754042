"""The hierarchical loss with all gradients, against its definition and plain TopK.

On a GPU also against the compiled definition, with the deterministic mode, and beside
the speed at which memory can be copied.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import peak_extra_bytes, refuse_mismatch, side_by_side, typical
from sae_lens_ext.kernels import hierarchical_loss, sparse_decode
from sae_lens_ext.kernels._backend import has_numba


class Sizes(NamedTuple):
    """Of a batch and a dictionary."""

    n: int
    d_model: int
    d_sae: int
    dtype: torch.dtype
    tolerance: float
    """Of the comparison with the definition."""


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
    largest = [(part @ W_dec.T).topk(k) for part in target.split(1024)]
    values, indices = (torch.cat(parts) for parts in zip(*largest, strict=True))
    tensors = {
        "values": values.relu(),
        "W_dec": W_dec,
        "b_dec": torch.randn(sizes.d_model, **options),
        "target": target,
    }
    return {
        **{name: tensor.requires_grad_() for name, tensor in tensors.items()},
        "indices": indices,
    }


def gradients(loss: Tensor, arguments: dict[str, Tensor]) -> list[Tensor]:
    """The loss and every gradient."""
    leaves = [tensor for tensor in arguments.values() if tensor.is_floating_point()]
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def step(arguments: dict[str, Tensor], backend: Any, **options: Any) -> list[Tensor]:
    """Of the hierarchical loss."""
    return gradients(
        hierarchical_loss(**arguments, backend=backend, **options), arguments
    )


def topk_step(arguments: dict[str, Tensor]) -> list[Tensor]:
    """What a plain TopK SAE pays for the same features."""
    code = {name: arguments[name] for name in ("values", "indices", "W_dec", "b_dec")}
    return gradients(
        (sparse_decode(**code) - arguments["target"]).square().mean(), arguments
    )


def check(arguments: dict[str, Tensor], tolerance: float) -> None:
    """Compare with the definition, on the first tokens, where the definition fits."""
    few = {
        name: tensor if name in ("W_dec", "b_dec") else tensor[:1024]
        for name, tensor in arguments.items()
    }
    few = {
        name: tensor.detach().requires_grad_(tensor.is_floating_point())
        for name, tensor in few.items()
    }
    expected = step(few, "reference")
    for deterministic in (False, True):
        refuse_mismatch(
            step(few, None, deterministic=deterministic), expected, tolerance
        )


def prepare_memory(k: int, backend: str | None, device: str):
    """A step on a small dictionary to warm up, and the one to measure."""
    sizes = SIZES[device]
    # As dense as the large one, to take the same way.
    small, large = (
        inputs(k, sizes._replace(n=128, d_sae=1024), device),
        inputs(k, sizes, device),
    )
    return lambda: step(small, backend), lambda: step(large, backend)


def run(device: str = "cpu") -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes = SIZES[device]
    dtype = str(sizes.dtype).removeprefix("torch.")
    of = f"N={sizes.n}, d_model={sizes.d_model}, d_sae={sizes.d_sae}, {dtype}"
    print(
        f"hierarchical loss, forward and all gradients: {of}"
        + (f", compiled={has_numba()}" if device == "cpu" else "")
    )
    return [measure_at(k, sizes, device) for k in KS]


def measure_at(k: int, sizes: Sizes, device: str) -> dict[str, float]:
    """One line of the table."""
    arguments = inputs(k, sizes, device)
    check(arguments, sizes.tolerance)
    calls = {
        "ours": lambda: step(arguments, None),
        "topk": lambda: topk_step(arguments),
        "cumsum": lambda: step(arguments, "reference"),
    }
    if device == "cuda":
        compiled = torch.compile(hierarchical_loss, fullgraph=True)
        calls["compiled_cumsum"] = lambda: gradients(
            compiled(**arguments, backend="reference"), arguments
        )
        calls["deterministic"] = lambda: step(arguments, None, deterministic=True)
    times = side_by_side(calls, rounds=5 if device == "cpu" else 20, device=device)
    row: dict[str, float] = {
        "k": k,
        **{f"{name}_s": typical(times, name) for name in calls},
    }
    row["ratio"] = typical(times, lambda round_s: round_s["cumsum"] / round_s["ours"])
    row["ours_over_topk"] = typical(
        times, lambda round_s: round_s["ours"] / round_s["topk"]
    )
    for name, backend in (("cumsum", "reference"), ("ours", None)):
        row[f"{name}_bytes"] = peak_extra_bytes(
            prepare_memory, k, backend, device, device=device
        )
    line = (
        f"K={k}: cumsum {1e3 * row['cumsum_s']:.1f} ms and "
        f"{row['cumsum_bytes'] / 1e6:.0f} MB, ours {1e3 * row['ours_s']:.2f} ms"
    )
    print(
        f"{line} and {row['ours_bytes'] / 1e6:.0f} MB: {row['ratio']:.1f}x; "
        f"{row['ours_over_topk']:.2f} of TopK"
    )
    if device == "cuda":
        row["over_compiled"] = typical(
            times, lambda round_s: round_s["compiled_cumsum"] / round_s["ours"]
        )
        row["deterministic_over_ours"] = typical(
            times, lambda round_s: round_s["deterministic"] / round_s["ours"]
        )
        # Every chosen row is read once; for it a gradient row in float32 is read and
        # written.
        row["gather_bytes_per_s"] = (
            k
            * sizes.n
            * sizes.d_model
            * (arguments["W_dec"].element_size() + 8)
            / row["ours_s"]
        )
        row["copy_bytes_per_s"] = copy_bandwidth()
        share = row["gather_bytes_per_s"] / row["copy_bytes_per_s"]
        print(
            f"     compiled cumsum {1e3 * row['compiled_cumsum_s']:.1f} ms: "
            f"{row['over_compiled']:.1f}x; "
            f"deterministic {row['deterministic_over_ours']:.2f} of that; "
            f"traffic {share:.2f} of copying"
        )
    return row


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying a gigabyte on the GPU."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    times = side_by_side(
        {"copy": lambda: target.copy_(source)}, rounds=20, device="cuda"
    )
    return 2 * source.numel() * 4 / typical(times, "copy")
