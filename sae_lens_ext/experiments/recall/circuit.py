"""Where a model has to look to answer MQAR, and how much of its attention lies there.

The expected circuit of a convolution followed by attention: the convolution's tap of
the previous token writes each key onto the position of its value, and attention finds
the key there and copies the value (Arora et al. 2023; Aksenov et al. 2024, section 5).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import InvalidArgument
from sae_lens_ext.experiments.checks import check_tensors
from sae_lens_ext.experiments.recall.task import UNLABELLED
from sae_lens_ext.kernels import holds_numbers


def answers_at(
    tokens: Int[Tensor, "batch pos"], labels: Int[Tensor, "batch pos"]
) -> Bool[Tensor, "batch query key"]:
    """The position that answers each question, as a mask like an attention pattern.

    It is the position after the first occurrence of the key that is asked for.

    >>> tokens = torch.tensor([[5, 40, 7, 60, 0, 7, 5, 0]])
    >>> labels = torch.tensor([[-100, -100, -100, -100, -100, 60, 40, -100]])
    >>> answers_at(tokens, labels).nonzero().tolist()
    [[0, 5, 3], [0, 6, 1]]

    Raises:
        InvalidArgument: a question whose key is not in the sequence before it, or
            tokens and labels of different shapes.
    """
    check_tensors(tokens=tokens, labels=labels)
    if tokens.ndim != 2 or tokens.shape != labels.shape:
        raise InvalidArgument(
            "tokens and labels must both have the shape [batch, pos]; "
            f"got {list(tokens.shape)} and {list(labels.shape)}"
        )

    is_question = labels != UNLABELLED
    n_positions = tokens.shape[1]
    pos = torch.arange(n_positions, device=tokens.device)
    is_earlier = pos < pos[:, None]

    # [batch, query, key], whether the key position holds the query's token, earlier.
    has_same_token = tokens[:, :, None] == tokens[:, None, :]
    is_key = has_same_token & is_earlier
    is_unanswerable = is_question & ~is_key.any(-1)
    if holds_numbers(is_unanswerable) and bool(is_unanswerable.any()):
        raise InvalidArgument(
            "a labelled position asks for a key that does not occur before it; give "
            "tokens and labels of MQAR.sample"
        )

    # The first of equal values: argmax finds the first occurrence.
    first_key = is_key.int().argmax(-1)
    answer = first_key + 1
    is_after_key = pos == answer.unsqueeze(-1)
    return is_after_key & is_question.unsqueeze(-1)


def soft_iou(
    pattern: Float[Tensor, "batch head query key"],
    where: Bool[Tensor, "batch query key"],
) -> Float[Tensor, " head"]:
    """The overlap of an attention pattern with the positions where it should lie.

    For every head: the sum of the smaller of both over the sum of the larger, at the
    queries that have an answer. A head that looks at the answer and nowhere else gets
    1; one that spreads evenly over n positions gets 1 / (2 n - 1).

    Aksenov et al. 2024 report an intersection over union in Table 5 without saying how
    it is computed, so numbers of this function are not comparable with theirs.

    Args:
        pattern: attention of every head.
        where: the positions of the answers; see ``answers_at``.

    Raises:
        InvalidArgument: shapes that do not belong together, or a mask without an
            answer.
    """
    check_tensors(pattern=pattern, where=where)
    without_heads = [*pattern.shape[:1], *pattern.shape[2:]]
    if pattern.ndim != 4 or without_heads != list(where.shape):
        raise InvalidArgument(
            "pattern must have the shape [batch, head, query, key] and where the same "
            f"without heads; got {list(pattern.shape)} and {list(where.shape)}"
        )
    if holds_numbers(where) and not bool(where.any()):
        raise InvalidArgument(
            "where must mark the answer of at least one query; all of it is False"
        )

    target = where.unsqueeze(1)
    target = target.to(pattern.dtype)
    has_answer = where.any(-1)
    has_answer = has_answer[:, None, :, None]

    smaller = torch.minimum(pattern, target)
    smaller = torch.where(has_answer, smaller, 0)
    larger = torch.maximum(pattern, target)
    larger = torch.where(has_answer, larger, 0)

    # Over the batch too: every answer counts the same, whatever text it is in.
    intersection = smaller.sum((0, 2, 3))
    union = larger.sum((0, 2, 3))
    return intersection / union
