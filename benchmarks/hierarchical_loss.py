"""The hierarchical loss with all gradients, against the cumulative-sum definition and against plain TopK."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Mismatch, peak_extra_bytes, seconds
from sae_lens_ext.kernels import hierarchical_loss, sparse_decode
from sae_lens_ext.kernels.hierarchical_loss import cpu

N_TOKENS, D_MODEL, D_SAE = 1024, 640, 8192


def inputs(k: int, n: int = N_TOKENS, d_sae: int = D_SAE) -> dict[str, Tensor]:
    """A code like that of a trained SAE: distinct features, values that fall."""
    g = torch.Generator().manual_seed(0)
    W_dec = torch.randn(d_sae, D_MODEL, generator=g)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    target = torch.randn(n, D_MODEL, generator=g)
    values, indices = (target @ W_dec.T).topk(k)
    tensors = {"values": values.relu(), "W_dec": W_dec, "b_dec": torch.randn(D_MODEL, generator=g), "target": target}
    return {**{name: tensor.requires_grad_() for name, tensor in tensors.items()}, "indices": indices}


def step(arguments: dict[str, Tensor], backend: Any) -> list[Tensor]:
    """Loss and every gradient."""
    leaves = [tensor for tensor in arguments.values() if tensor.is_floating_point()]
    loss = hierarchical_loss(**arguments, backend=backend)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def topk_step(arguments: dict[str, Tensor]) -> None:
    """What a plain TopK SAE pays for the same features."""
    code = {name: arguments[name] for name in ("values", "indices", "W_dec", "b_dec")}
    loss = (sparse_decode(**code) - arguments["target"]).square().mean()
    torch.autograd.grad(loss, [tensor for tensor in arguments.values() if tensor.is_floating_point()])


def check(arguments: dict[str, Tensor]) -> None:
    """Refuse to time a fast version that computes something else."""
    for fast, plain in zip(step(arguments, "cpu"), step(arguments, "reference"), strict=True):
        error = ((fast - plain).abs().max() / plain.abs().max()).item()
        if not error < 1e-4:
            raise Mismatch(f"the fast version differs from the definition by {error:.1e} relative; not timed")


def prepare_memory(k: int, backend: str):
    """For a process of its own: a step on a small dictionary to warm up, and the one to measure."""
    small, large = inputs(k, n=8, d_sae=2 * k), inputs(k)
    return lambda: step(small, backend), lambda: step(large, backend)


def run() -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    sizes = f"N={N_TOKENS}, d_model={D_MODEL}, d_sae={D_SAE}"
    print(f"hierarchical loss, forward and all gradients: {sizes}, float32, compiled={cpu.has_numba()}")
    print(f"{'K':>5} {'cumsum':>10} {'ours':>10} {'ratio':>7} {'TopK':>10} {'ours/TopK':>10} {'cumsum MB':>10} {'ours MB':>9}")
    return [measure_at(k) for k in (32, 64, 128)]


def measure_at(k: int) -> dict[str, float]:
    """One line of the table."""
    arguments = inputs(k)
    check(arguments)
    plain = seconds(lambda: step(arguments, "reference"))
    fast = seconds(lambda: step(arguments, "cpu"))
    topk = seconds(lambda: topk_step(arguments))
    plain_bytes, fast_bytes = (peak_extra_bytes(prepare_memory, k, backend) for backend in ("reference", "cpu"))
    print(
        f"{k:5d} {1e3 * plain:7.0f} ms {1e3 * fast:7.1f} ms {plain / fast:6.1f}x {1e3 * topk:7.1f} ms {fast / topk:9.2f}x"
        f" {plain_bytes / 1e6:10.0f} {fast_bytes / 1e6:9.0f}"
    )
    times = {"k": k, "cumsum_s": plain, "ours_s": fast, "ratio": plain / fast, "topk_s": topk, "ours_over_topk": fast / topk}
    return {**times, "cumsum_bytes": plain_bytes, "ours_bytes": fast_bytes}
