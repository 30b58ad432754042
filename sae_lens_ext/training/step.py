"""One step of training an SAE, which keeps the norms of the decoder's rows."""

import contextlib
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.objectives import Loss, Objective
from sae_lens_ext.sae import SAE
from sae_lens_ext.training.frozen import (
    apply_to_norms,
    log_norm,
    move_gradient_to_norms,
)
from sae_lens_ext.training.parallel import ALONE, Ranks, local

# Few rows at a time, so that the products of a row with its gradient are still in the
# cache when they are added up.
_ROWS = 256


def train_step(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    u: Float[Tensor, "batch d_model"],
    k: int,
    *,
    target: Float[Tensor, "batch d_out"] | None = None,
    is_dead: Bool[Tensor, " d_sae"] | None = None,
    clip: float | None = None,
    dtype: torch.dtype = torch.float32,
    norms: Float[Tensor, " rows"] | None = None,
    ranks: Ranks = ALONE,
) -> Loss:
    """Change the SAE's weights once; for a training loop of your own.

    1. Objective and gradients.
    2. Remove the part of the decoder's gradient along its rows, so that Adam does not
       spend it on a length that is then divided out.
    3. Scale the gradients down where they are longer than ``clip``.
    4. The optimizer's step.
    5. Scale the decoder's rows back to unit norm, or to ``norms``.
    6. What the objective updates itself, such as a threshold.

    A decoder whose ``requires_grad`` is False stays as it is, bit for bit. With
    ``freeze_directions`` it changes in the norms of its rows alone.

    Args:
        sae: the SAE, or transcoder, to train.
        optimizer: the optimizer of ``sae.parameters()``.
        objective: the loss to minimise.
        u: activations that are centred and scaled already.
        k: features per token.
        target: what to reconstruct, centred and scaled; None means ``u``.
        is_dead: features that have not been active for long; None means none.
        clip: largest norm of the gradient of all weights together; None for no limit.
        dtype: bfloat16 computes the products that autocast covers in it; the weights
            and the loss stay as they are.
        norms: the norms of the decoder's rows, which it has already; None for 1.
        ranks: the processes that share the step. With several, ``u`` and ``target`` are
            the share of this one, which ``ranks.begin_step`` has told; the step is that
            of the whole batch.

    Returns:
        The loss before the step, detached, and the code of ``u``.
    """
    optimizer.zero_grad()
    # The caller may have switched gradients off.
    with torch.enable_grad():
        seen = ranks.seen(sae)
        with _products_in(dtype, u.device):
            loss, code = objective(seen, u, k, target=target, is_dead=is_dead)
    value = ranks.backward(loss, sae)
    change = log_norm(sae)
    if change is None:
        _remove_parallel_gradient(sae, norms)
    else:
        move_gradient_to_norms(sae, change)
    if clip is not None:
        ranks.clip_gradients(sae, clip)

    optimizer.step()
    optimizer.zero_grad()
    if change is None:
        _scale_decoder(sae, norms)
    else:
        apply_to_norms(sae, change)
    code = ranks.code_of(seen, code)
    objective.after_step(sae, code)

    return Loss(value, code)


def _products_in(
    dtype: torch.dtype, device: torch.device
) -> contextlib.AbstractContextManager[Any]:
    if dtype == torch.float32:
        return contextlib.nullcontext()
    # The cache would keep a second copy of the weights, each of which is used once.
    return torch.autocast(device.type, dtype, cache_enabled=False)


@torch.no_grad()
def _remove_parallel_gradient(sae: SAE, norms: Tensor | None) -> None:
    gradient: Any = sae.W_dec.grad
    if gradient is None:  # the decoder is not trained
        return
    all_rows = local(sae.W_dec)
    squares = torch.ones_like(local(sae.b_enc)) if norms is None else norms.square()
    parts = zip(
        local(gradient).split(_ROWS),
        all_rows.split(_ROWS),
        squares.split(_ROWS),
        strict=True,
    )
    for grad, rows, square in parts:
        along = torch.linalg.vecdot(grad, rows) / square
        grad.addcmul_(along.unsqueeze(1), rows, value=-1)


@torch.no_grad()
def _scale_decoder(sae: SAE, norms: Tensor | None) -> None:
    if not sae.W_dec.requires_grad:
        return
    rows = local(sae.W_dec)
    rows.div_(_norms(rows))
    if norms is not None:
        rows.mul_(norms.unsqueeze(1))


def _norms(rows: Tensor) -> Tensor:
    # A row can only reach norm 0 by an update of exactly -1 along it; the floor keeps
    # even that from becoming NaN.
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(
        torch.finfo(rows.dtype).tiny
    )
