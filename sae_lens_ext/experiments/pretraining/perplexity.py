"""Perplexity of a text, and of the tokens in it that could be recalled from it.

Linear attention and softmax attention differ most where the next token has been seen
before, so a single perplexity hides what two show. Whether a token counts as recall
depends on the tokens before it in the same row, never on the model. There are two
definitions::

    text             a  b  c  a  b  a
    "token"          .  .  .  x  x  x     this token has occurred
    "ngram"          .  .  .  .  x  .     this token has occurred behind the same
                                          token as now

"token" is how Aksenov et al. 2024 describe their split (their code for it was not
released). "ngram" is the narrower idea of Arora et al. 2023, here without any filter of
pairs that are frequent in the training text.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext import _arguments as arguments
from sae_lens_ext.errors import InvalidArgument, NonFinite
from sae_lens_ext.experiments.checks import check_language_model, check_tensors

Recall = Literal["token", "ngram"]
"""Definition of recall; see the module's docstring."""


@dataclass(frozen=True)
class Perplexity:
    """The exponential of the mean loss in nats, over three sets of tokens.

    Attributes:
        all: of every token.
        recall: of the tokens that could be recalled; None if there are none.
        other: of the rest; None if there are none.
        recall_share: share of the tokens that could be recalled.
        tokens: number of tokens.
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
    """Perplexity of a causal language model on rows of tokens.

    The first token of a row is context only; it is not predicted.

    Args:
        model: a model of ``transformers``, such as ``BasedForCausalLM``.
        rows: token ids.
        recall: definition of recall.
        batch_size: rows per forward pass.

    Raises:
        InvalidArgument: an unknown definition, rows of fewer than two tokens, or tokens
            outside of the model's vocabulary.
        NonFinite: a loss is NaN or infinite.
    """
    losses = token_losses(model, rows, batch_size=batch_size)
    return split(losses, recall_mask(rows, recall))


@torch.no_grad()
def token_losses(
    model: Any, rows: Int[Tensor, "row pos"], *, batch_size: int = 16
) -> Float[Tensor, "row pos-1"]:
    """The loss in nats of every token but the first of each row; see ``perplexity``."""
    _check_rows(rows)
    check_language_model(model)
    # On a GPU, an id without an embedding would fail without saying which it is.
    _check_vocabulary(rows, model.get_input_embeddings().num_embeddings)
    batch_size = arguments.positive_int(batch_size, "batch_size")

    device = next(model.parameters()).device
    was_training = model.training
    batches = []
    model.eval()
    try:
        for batch in rows.split(batch_size):
            tokens = batch.to(device, torch.int64)
            targets = tokens[:, 1:]
            # In float32, whatever dtype the model computes in.
            logits = model(tokens[:, :-1], use_cache=False).logits.float()
            losses = F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="none"
            )
            batches.append(losses.view(targets.shape).cpu())
    finally:
        model.train(was_training)

    losses = torch.cat(batches)
    n_bad = int((~torch.isfinite(losses)).sum())
    if n_bad:
        raise NonFinite(
            f"the losses of {n_bad} of {losses.numel()} tokens are NaN or infinite; "
            "check the weights and the dtype of the model"
        )
    return losses


def recall_mask(
    rows: Int[Tensor, "row pos"], recall: Recall = "token"
) -> Bool[Tensor, "row pos-1"]:
    """Which tokens, without the first of each row, could be recalled.

    >>> text = torch.tensor([[0, 1, 2, 0, 1, 0]])
    >>> recall_mask(text, "token").long().tolist()
    [[0, 0, 1, 1, 1]]
    >>> recall_mask(text, "ngram").long().tolist()
    [[0, 0, 0, 1, 0]]

    Raises:
        InvalidArgument: an unknown definition, or rows of fewer than two tokens.
    """
    _check_rows(rows)
    arguments.choice(recall, "recall", get_args(Recall))

    rows = rows.long()
    if recall == "token":
        return _has_occurred(rows)[:, 1:]
    # One number per pair of neighbours.
    pairs = rows[:, :-1] * (rows.max() + 1) + rows[:, 1:]
    return _has_occurred(pairs)


def split(
    losses: Float[Tensor, "row pos"], is_recall: Bool[Tensor, "row pos"]
) -> Perplexity:
    """Perplexities of all tokens, of recalled tokens and of the others.

    Args:
        losses: in nats.
        is_recall: the mask of ``recall_mask``.
    """
    return Perplexity(
        all=losses.double().mean().exp().item(),
        recall=_perplexity(losses[is_recall]),
        other=_perplexity(losses[~is_recall]),
        recall_share=is_recall.double().mean().item(),
        tokens=losses.numel(),
    )


def _perplexity(losses: Float[Tensor, " token"]) -> float | None:
    if not len(losses):
        return None
    # In float64, where a mean of millions of losses keeps its digits.
    return losses.double().mean().exp().item()


def _has_occurred(ids: Int[Tensor, "row pos"]) -> Bool[Tensor, "row pos"]:
    """Whether the same id stands earlier in the row."""
    # A stable sort keeps the order of equal ids, so all but the first of them stand
    # behind an equal one.
    ordered, positions = ids.sort(dim=1, stable=True)
    is_repeat = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0), value=False)
    return torch.zeros_like(is_repeat).scatter(1, positions, is_repeat)


def _check_rows(rows: Tensor) -> None:
    check_tensors(rows=rows)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
        raise InvalidArgument(
            "perplexity needs rows of at least 2 tokens, [row, pos]; got "
            f"{list(rows.shape)}"
        )
    if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        raise InvalidArgument(
            f"perplexity needs token ids, which are integers; got {rows.dtype}"
        )


def _check_vocabulary(rows: Tensor, vocab_size: int) -> None:
    largest = int(rows.max())
    smallest = int(rows.min())
    if largest >= vocab_size or smallest < 0:
        token = largest if largest >= vocab_size else smallest
        raise InvalidArgument(
            f"the rows hold token {token}, and the model has 0 to {vocab_size - 1}; "
            "tokenize the text with the tokenizer that the model was trained with"
        )
