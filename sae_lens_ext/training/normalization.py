"""What a batch of a stream becomes before an SAE or a transcoder sees it.

Activations are centred and scaled by the constants of their site. An SAE carries them
as ``activation_mean`` and ``activation_scale``. A transcoder has two pairs, which are
folded into its weights once it is trained: with its input as u = (x - m) * s and its
output as v = (y - n) * t,

    y = n + (values @ W_dec + b_dec + u @ W_skip) / t

where the values are those of the pre-activations u @ W_enc + b_enc. Dividing these by
the output's scale, thresholds included, changes neither which are active nor their
order, and lets the decoder's rows keep their norm.

With a metric of errors, all of that is about the activations in its coordinates: both
sides of an SAE, the output of a transcoder. A trained SAE is brought back from them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.sae import SAE
from sae_lens_ext.training.metric import ErrorMetric
from sae_lens_ext.training.stream import SiteStatistics

# The underscore: every site may have a width of its own.
Batch = Mapping[str, Float[Tensor, "token _d"]]
"""Activations of the same tokens, by site."""


class Normalization(NamedTuple):
    """The sites that are trained on, and their constants."""

    hook_name: str
    """The site of the input."""
    hook_name_out: str | None
    """The site of a transcoder's output; None for an SAE."""
    statistics: Mapping[str, SiteStatistics]
    """The constants of the one or two sites, in the coordinates of the metric."""
    metric: ErrorMetric | None = None
    """What errors of what is reconstructed count by; None for their squares."""

    def pair(
        self, batch: Batch, device: torch.device | str
    ) -> tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_out"] | None]:
        """The input and the target of a batch, centred and scaled, in float32.

        The target of an SAE, which is its input, is None.
        """
        u = self._normalized(batch, self.hook_name, device)
        if self.hook_name_out is None:
            return u, None
        return u, self._normalized(batch, self.hook_name_out, device)

    def _normalized(
        self, batch: Batch, site: str, device: torch.device | str
    ) -> Float[Tensor, "token d"]:
        statistics = self.statistics[site]
        x = batch[site].to(device, torch.float32)
        if self.metric is not None and site == self.metric.hook_name:
            x = self.metric.apply(x)
        mean = statistics.mean.to(device)
        scale = statistics.scale.to(device)
        return (x - mean) * scale

    def installed(self, sae: SAE) -> SAE:
        """An SAE with the constants of its site; a transcoder as it is."""
        if self.hook_name_out is None:
            statistics = self.statistics[self.hook_name]
            sae.activation_mean = statistics.mean.to(sae.W_enc)
            sae.activation_scale = statistics.scale.to(sae.W_enc)
        return sae

    def errors(self, errors: Float[Tensor, "*batch d_out"]) -> Tensor:
        """Errors of what is reconstructed without the metric's change, up to a scale.

        Args:
            errors: as an SAE in training makes them.
        """
        return errors if self.metric is None else self.metric.errors(errors)

    def finished(self, sae: SAE) -> SAE:
        """What a trained SAE or transcoder is on activations as they are."""
        if self.hook_name_out is not None:
            sae = self._folded(sae)
        return sae if self.metric is None else self.metric.undo(sae)

    def _folded(self, sae: SAE) -> SAE:
        assert self.hook_name_out is not None
        source = self.statistics[self.hook_name]
        target = self.statistics[self.hook_name_out]
        # In float64, because means of residual streams are large.
        weights = {
            name: tensor.detach().double() for name, tensor in sae.weights().items()
        }
        folded = folded_transcoder(weights, source, target)
        in_float32 = {name: tensor.float() for name, tensor in folded.items()}
        return SAE.from_tensors(sae.config, **in_float32).eval()


def folded_transcoder(
    weights: Mapping[str, Tensor], source: SiteStatistics, target: SiteStatistics
) -> dict[str, Tensor]:
    """The weights that do on x what ``weights`` do on centred and scaled activations.

    Args:
        weights: of a transcoder that does not subtract ``b_dec`` from its input.
        source: the constants of its input.
        target: the constants of its output.
    """
    W_enc = weights["W_enc"]
    mean = source.mean.to(W_enc)
    in_scale = source.scale.to(W_enc)
    out_scale = target.scale.to(W_enc)

    ratio = in_scale / out_scale
    folded = dict(weights)
    folded["W_enc"] = W_enc * ratio
    folded["b_enc"] = weights["b_enc"] / out_scale - mean @ folded["W_enc"]
    folded["b_dec"] = weights["b_dec"] / out_scale + target.mean.to(W_enc)
    if "threshold" in weights:
        folded["threshold"] = weights["threshold"] / out_scale
    if "W_skip" in weights:
        folded["W_skip"] = weights["W_skip"] * ratio
        folded["b_dec"] = folded["b_dec"] - mean @ folded["W_skip"]
    return folded


def unfolded_transcoder(
    weights: Mapping[str, Tensor], source: SiteStatistics, target: SiteStatistics
) -> dict[str, Tensor]:
    """The inverse of ``folded_transcoder``: the weights for centred and scaled ones."""
    W_enc = weights["W_enc"]
    mean = source.mean.to(W_enc)
    in_scale = source.scale.to(W_enc)
    out_scale = target.scale.to(W_enc)

    ratio = out_scale / in_scale
    unfolded = dict(weights)
    unfolded["W_enc"] = W_enc * ratio
    unfolded["b_enc"] = (weights["b_enc"] + mean @ W_enc) * out_scale
    b_dec = weights["b_dec"] - target.mean.to(W_enc)
    if "threshold" in weights:
        unfolded["threshold"] = weights["threshold"] * out_scale
    if "W_skip" in weights:
        b_dec = b_dec + mean @ weights["W_skip"]
        unfolded["W_skip"] = weights["W_skip"] * ratio
    unfolded["b_dec"] = b_dec * out_scale
    return unfolded
