"""The values that the dial k of a splice can have: a number, a number for every position, or a rule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_ext._arguments import as_integer
from sae_lens_ext.errors import InvalidArgument, InvalidK, ShapeMismatch
from sae_lens_ext.interventions.positions.window import Window
from sae_lens_ext.kernels import holds_numbers
from sae_lens_ext.sae import SAE, SparseCode


@runtime_checkable
class KRule(Protocol):
    """Chooses a k for every token from what its code would be at the largest."""

    def choose(
        self, sae: SAE, x: Float[Tensor, "*batch d_model"], code: SparseCode
    ) -> Int[Tensor, "*batch"]:
        """The k of every token, from 1 to ``code.k``."""
        ...


OneK = int | Tensor | KRule | None
"""k at one site: a number, a tensor of numbers ``[pos]`` or ``[batch, pos]``, a rule, or None for what the SAE was trained at."""

K = OneK | Mapping[str, OneK]
"""k for every site, or one per site name."""


@dataclass(frozen=True)
class UntilFVU:
    """See ``until_fvu``."""

    bound: float

    def __post_init__(self) -> None:
        """Check the bound.

        Raises:
            InvalidArgument: not a share.
        """
        if (
            isinstance(self.bound, bool)
            or not isinstance(self.bound, int | float)
            or not 0 <= self.bound <= 1
        ):
            raise InvalidArgument(
                f"until_fvu takes a share of the variance, from 0 to 1; got {self.bound!r}"
            )

    def choose(
        self, sae: SAE, x: Float[Tensor, "*batch d_model"], code: SparseCode
    ) -> Int[Tensor, "*batch"]:
        """See ``KRule.choose``."""
        errors = sae.prefix_errors(x, code)
        enough = errors[..., 1:] <= self.bound * errors[..., :1]
        # argmax finds the first True; where there is none, all k features are kept.
        return torch.where(enough.any(-1), enough.byte().argmax(-1) + 1, code.k)

    def __repr__(self) -> str:
        """As it is typed."""
        return f"until_fvu({self.bound})"


def until_fvu(bound: float) -> UntilFVU:
    """For every token the smallest k whose reconstruction leaves at most this share of its variance unexplained.

    The variance of a token is its squared distance from the reconstruction of an empty code (the SAE's bias), which for a
    trained SAE is close to the mean activation. A token that does not get there keeps all the features the SAE was trained at.

    Raises:
        InvalidArgument: not a share from 0 to 1.
    """
    return UntilFVU(bound)


def checked_dial(sae: SAE, k: OneK, *, extrapolate: bool) -> int | Tensor | KRule:
    """A value of the dial that this SAE can serve.

    Raises:
        InvalidK: it cannot.
    """
    k = torch.as_tensor(k) if isinstance(k, numpy.ndarray) else k
    if isinstance(k, Tensor) and k.ndim > 0:
        if (
            k.is_floating_point()
            or k.dtype == torch.bool
            or k.ndim > 2
            or not k.numel()
        ):
            raise InvalidK(
                f"k per position must be whole numbers [pos] or [batch, pos]; got {k.dtype} {list(k.shape)}"
            )
        for end in (k.min(), k.max()):
            sae.config.checked_k(int(end), extrapolate=extrapolate)
        return k.clone()
    # A number first: numpy's have a method called choose, too.
    if as_integer(k) is None and isinstance(k, KRule) and not hasattr(k, "tolist"):
        return k
    return sae.config.checked_k(k, extrapolate=extrapolate)


def k_to_encode(sae: SAE, dial: int | Tensor | KRule) -> int:
    """The largest k that this value of the dial can need."""
    if isinstance(dial, int):
        return dial
    return int(dial.max()) if isinstance(dial, Tensor) else sae.config.k


def dialled(
    sae: SAE, dial: int | Tensor | KRule, x: Tensor, code: SparseCode, window: Window
) -> SparseCode:
    """The code that the dial leaves of one that was encoded at ``k_to_encode`` or more.

    Raises:
        ShapeMismatch: a k per position of another shape than the run.
    """
    if isinstance(dial, int):
        return code.prefix(dial)
    if isinstance(dial, Tensor):
        total = window.start + window.length
        if dial.shape[-1] < total or (
            dial.ndim == 2 and dial.shape[0] not in (1, window.batch)
        ):
            raise ShapeMismatch(
                f"k per position is {list(dial.shape)}; this run reaches {[window.batch, total]} (batch, pos)"
            )
        k = (
            dial[..., window.start : total]
            .to(code.values.device)
            .expand(window.batch, window.length)
        )
        code = code.prefix(int(dial.max()))
    else:
        code = code.prefix(sae.config.k)
        with torch.no_grad():
            k = dial.choose(sae, x, code)
        _refuse_bad_choice(dial, k, code)
    kept = torch.arange(code.k, device=k.device) < k.unsqueeze(-1)
    return SparseCode(code.values * kept, code.indices, code.d_sae)


def _refuse_bad_choice(rule: KRule, k: object, code: SparseCode) -> None:
    tokens = code.values.shape[:-1]
    if (
        not isinstance(k, Tensor)
        or k.is_floating_point()
        or k.dtype == torch.bool
        or k.shape != tokens
    ):
        got = f"{k.dtype} {list(k.shape)}" if isinstance(k, Tensor) else repr(k)
        raise InvalidK(
            f"{rule!r} must choose a tensor of whole numbers, one for each token {list(tokens)}; it chose {got}"
        )
    if (
        holds_numbers(k)
        and k.numel()
        and not (int(k.min()) >= 1 and int(k.max()) <= code.k)
    ):
        raise InvalidK(
            f"{rule!r} must choose from 1 to {code.k}; it chose from {int(k.min())} to {int(k.max())}"
        )
