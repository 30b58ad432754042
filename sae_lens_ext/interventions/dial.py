"""The kinds of k that a splice takes: a number, numbers per position, a rule.

A code holds the features of every token strongest first, so each kind comes down to the
length of the prefix that a token keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidK
from sae_lens_ext.interventions.positions import Window
from sae_lens_ext.interventions.until_kl import UntilKL
from sae_lens_ext.kernels import holds_numbers
from sae_lens_ext.sae import SAE, SparseCode


@runtime_checkable
class KRule(Protocol):
    """Chooses a k for every token from its code at the largest k.

    ``x`` is what the code reconstructs: the activation that was encoded, or for a
    transcoder that at its output, less what its skip connection adds.
    """

    def choose(
        self, sae: SAE, x: Float[Tensor, "*batch d_model"], code: SparseCode
    ) -> Int[Tensor, "*batch"]:
        """The k of every token, from 1 to ``code.k``."""
        ...


SiteK = int | Tensor | KRule | UntilKL | None
"""k at one site: a number, a tensor of numbers by position of the text, ``[pos]`` or
``[batch, pos]``, a rule, a bound on what the splice does to the prediction, or None for
the SAE's own: the k that it was trained at, or every active feature.
"""

K = SiteK | Mapping[str, SiteK]
"""k for every site, or by site name."""

CheckedK = int | Tensor | KRule | None
"""k at one site of a run; None stands for every active feature."""


@dataclass(frozen=True)
class UntilFVU:
    """The rule that ``until_fvu`` makes.

    Attributes:
        bound: fraction of a token's variance that may stay unexplained.
    """

    bound: float

    def __post_init__(self) -> None:
        """Check the bound.

        Raises:
            InvalidArgument: not a number from 0 to 1.
        """
        bound = arguments.fraction(self.bound, "bound")
        object.__setattr__(self, "bound", bound)

    def choose(
        self, sae: SAE, x: Float[Tensor, "*batch d_model"], code: SparseCode
    ) -> Int[Tensor, "*batch"]:
        """See ``KRule.choose``."""
        errors = sae.prefix_errors(x, code)
        # The error of the empty prefix is the variance of the token.
        variance = errors[..., :1]
        is_enough = errors[..., 1:] <= self.bound * variance

        # argmax finds the first True. A token without one keeps all k features.
        first = is_enough.byte().argmax(-1)
        smallest_k = first + 1
        has_enough = is_enough.any(-1)
        return torch.where(has_enough, smallest_k, code.k)

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"until_fvu({self.bound})"


def until_fvu(bound: float) -> UntilFVU:
    """Give each token the smallest k that leaves at most ``bound`` of its variance.

    The variance of a token is its squared distance from the reconstruction of an empty
    code (the SAE's bias), which for a trained SAE is close to the mean activation. A
    token whose error never falls to the bound keeps all the features the SAE was
    trained at, or, for an SAE that was not trained at a k, all active features.

    Args:
        bound: fraction of the variance that may stay unexplained, from 0 to 1.

    Raises:
        InvalidArgument: ``bound`` is not a number from 0 to 1.
    """
    return UntilFVU(bound)


def checked_k(sae: SAE, k: SiteK, *, extrapolate: bool) -> CheckedK | UntilKL:
    """A k that this SAE can serve.

    Raises:
        InvalidK: the SAE cannot serve it.
    """
    if isinstance(k, numpy.ndarray):
        k = torch.as_tensor(k)
    # A tensor without axes is a number.
    if isinstance(k, Tensor) and k.ndim > 0:
        return _checked_k_per_position(sae, k, extrapolate=extrapolate)

    if isinstance(k, UntilKL):
        k.check(sae)
        return k
    # Numbers of numpy have a method called choose, too.
    if isinstance(k, KRule) and not isinstance(k, numpy.generic):
        return k
    return sae.config.checked_k(k, extrapolate=extrapolate)


def same_k(first: CheckedK | UntilKL, second: CheckedK | UntilKL) -> bool:
    """Whether two values of k are equal; tensors by their numbers, on any devices."""
    first_is_tensor = isinstance(first, Tensor)
    second_is_tensor = isinstance(second, Tensor)
    # Not by ==, which for tensors gives a tensor.
    if first_is_tensor and second_is_tensor:
        return torch.equal(first.cpu(), second.cpu())
    if first_is_tensor or second_is_tensor:
        return False
    return first == second


def largest_k(sae: SAE, k: CheckedK) -> int | None:
    """The largest number of features that a token can keep at this k.

    None stands for every active feature.
    """
    if k is None or isinstance(k, int):
        return k
    if isinstance(k, Tensor):
        return int(k.max())
    return sae.config.k


def code_at_k(
    sae: SAE,
    k: CheckedK,
    x: Tensor,
    code: SparseCode,
    window: Window,
) -> SparseCode:
    """The code at k, from a code that was encoded at ``largest_k`` or more.

    Args:
        sae: the SAE that encoded ``x``.
        k: what to keep, from ``checked_k``.
        x: what the code reconstructs, ``[batch, pos, d]``, for a rule to look at: the
            activation, or for a transcoder that at its output, less its skip
            connection.
        code: the code of ``x``.
        window: the positions of ``x``, by which numbers per position are looked up.

    Raises:
        ShapeMismatch: k per position does not cover the run.
        InvalidK: a rule chose something that is not a k for every token.
    """
    if k is None or isinstance(k, int):
        return code.at_most(k)
    if isinstance(k, Tensor):
        code = code.at_most(int(k.max()))
        k_per_token = window.values_at(k, "k per position")
        k_per_token = k_per_token.to(code.values.device)
    else:
        code = code.at_most(sae.config.k)
        # A choice of k is a number, which no gradient goes through.
        with torch.no_grad():
            k_per_token = k.choose(sae, x, code)
        _check_choice(k, k_per_token, code)

    # Values beyond a token's k become 0, so that all tokens still share one shape.
    rank = torch.arange(code.k, device=k_per_token.device)
    mask = rank < k_per_token.unsqueeze(-1)
    return replace(code, values=code.values * mask)


def _checked_k_per_position(sae: SAE, k: Tensor, *, extrapolate: bool) -> Tensor:
    is_integral = not k.is_floating_point() and k.dtype != torch.bool
    has_positions = k.ndim <= 2 and k.numel() > 0
    if not is_integral or not has_positions:
        raise InvalidK(
            "k per position must be a tensor of integers [pos] or [batch, pos]; "
            f"got {k.dtype} {list(k.shape)}"
        )

    smallest = int(k.min())
    sae.config.checked_k(smallest, extrapolate=extrapolate)
    largest = int(k.max())
    sae.config.checked_k(largest, extrapolate=extrapolate)
    # A copy, so that what the user writes into the tensor later changes nothing here.
    return k.clone()


def _check_choice(rule: KRule, k: Any, code: SparseCode) -> None:
    tokens = code.values.shape[:-1]
    # A rule is the user's code, and may return anything.
    is_valid = (
        isinstance(k, Tensor)
        and not k.is_floating_point()
        and k.dtype != torch.bool
        and k.shape == tokens
    )
    if not is_valid:
        choice = repr(k)
        if isinstance(k, Tensor):
            choice = f"{k.dtype} {list(k.shape)}"
        raise InvalidK(
            f"{rule!r} must choose a tensor of integers, one per token {list(tokens)}; "
            f"it chose {choice}"
        )

    # Under a trace or vmap the numbers cannot be looked at.
    if not holds_numbers(k) or not k.numel():
        return
    smallest = int(k.min())
    largest = int(k.max())
    if smallest < 1 or largest > code.k:
        raise InvalidK(
            f"{rule!r} must choose from 1 to {code.k}; "
            f"it chose from {smallest} to {largest}"
        )
