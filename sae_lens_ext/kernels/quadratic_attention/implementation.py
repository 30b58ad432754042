"""What an implementation of ``quadratic_attention`` as an operator consists of.

It is a pair of functions, ``Attend`` and ``Gradients``. Inside them a state is one
tensor: the sum of phi(k) [v, 1]^T, whose last column belongs to the sum of the weights.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap


class Results(NamedTuple):
    """The results of an implementation."""

    out: Tensor
    """[n, pos, d_v], in the dtype of the values."""
    divisor: Tensor
    """[n, pos], see ``reference.divisor``; in the dtype of sums, as the state is."""
    final_state: Tensor
    """[n, features, d_v + 1], the state after the last token; empty if not wanted."""


@runtime_checkable
class Attend(Protocol):
    """The forward pass of an implementation."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        initial_state: Tensor | None,
        feature_map: FeatureMap,
        chunk: int,
        wants_state: bool,
    ) -> Results:
        """Compute attention; all tensors are contiguous.

        Args:
            q: [n, pos, d].
            k: [n, pos, d], in the dtype of ``q``.
            v: [n, pos, d_v], in the dtype of ``q``.
            initial_state: [n, features, d_v + 1], in the dtype of sums; or None.
            feature_map: of the weights.
            chunk: the number of tokens in a chunk; 0 is one chunk of all tokens.
            wants_state: whether the state after the last token is returned.
        """
        ...


@runtime_checkable
class Gradients(Protocol):
    """The backward pass of an implementation."""

    def __call__(
        self,
        grad_out: Tensor,
        grad_final_state: Tensor | None,
        out: Tensor,
        divisor: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        initial_state: Tensor | None,
        feature_map: FeatureMap,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute gradients; all tensors are contiguous.

        Args:
            grad_out: the gradient of ``out``.
            grad_final_state: the gradient of the final state; None if that was not
                wanted.
            out: the result of the forward pass.
            divisor: the result of the forward pass.
            q: the argument of the forward pass, as the ones below.
            k: see ``q``.
            v: see ``q``.
            initial_state: see ``q``.
            feature_map: see ``q``.
            chunk: see ``q``.

        Returns:
            The gradients of q, k, v and the initial state; the last one is empty if
            there was no initial state.
        """
        ...
