"""What an implementation of the loss is asked for, and what it returns."""

from typing import NamedTuple

import torch
from torch import Tensor


class Task(NamedTuple):
    """What to compute from the tensors."""

    levels: list[int]
    """The prefix lengths that count."""
    weights: list[float]
    """How much each of them counts; the sum is 1."""
    needs: list[bool]
    """Whether gradients are needed, of ``values``, ``W_dec``, ``b_dec``, ``target``."""
    details: bool
    """Whether ``per_level`` and ``reconstruction`` are needed."""
    deterministic: bool
    """Whether all results must be the same, to the bit, every time."""

    def rank_weights(self, k: int) -> list[float]:
        """The weight of every prefix length from 1 to k."""
        weight_of = dict(zip(self.levels, self.weights, strict=True))
        return [weight_of.get(rank + 1, 0.0) for rank in range(k)]


class Results(NamedTuple):
    """What an implementation returns.

    All is in float32 or wider. Everything but the loss has no elements where the task
    does not ask for it.
    """

    loss: Tensor
    per_level: Tensor
    """[levels], the mean square of each level's error."""
    reconstruction: Tensor
    """[n, d_model], from all features."""
    grad_values: Tensor
    """[n, k]"""
    grad_W: Tensor
    """[d_sae, d_model]"""
    grad_b: Tensor
    """[d_model]"""
    grad_target: Tensor
    """[n, d_model]"""


def accumulator(*tensors: Tensor) -> torch.dtype:
    """The dtype of sums, at least float32.

    Half precision would lose the small differences between neighbouring prefixes, and
    float16 ends at 65,504.
    """
    dtype = torch.promote_types(tensors[0].dtype, tensors[-1].dtype)
    return torch.promote_types(torch.float32, dtype)
