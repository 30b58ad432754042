"""Give features that are dead another start."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from sae_lens_ext.sae import SAE
from sae_lens_ext.sae.prefixes import squared_errors
from sae_lens_ext.training.parallel import ALONE, Ranks, local

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
    *,
    ranks: Ranks = ALONE,
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
        ranks: the processes that share the training; all have the same batch.

    Returns:
        Which features were revived: all that are dead, or as many as there are tokens
        with an error.

    Source: Bricken et al. 2023, "Towards Monosemanticity: Decomposing Language Models
        With Dictionary Learning", appendix "Neuron Resampling".
    """
    is_revived = torch.zeros_like(is_dead)
    if not is_dead.any():
        return is_revived

    without_bias = target - local(sae.b_dec)
    share = ranks.share(len(u))
    seen = ranks.seen(sae)
    code = seen.encode_normalized(share.of(u), k)
    of_share = squared_errors(share.of(without_bias), code, seen.W_dec)[:, -1]
    errors = ranks.by_token(of_share, len(u)).double()
    chances = errors.square().cpu()

    dead = is_dead.nonzero().flatten()
    n_revived = min(len(dead), int((chances > 0).sum()))
    if not n_revived:
        return is_revived
    drawn = torch.multinomial(chances, n_revived, generator=generator).to(u.device)
    revived = dead[:n_revived]

    inputs = u[drawn]
    if sae.config.apply_b_dec_to_input:
        inputs = inputs - local(sae.b_dec)
    norms = ranks.by_feature(local(sae.W_enc).norm(dim=0))
    # Where all are dead, all norms count.
    is_live = ~is_dead if not is_dead.all() else is_dead
    norm = _ENCODER_SHARE * norms[is_live].mean()

    is_revived[revived] = True

    # Of these, the ones whose weights are here.
    features = ranks.features(sae.config.d_sae)
    is_here = (revived >= features.start) & (revived < features.stop)
    here = revived[is_here] - features.start
    local(sae.W_enc)[:, here] = norm * _unit(inputs[is_here]).T
    local(sae.b_enc)[here] = 0
    local(sae.W_dec)[here] = _unit(without_bias[drawn[is_here]])
    _forget(sae, optimizer, here)
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
            averages = local(state[key])
            averages = averages.T if name == "W_enc" else averages
            averages[features] = 0
