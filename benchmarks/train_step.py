"""A whole step of training, from normalised activations to changed weights.

Beside the steps of other libraries. Each library's step runs in an environment of its
own, turn by turn with ours in the same process.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import (
    in_environment,
    milliseconds,
    ratio,
    refuse_mismatch,
    side_by_side,
    typical,
)
from benchmarks.sizes import Sizes
from sae_lens_ext.kernels import hierarchical_loss, topk_encode
from sae_lens_ext.objectives import HierarchicalTopK, Objective, TopK
from sae_lens_ext.sae import SAE, SAEConfig
from sae_lens_ext.training import TrainConfig
from sae_lens_ext.training.optimizer import new_optimizer
from sae_lens_ext.training.step import train_step

SIZES = {
    "cpu": Sizes(2048, 640, 8192, torch.float32, 0),
    "cuda": Sizes(8192, 2304, 65536, torch.float32, 0),
}
K = 64
SAELENS_PYTHON = Path(".venv-saelens/bin/python")


def batch(device: str = "cpu") -> Tensor:
    """Activations of unit size."""
    sizes = SIZES[device]
    g = torch.Generator(device).manual_seed(0)
    return torch.randn(sizes.n, sizes.d_model, generator=g, device=device)


def our_step(objective: Objective, x: Tensor) -> Callable[[], object]:
    """A step of this package's training loop."""
    sae = _sae(x)
    config = TrainConfig(d_sae=sae.config.d_sae, k=K, lr=1e-4)
    optimizer = new_optimizer(sae, config)
    return partial(train_step, sae, optimizer, objective, x, K)


def run(
    device: str = "cpu", peers: Sequence[Path] = (SAELENS_PYTHON,)
) -> dict[str, Any]:
    """Print the table; returns its numbers.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        peers: the Python programs of environments with other libraries.
    """
    sizes = SIZES[device]
    x = batch(device)
    _check(x[:256])

    weights = torch.randn(sizes.d_sae, sizes.d_model, device=device).T
    bias = torch.zeros(sizes.d_sae, device=device)
    calls = {
        "encoder product": lambda: torch.addmm(bias, x, weights),
        "hierarchical": our_step(HierarchicalTopK(), x),
        "topk": our_step(TopK(), x),
    }
    times = side_by_side(calls, rounds=11, device=device)
    print(
        f"training step, float32: N={sizes.n}, d_model={sizes.d_model}, "
        f"d_sae={sizes.d_sae}, k={K}; medians"
    )

    numbers: dict[str, Any] = {f"{name}_s": typical(times, name) for name in calls}
    numbers["over_product"] = ratio(times, "hierarchical", "encoder product")
    numbers["over_topk"] = ratio(times, "hierarchical", "topk")
    for name in calls:
        _print_line(name, numbers[f"{name}_s"])
    print(
        f"    hierarchical: {numbers['over_product']:.2f} of the encoder product, "
        f"{numbers['over_topk']:.2f} of TopK"
    )
    numbers["peers"] = [_beside(python) for python in peers if device == "cpu"]
    return numbers


def _sae(x: Tensor) -> SAE:
    config = SAEConfig(d_model=x.shape[1], d_sae=SIZES[x.device.type].d_sae, k=K)
    return SAE(config, generator=torch.Generator().manual_seed(0)).to(x.device)


def _check(x: Tensor) -> None:
    """Check that the gradients of a step are those of the plain definition."""
    sae = _sae(x)
    weights = list(sae.parameters())
    gradients = torch.autograd.grad(HierarchicalTopK()(sae, x, K).value, weights)

    # Of the features that the step chooses: where two are equal but for rounding, their
    # order is that of one way to compute them.
    _, indices = topk_encode(x - sae.b_dec, sae.W_enc, sae.b_enc, K)
    pre = torch.addmm(sae.b_enc, x - sae.b_dec, sae.W_enc)
    refuse_mismatch([pre.gather(1, indices)], [pre.topk(K).values], tolerance=1e-5)
    values = pre.gather(1, indices).relu()
    loss = hierarchical_loss(
        values, indices, sae.W_dec, sae.b_dec, x, backend="reference"
    )
    refuse_mismatch(gradients, torch.autograd.grad(loss, weights), tolerance=1e-3)


def _beside(python: Path) -> dict[str, Any]:
    """Measure the step of the library in another environment, beside ours there."""
    answer = in_environment(python, "benchmarks.train_step_peer")
    if not answer:
        return {}
    times = answer.pop("times")
    answer |= {f"{name}_s": typical(times, name) for name in times}
    answer["peer_over_ours"] = ratio(times, "peer", "ours")
    beside = (
        f"beside ours {milliseconds(answer['ours_s'])}: {answer['peer_over_ours']:.1f}x"
    )
    _print_line(answer["name"], answer["peer_s"], f"   {beside}")
    return answer


def _print_line(name: str, seconds: float, rest: str = "") -> None:
    print(f"{name:>24} {1e3 * seconds:8.1f} ms{rest}")
