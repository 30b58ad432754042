"""One step of training an SAE, which keeps the decoder's rows at unit norm."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.objectives import Loss, Objective
from sae_lens_ext.sae import SAE

# Few rows at a time, so that the products of a row with its gradient are still in the
# cache when they are added up.
_ROWS = 256


def train_step(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    u: Float[Tensor, "batch d_model"],
    k: int,
) -> Loss:
    """Change the SAE's weights once; for a training loop of your own.

    1. Objective and gradients.
    2. Remove the part of the decoder's gradient along its rows, so that Adam does not
       spend it on a length that is then divided out.
    3. The optimizer's step.
    4. Scale the decoder's rows back to unit norm.

    Args:
        sae: the SAE to train.
        optimizer: the optimizer of ``sae.parameters()``.
        objective: the loss to minimise.
        u: activations that are centred and scaled already.
        k: features per token.

    Returns:
        The loss before the step, detached, and the batch's code.
    """
    optimizer.zero_grad()
    # The caller may have switched gradients off.
    with torch.enable_grad():
        loss, code = objective(sae, u, k)
    loss.backward()
    _remove_parallel_gradient(sae)

    optimizer.step()
    optimizer.zero_grad()
    _unit_norm_decoder(sae)

    return Loss(loss.detach(), code)


@torch.no_grad()
def _remove_parallel_gradient(sae: SAE) -> None:
    gradient: Any = sae.W_dec.grad
    if gradient is None:  # the decoder is not trained
        return
    for grad, rows in zip(gradient.split(_ROWS), sae.W_dec.split(_ROWS), strict=True):
        grad.addcmul_(torch.linalg.vecdot(grad, rows).unsqueeze(1), rows, value=-1)


@torch.no_grad()
def _unit_norm_decoder(sae: SAE) -> None:
    sae.W_dec.div_(_norms(sae.W_dec))


def _norms(rows: Tensor) -> Tensor:
    # A row can only reach norm 0 by an update of exactly -1 along it; the floor keeps
    # even that from becoming NaN.
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(
        torch.finfo(rows.dtype).tiny
    )
