"""The unembedding as what it does to a direction, some tokens at a time.

The vocabulary may be a hundred times as large as the stream is wide, so logits of all
tokens are much to hold, and products with so long a matrix are slow on a CPU. Most
unembeddings are a matrix and nothing else. That is found by calling it, so an
unembedding that does anything else is called as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Tokens of a block, where there is a matrix.
_N_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class Unembedding:
    """How logits change with a direction of the stream.

    Attributes:
        module: makes logits of activations ``[batch, pos, d_model]``.
        matrix: all that the module does, or None.
        d_vocab: number of logits.
    """

    module: nn.Module
    matrix: Float[Tensor, "d_vocab d_model"] | None
    d_vocab: int

    @classmethod
    def of(cls, module: nn.Module, d_vocab: int, d_model: int) -> "Unembedding":
        """The unembedding of a model.

        Args:
            module: makes logits of activations.
            d_vocab: how many.
            d_model: width of the activations.
        """
        as_it_is = cls(module, None, d_vocab)
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.shape != (d_vocab, d_model):
            return as_it_is
        if not weight.is_floating_point():
            return as_it_is

        by_matrix = cls(module, weight.detach(), d_vocab)
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(1, d_model, generator=generator).to(weight.device)
        expected = as_it_is.changes(probe, 0, d_vocab)
        difference = by_matrix.changes(probe, 0, d_vocab) - expected
        tolerance = 16 * torch.finfo(weight.dtype).eps * float(expected.norm())
        # In this form NaN is no match.
        return by_matrix if float(difference.norm()) <= tolerance else as_it_is

    @property
    def n_tokens(self) -> int:
        """Tokens of a block."""
        return self.d_vocab if self.matrix is None else min(_N_TOKENS, self.d_vocab)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """The first token of every block, and the one behind its last."""
        for start in range(0, self.d_vocab, self.n_tokens):
            yield start, min(start + self.n_tokens, self.d_vocab)

    def changes(
        self, directions: Float[Tensor, "batch d_model"], start: int, end: int
    ) -> Float[Tensor, "batch tokens"]:
        """By how much a block of logits changes along each direction.

        Args:
            directions: along which the activation changes.
            start: first token of the block.
            end: the token behind its last.
        """
        with torch.no_grad():
            if self.matrix is not None:
                block = self.matrix[start:end]
                return (directions.to(block) @ block.T).float()
            like = next(self.module.parameters(), directions)
            # The first row is that of no direction.
            rows = torch.cat([torch.zeros_like(directions[:1]), directions])
            logits = self.module(rows.unsqueeze(0).to(like))[0].float()
            return logits[1:].sub_(logits[:1])[:, start:end]
