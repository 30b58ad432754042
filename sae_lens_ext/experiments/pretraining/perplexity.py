"""Perplexity of a text, and apart from it of the tokens that could have been recalled from the text itself.

Linear attention and softmax attention differ most where the next token has been seen before, so that one perplexity hides what two
show. Whether a token counts as recall depends on the tokens before it in the same row, never on the model. Two definitions::

    text             a  b  c  a  b  a
    "token"          .  .  .  x  x  x     this token has occurred
    "ngram"          .  .  .  .  x  .     this token has occurred behind the same token as now

"token" is how Aksenov et al. 2024 describe their split (their code for it was not released), "ngram" the narrower idea of Arora et al.
2023, here without any filter of pairs that are frequent in the training text.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext._arguments import as_integer
from sae_lens_ext.errors import InvalidArgument, NonFinite

Recall = Literal["token", "ngram"]
"""What counts as recall; see the module."""


@dataclass(frozen=True)
class Perplexity:
    """The exponential of the mean loss in nats, over three sets of tokens.

    Attributes:
        all: of every token.
        recall: of those that could have been recalled; None if there are none.
        other: of the rest; None if there is none.
        recall_share: how many of all could have been recalled.
        tokens: how many there are.
    """

    all: float
    recall: float | None
    other: float | None
    recall_share: float
    tokens: int


def perplexity(
    model: Any,
    rows: Int[Tensor, "row pos"],
    recall: Recall = "token",
    *,
    batch_size: int = 16,
) -> Perplexity:
    """Perplexity of a causal language model on rows of tokens; the first token of a row is given, not predicted.

    Args:
        model: one of ``transformers``, such as ``BasedForCausalLM``.
        rows: token ids.
        recall: what counts as recall.
        batch_size: rows per run.

    Raises:
        InvalidArgument: no such definition, rows of fewer than two tokens, or tokens that the model does not know.
        NonFinite: a loss that is NaN or infinite.
    """
    return split(
        token_losses(model, rows, batch_size=batch_size), recall_mask(rows, recall)
    )


@torch.no_grad()
def token_losses(
    model: Any, rows: Int[Tensor, "row pos"], *, batch_size: int = 16
) -> Float[Tensor, "row pos-1"]:
    """The loss in nats of every token but the first of each row; see ``perplexity``."""
    _check_rows(rows)
    known = model.get_input_embeddings().num_embeddings
    if int(rows.max()) >= known or int(rows.min()) < 0:
        raise InvalidArgument(
            f"the rows hold token {int(rows.max() if rows.max() >= known else rows.min())} and the model knows 0 to {known - 1}; "
            "tokenize the text with the tokenizer the model was trained with"
        )
    if (as_integer(batch_size) or 0) < 1:
        raise InvalidArgument(
            f"batch_size must be a whole number of at least 1; got {batch_size!r}"
        )
    device, was_training, found = next(model.parameters()).device, model.training, []
    model.eval()
    try:
        for some in rows.split(batch_size):
            tokens = some.to(device, torch.int64)
            logits = model(tokens[:, :-1], use_cache=False).logits.float()
            found.append(
                F.cross_entropy(
                    logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
                )
                .view(len(some), -1)
                .cpu()
            )
    finally:
        model.train(was_training)
    losses = torch.cat(found)
    if not torch.isfinite(losses).all():
        bad = int((~torch.isfinite(losses)).sum())
        raise NonFinite(
            f"the losses of {bad} of {losses.numel()} tokens are NaN or infinite; look at the model's weights and dtype"
        )
    return losses


def recall_mask(
    rows: Int[Tensor, "row pos"], recall: Recall = "token"
) -> Bool[Tensor, "row pos-1"]:
    """Which tokens, without the first of each row, could have been recalled.

    >>> text = torch.tensor([[0, 1, 2, 0, 1, 0]])
    >>> recall_mask(text, "token").long().tolist(), recall_mask(text, "ngram").long().tolist()
    ([[0, 0, 1, 1, 1]], [[0, 0, 0, 1, 0]])

    Raises:
        InvalidArgument: no such definition, or rows of fewer than two tokens.
    """
    _check_rows(rows)
    if recall not in get_args(Recall):
        raise InvalidArgument(
            f"recall must be one of {', '.join(get_args(Recall))}; got {recall!r}"
        )
    rows = rows.long()
    if recall == "token":
        return _has_occurred(rows)[:, 1:]
    return _has_occurred(rows[:, :-1] * (rows.max() + 1) + rows[:, 1:])


def split(
    losses: Float[Tensor, "row pos"], is_recall: Bool[Tensor, "row pos"]
) -> Perplexity:
    """Losses in nats put together as perplexities."""
    recalled, others = (
        _perplexity(losses[chosen]) for chosen in (is_recall, ~is_recall)
    )
    return Perplexity(
        all=losses.double().mean().exp().item(),
        recall=recalled,
        other=others,
        recall_share=is_recall.double().mean().item(),
        tokens=losses.numel(),
    )


def _perplexity(losses: Tensor) -> float | None:
    return losses.double().mean().exp().item() if len(losses) else None


def _has_occurred(codes: Tensor) -> Tensor:
    """[row, pos] -> whether an earlier one of the row is the same."""
    # Sorted without changing the order of equals, all but the first of equals stand behind one of them.
    ordered, places = codes.sort(dim=1, stable=True)
    again = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0), value=False)
    return torch.zeros_like(again).scatter(1, places, again)


def _check_rows(rows: Tensor) -> None:
    if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
        raise InvalidArgument(
            f"perplexity needs rows of at least 2 tokens, [row, pos]; got {list(rows.shape)}"
        )
    if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        raise InvalidArgument(
            f"perplexity needs token ids, which are whole numbers; got {rows.dtype}"
        )
