"""Give features that are dead another start."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from sae_lens_ext.sae import SAE
from sae_lens_ext.sae.prefixes import squared_errors

# Of the norm of the encoder's other columns: a feature that comes back shouting would
# push others out.
_ENCODER_SHARE = 0.2


@torch.no_grad()
def revive(
    sae: SAE,
    optimizer: Optimizer,
    is_dead: Bool[Tensor, " d_sae"],
    u: Float[Tensor, "batch d_model"],
    target: Float[Tensor, "batch d_out"],
    k: int,
    generator: torch.Generator,
) -> Bool[Tensor, " d_sae"]:
    """Point dead features to tokens that are reconstructed badly.

    1. Draw a token for every dead feature, with a probability proportional to the
       square of its squared error.
    2. The decoder row becomes the target there, without ``b_dec``, at unit norm. The
       encoder column becomes the input there, at a fifth of the mean norm of the
       columns of live features. The bias becomes 0.
    3. Adam's averages of these weights become 0.

    Args:
        sae: the SAE, changed in place.
        optimizer: its optimizer, changed in place.
        is_dead: the dead features.
        u: the inputs of a batch, centred and scaled.
        target: what to reconstruct from them, centred and scaled.
        k: features per token.
        generator: draws the tokens; on the CPU.

    Returns:
        Which features were revived: all that are dead, or as many as there are tokens
        with an error.

    Source: Bricken et al. 2023, "Towards Monosemanticity: Decomposing Language Models
        With Dictionary Learning", appendix "Neuron Resampling".
    """
    is_revived = torch.zeros_like(is_dead)
    if not is_dead.any():
        return is_revived

    code = sae.encode_normalized(u, k)
    without_bias = target - sae.b_dec
    errors = squared_errors(without_bias, code, sae.W_dec)[:, -1].double()
    chances = errors.square().cpu()

    dead = is_dead.nonzero().flatten()
    n_revived = min(len(dead), int((chances > 0).sum()))
    if not n_revived:
        return is_revived
    drawn = torch.multinomial(chances, n_revived, generator=generator).to(u.device)
    revived = dead[:n_revived]

    inputs = u[drawn]
    if sae.config.apply_b_dec_to_input:
        inputs = inputs - sae.b_dec
    norms = sae.W_enc.norm(dim=0)
    # Where all are dead, all norms count.
    is_live = ~is_dead if not is_dead.all() else is_dead
    norm = _ENCODER_SHARE * norms[is_live].mean()

    sae.W_enc[:, revived] = norm * _unit(inputs).T
    sae.b_enc[revived] = 0
    sae.W_dec[revived] = _unit(without_bias[drawn])
    _forget(sae, optimizer, revived)
    is_revived[revived] = True
    return is_revived


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def _forget(sae: SAE, optimizer: Optimizer, features: Tensor) -> None:
    """Set Adam's averages of the weights of some features to 0."""
    for name, parameter in sae.named_parameters():
        state: dict[str, Any] = optimizer.state.get(parameter, {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key not in state or name not in ("W_enc", "b_enc", "W_dec"):
                continue
            # Features are the last axis of the encoder, the first one of the rest.
            averages = state[key].T if name == "W_enc" else state[key]
            averages[features] = 0
