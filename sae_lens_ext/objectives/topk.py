"""The ordinary TopK objective: good at one k."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext._types import Kind
from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.kernels import sparse_decode
from sae_lens_ext.objectives.base import Loss
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True)
class TopK:
    """The reconstruction error at k alone.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """

    @property
    def kind(self) -> Kind:
        """See ``Objective.kind``."""
        return "topk"

    def levels_at(self, k: int) -> tuple[int, ...]:
        """See ``Objective.levels_at``."""
        return (k,)

    def __call__(
        self,
        sae: SAE,
        u: Float[Tensor, "batch d_model"],
        k: int,
        *,
        target: Float[Tensor, "batch d_out"] | None = None,
        is_dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> Loss:
        """See ``Objective.__call__``.

        Raises:
            ShapeMismatch: the batch has no tokens.
        """
        if u.numel() == 0:
            raise ShapeMismatch(
                f"the loss needs at least one token; got activations {list(u.shape)}"
            )
        if target is None:
            target = u
        code = sae.encode_normalized(u, k)
        error = sparse_decode(code.values, code.indices, sae.W_dec, sae.b_dec) - target

        # Squares do not fit into half precision, nor do their sums.
        dtype = torch.promote_types(torch.float32, error.dtype)
        return Loss(error.to(dtype).square().mean(), code.detach())

    def after_step(self, sae: SAE, code: SparseCode) -> None:
        """Nothing: the optimizer changes everything there is."""
