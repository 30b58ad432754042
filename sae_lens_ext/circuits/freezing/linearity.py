"""Whether attention and norms are linear with what is held: a check by numbers.

``coverage`` counts what was held. A module may compute more than that: a gate on what
attention writes, a norm with a tanh behind it. So each is called once at four inputs x,
x + a, x + b and x + a + b, with random a and b: a map f is affine where

    f(x + a + b) - f(x + a) - f(x + b) + f(x) = 0

All modules are checked in one run of a row that stands in the batch four times. Before
each module, the last three are moved away from the first by its own a and b, so it does
not matter what was between modules.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts.modules import replaced_output

N_ROWS = 4
"""Rows of the run, all of them the same."""

# Rounding stays below it, also with TF32; a gate or a tanh bends by far more.
_TOLERANCE = 0.01


class LinearityCheck:
    """Hooks that check modules during one run of four equal rows."""

    def __init__(self, modules: Mapping[str, nn.Module], n_positions: int) -> None:
        """Attach to modules.

        Args:
            modules: by a name for messages.
            n_positions: how many positions the rows have, padding included.
        """
        # Some models put all rows and positions on one axis.
        self._lengths = (N_ROWS, N_ROWS * n_positions)
        self._generator = torch.Generator().manual_seed(0)
        self._problems: list[str] = []
        self._undo = ExitStack()
        for name, module in modules.items():
            before = module.register_forward_pre_hook(self._moved, with_kwargs=True)
            self._undo.callback(before.remove)

            def after(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                replaced_output(output, lambda y: self._check(name, module, y))

            handle = module.register_forward_hook(after)
            self._undo.callback(handle.remove)

    def close(self) -> None:
        """Take the hooks out again."""
        self._undo.close()

    def raise_problems(self) -> None:
        """Report the first module that is not linear, after the run.

        Raises:
            UnsupportedHost: there is one.
        """
        if self._problems:
            raise UnsupportedHost(
                f"freeze cannot make this model linear: {self._problems[0]}, although "
                "its pattern or its denominator is held; it computes something else "
                "that is not linear, such as a gate, or a splice is active in it; "
                "pass freeze=(), or hold only the other of attention and norms"
            )

    def _moved(
        self,
        _: nn.Module,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a module, with the rows moved apart."""
        moved = tuple(self._apart(value) for value in arguments)
        named = {}
        for name, value in keywords.items():
            is_mask = "mask" in name
            named[name] = value if is_mask else self._apart(value)
        return moved, named

    def _apart(self, value: Any) -> Any:
        """Four equal rows as x, x + a, x + b and x + a + b."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value.ndim < 2 or value.shape[0] not in self._lengths:
            return value
        rows = value.unflatten(0, (N_ROWS, -1))
        x = rows[0]
        size = _length(x) / max(1, x.numel()) ** 0.5
        # A mask, the entries of which are infinite or the smallest of the dtype.
        if not math.isfinite(size):
            return value
        a, b = (
            torch.randn(x.shape, generator=self._generator).to(x) * size
            for _ in range(2)
        )
        return torch.stack([x, x + a, x + b, x + a + b]).flatten(0, 1)

    def _check(self, name: str, module: nn.Module, output: Tensor) -> None:
        """Compare the outputs of the rows."""
        if output.shape[0] not in self._lengths:
            return
        wide = output.detach().to(torch.promote_types(output.dtype, torch.float32))
        y, y_a, y_b, y_both = wide.unflatten(0, (N_ROWS, -1))
        curvature = _length(y_both - y_a - y_b + y)
        change = _length(y_a - y) + _length(y_b - y)

        eps = torch.finfo(output.dtype).eps
        bound = max(_TOLERANCE, eps**0.5) * change + 16 * eps * _length(y)
        if not curvature <= bound:
            share = curvature / change if change else float("inf")
            self._problems.append(
                f"{name}, a {type(module).__name__}, bends by {share:.2g} of what a "
                "change of its input changes"
            )


def _length(tensor: Tensor) -> float:
    """The Euclidean norm, by functions that are not held inside of a norm."""
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return float(wide.square().sum()) ** 0.5
