"""Where a model that answers MQAR has to look, and how much of its attention lies there.

The expected circuit of a convolution followed by attention: the convolution's tap of the previous token writes each key onto the position
of its value, and attention finds the key there and copies the value (Arora et al. 2023; Aksenov et al. 2024, section 5).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.recall.task import UNLABELLED


def answers_at(
    tokens: Int[Tensor, "batch pos"], labels: Int[Tensor, "batch pos"]
) -> Bool[Tensor, "batch query key"]:
    """Where the answer of every question stands: at the value behind the first occurrence of the key that is asked for.

    >>> tokens, labels = torch.tensor([[5, 40, 7, 60, 0, 7, 5, 0]]), torch.tensor([[-100, -100, -100, -100, -100, 60, 40, -100]])
    >>> answers_at(tokens, labels).nonzero().tolist()
    [[0, 5, 3], [0, 6, 1]]

    Raises:
        InvalidArgument: a question whose key is not in the sequence before it, or labels of other sequences.
    """
    if tokens.ndim != 2 or tokens.shape != labels.shape:
        raise InvalidArgument(
            f"tokens and labels must be [batch, pos], the same; got {list(tokens.shape)} and {list(labels.shape)}"
        )
    asked = labels != UNLABELLED
    pos = torch.arange(tokens.shape[1], device=tokens.device)
    is_key = (tokens[:, :, None] == tokens[:, None, :]) & (pos < pos[:, None])
    if not bool(is_key.any(-1)[asked].all()):
        raise InvalidArgument(
            "a labelled position asks for a key that does not occur before it; give tokens and labels of MQAR.sample"
        )
    first = is_key.int().argmax(-1)
    return (pos == first.unsqueeze(-1) + 1) & asked.unsqueeze(-1)


def soft_iou(
    pattern: Float[Tensor, "batch head query key"],
    where: Bool[Tensor, "batch query key"],
) -> Float[Tensor, " head"]:
    """How much of a pattern lies where it should: the sum of the smaller of both over the sum of the larger, for every head.

    Only queries that have an answer count. 1 is a head that looks at the answer and nowhere else; one that spreads evenly over n positions
    gets 1 / (2 n - 1). Aksenov et al. 2024 report an intersection over union in Table 5 without saying how it is computed, so numbers of
    this function are not comparable with theirs.

    Raises:
        InvalidArgument: shapes that do not belong together, or no query that has an answer.
    """
    batch, _, *pairs = pattern.shape if pattern.ndim == 4 else (None, None)
    if [batch, *pairs] != list(where.shape):
        raise InvalidArgument(
            f"pattern must be [batch, head, query, key] and where the same without heads; got {list(pattern.shape)} and {list(where.shape)}"
        )
    if not bool(where.any()):
        raise InvalidArgument(
            "no query of where has an answer, so there is nothing a pattern could agree with"
        )
    there = where.unsqueeze(1).to(pattern.dtype)
    asked = where.any(-1)[:, None, :, None]
    smaller = torch.where(asked, torch.minimum(pattern, there), 0).sum((0, 2, 3))
    larger = torch.where(asked, torch.maximum(pattern, there), 0).sum((0, 2, 3))
    return smaller / larger
