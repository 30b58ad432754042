"""A decoder whose rows keep their directions, while their norms are trained.

The norms are trained by their logarithms. So that they are nothing but the norms of
``W_dec``, in a checkpoint too, the trained parameter is the change of the logarithm in
one step, and is 0 between steps. Adam's averages do not depend on a parameter's value.

The pre-activations of a feature say which features are active and how they are ordered;
the norm says what the reconstruction takes of an activation. With the encoder at rest,
the norms and ``b_dec`` change the reconstruction at every k, and no activation.
"""

import torch
from torch import Tensor, nn

from sae_lens_ext.sae import SAE

_NAME = "decoder_log_norm"


def freeze_directions(sae: SAE) -> None:
    """Let training change the norms of the decoder's rows alone."""
    sae.register_parameter(_NAME, nn.Parameter(torch.zeros_like(sae.b_enc)))


def release_directions(sae: SAE) -> None:
    """Undo ``freeze_directions``; the norms stay as they are."""
    sae._parameters.pop(_NAME, None)


def log_norm(sae: SAE) -> nn.Parameter | None:
    """The trained change of the norms; None where directions are trained too."""
    return sae._parameters.get(_NAME)


@torch.no_grad()
def move_gradient_to_norms(sae: SAE, change: nn.Parameter) -> None:
    """Turn the gradient of the rows into that of the logarithms of their norms."""
    gradient: Tensor | None = sae.W_dec.grad
    if gradient is not None:
        change.grad = torch.linalg.vecdot(gradient, sae.W_dec)
    sae.W_dec.grad = None


@torch.no_grad()
def apply_to_norms(sae: SAE, change: nn.Parameter) -> None:
    """Scale the rows by what a step has changed, and set the change back to 0."""
    sae.W_dec.mul_(change.exp().unsqueeze(1))
    change.zero_()
