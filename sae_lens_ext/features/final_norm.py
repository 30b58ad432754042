"""The norm before the unembedding, as what it does to a direction.

A norm divides by a number of its own for each token, and what is left is linear: it
subtracts the mean or does not, and multiplies coordinates by gains. Those are found by
calling the norm, so every implementation that computes this is understood, and one that
computes anything else is not taken for it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_lens_ext.hosts import Host, eager, token_rows, unembedding_input

# Of the probe, so that the norm's epsilon is nothing beside its square.
_SIZE = 100.0


@dataclass(frozen=True, eq=False)
class FinalNorm:
    """What the final norm does to a direction, but for a positive factor.

    Attributes:
        gain: of every coordinate.
        centres: whether the mean over coordinates is subtracted first.
    """

    gain: Float[Tensor, " d_model"]
    centres: bool

    def __call__(
        self, directions: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """Directions behind the norm."""
        if self.centres:
            directions = directions - directions.mean(dim=1, keepdim=True)
        return directions * self.gain.to(directions)


def final_norm(host: Host) -> FinalNorm | None:
    """The norm whose output the unembedding reads; None where none is found."""
    tokens = token_rows(host, torch.zeros(1, 2, dtype=torch.int64))
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        tensors = [part for part in arguments if isinstance(part, Tensor)]
        if tensors and isinstance(output, Tensor):
            calls.append((module, tensors[0], output))

    modules = list(host.model.modules())
    with eager(), torch.no_grad():
        handles = [module.register_forward_hook(keep) for module in modules]
        try:
            hidden = unembedding_input(host, tokens)
        finally:
            for handle in handles:
                handle.remove()
        if hidden is None:
            return None
        # Hook points return what they are given.
        norms = [
            module
            for module, given, output in calls
            if output.data_ptr() == hidden.data_ptr()
            and output.numel() == hidden.numel()
            and given.is_floating_point()
            and given.shape == output.shape
            and given.data_ptr() != output.data_ptr()
        ]
        found = (_measured(module, hidden) for module in norms)
        return next((norm for norm in found if norm is not None), None)


def _measured(norm: nn.Module, like: Tensor) -> FinalNorm | None:
    """The gains of a module; None if it does anything but what a norm does."""
    width = like.shape[-1]
    if width < 4:
        return None
    probe = _balanced(width).to(like)

    def outputs(x: Tensor) -> Tensor:
        return norm((_SIZE * x).view(1, 1, width)).view(width).float()

    plus = outputs(probe)
    minus = outputs(-probe)
    gain = (plus - minus) / 2 / probe.float()
    bias = (plus + minus) / 2

    generator = torch.Generator().manual_seed(0)
    x = (1 + torch.randn(width, generator=generator)).to(like)
    actual = outputs(x)
    tolerance = 16 * torch.finfo(like.dtype).eps * float(actual.norm())
    for centres in (False, True):
        centred = x.float() - x.float().mean() if centres else x.float()
        expected = gain * centred / centred.square().mean().sqrt() + bias
        # In this form NaN is no match.
        if float((actual - expected).norm()) <= tolerance:
            return FinalNorm(gain, centres)
    return None


def _balanced(width: int) -> Float[Tensor, " width"]:
    """Numbers of mean 0 and mean square 1, none of which is 0."""
    signs = torch.ones(width)
    signs[1::2] = -1
    if width % 2:
        # One and two halves of the opposite sign.
        signs[-3:] = torch.tensor([math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)])
    return signs
