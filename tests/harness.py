"""How a fast kernel is compared with its definition.

The definition runs once in the dtype under test and once in float64, which is the
truth. The fast version may err at most twice as much as the definition did in the same
dtype, in every output and every gradient. In float64 itself there is no better truth,
and the two must agree to 1e-12.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SLACK = 2.0
# The plain version's error is one draw, and can be 0 by luck, above all for a scalar. A
# pairwise sum of n terms errs by up to log2(n) roundings; the cases here sum 2 ** 8
# terms and more.
ROUNDINGS = 8


def assert_within_budget(name: str, fast: Tensor, plain: Tensor, exact: Tensor) -> None:
    """Assert that a fast result is as exact as the plain one, against ``exact``.

    It may err ``SLACK`` times as much, plus ``ROUNDINGS`` roundings of the largest
    value.
    """
    assert fast.shape == exact.shape, (
        f"{name}: shape {list(fast.shape)}, expected {list(exact.shape)}"
    )
    assert fast.dtype == plain.dtype, (
        f"{name}: dtype {fast.dtype}, expected {plain.dtype}"
    )
    rounding = ROUNDINGS * torch.finfo(plain.dtype).eps * exact.abs().max().item()
    budget = SLACK * (plain.double() - exact).abs().max().item() + rounding
    error = (fast.double() - exact).abs().max().item()
    assert error <= budget, (
        f"{name}: error {error:.2e} over budget {budget:.2e}"
    )  # NaN is not <= anything


def outputs_and_gradients(
    function: Callable[..., Tensor], inputs: dict[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Run in ``dtype``; the result, and the gradient of every floating-point input.

    The upstream gradient is random and always the same.
    """
    arguments = {
        name: tensor.to(dtype).detach().clone().requires_grad_()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in inputs.items()
    }
    result = function(**arguments)
    upstream = torch.randn(
        result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(dtype)
    result.backward(upstream)
    gradients = {
        f"gradient of {name}": tensor.grad
        for name, tensor in arguments.items()
        if tensor.is_floating_point()
    }
    return {"result": result.detach(), **gradients}


def compare(
    fast: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Compare results and every gradient."""
    # The inputs are rounded to the dtype first, so that the float64 truth is that of
    # the same numbers.
    rounded = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }
    exact = outputs_and_gradients(plain, rounded, torch.float64)
    expected = outputs_and_gradients(plain, rounded, dtype)
    found = outputs_and_gradients(fast, rounded, dtype)
    for name, truth in exact.items():
        if dtype == torch.float64:
            torch.testing.assert_close(
                found[name],
                truth,
                rtol=1e-12,
                atol=1e-12,
                msg=lambda text, name=name: f"{name}: {text}",
            )
            continue
        assert_within_budget(name, found[name], expected[name], truth)
