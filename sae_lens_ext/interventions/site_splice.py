"""What a splice does to the activation at one site, at the tokens that it acts on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_lens_ext.errors import NonFinite
from sae_lens_ext.hosts import Points
from sae_lens_ext.interventions.arithmetic import (
    ErrorTerm,
    spliced_activation,
    with_directions,
)
from sae_lens_ext.interventions.controls import Controls
from sae_lens_ext.interventions.dial import CheckedK
from sae_lens_ext.interventions.edits import Edit
from sae_lens_ext.interventions.points import PointsOfAllTokens
from sae_lens_ext.interventions.positions import SplicedPositions, Window
from sae_lens_ext.interventions.until_kl import UntilKL
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True)
class SiteSettings:
    """What a run does at one site, from its beginning to its end.

    Attributes:
        sae: the SAE; None where there is none.
        k: the features to keep; None for every active one, and without an SAE. A bound
            stands for the numbers that are chosen by it.
        edits: what to do to features, and directions to add.
        error_term: whether to add back what the SAE leaves out.
        positions: where to act.
        extrapolate: whether k may exceed the k that the SAE was trained at.
    """

    sae: SAE | None
    k: CheckedK | UntilKL
    edits: tuple[Edit, ...]
    error_term: ErrorTerm
    positions: SplicedPositions
    extrapolate: bool

    @classmethod
    def of(cls, controls: Controls, name: str) -> "SiteSettings":
        """The controls of a splice at a site, as they are now."""
        sae = controls.saes.get(name)
        return cls(
            sae,
            None if sae is None else controls.k_at(name),
            controls.edits_at(name),
            controls.error_term,
            controls.positions_at(name),
            controls.extrapolate,
        )


@dataclass(frozen=True)
class _Inputs:
    """What a splice computes from at one site.

    Attributes:
        x: the activation at the site.
        source: the activation at the input of a transcoder; None for an autoencoder.
    """

    x: Tensor
    source: Tensor | None

    def are_finite(self) -> Tensor:
        """The tokens whose activations hold numbers only."""
        finite = torch.isfinite(self.x).all(dim=-1)
        if self.source is not None:
            finite = finite & torch.isfinite(self.source).all(dim=-1).to(finite.device)
        return finite

    def where(self, mask: Tensor) -> "_Inputs":
        """The same with zeros at the tokens outside of ``mask``."""
        return _Inputs(
            _zeroed(self.x, mask),
            None if self.source is None else _zeroed(self.source, mask),
        )


def spliced_at(
    site: str,
    x: Tensor,
    source: Tensor | None,
    settings: SiteSettings,
    window: Window,
    points: Points,
) -> tuple[Tensor, SparseCode | None]:
    """The activation to put in the place of ``x``, and its code before edits.

    Tokens outside of the window's mask keep their bits, and their code is zero.

    Args:
        site: name of the site.
        x: the activation.
        source: the activation at the input of a transcoder; None for an autoencoder.
        settings: what to do.
        window: the positions of the run in progress.
        points: where listeners can read and change what is computed.

    Raises:
        ShapeMismatch: a control does not fit the activation.
        NonFinite: the activation holds NaN or infinity at a token in the mask.
    """
    out, code = _everywhere(site, x, source, settings, window, points)
    # An SAE may be in another dtype than the model, and on another device.
    out = out.to(device=x.device, dtype=x.dtype)
    if window.mask is not None:
        token_mask = window.mask.to(x.device).unsqueeze(-1)
        out = out.where(token_mask, x)
    return out, code


def _everywhere(
    site: str,
    x: Tensor,
    source: Tensor | None,
    settings: SiteSettings,
    window: Window,
    points: Points,
) -> tuple[Tensor, SparseCode | None]:
    """The output at every position, of which those in the window's mask count."""
    if settings.sae is None:
        return with_directions(x, settings.edits, window), None

    # Left-out positions are zeroed on the way in: their values must not be checked,
    # nor come out as features.
    mask = window.mask
    inputs = _Inputs(x, source)
    if mask is not None:
        # Tokens that are left alone are not checked: they may hold NaN.
        is_finite = inputs.are_finite()
        finite = inputs.where(is_finite)
        points = PointsOfAllTokens(
            points,
            mask,
            is_finite,
            lambda recorder: _spliced(
                site,
                finite,
                settings,
                window.within(None),
                (),
                recorder,
            ),
        )
        inputs = inputs.where(mask)

    out, code = _spliced(site, inputs, settings, window, settings.edits, points)
    # Before edits: ``Splice.codes`` shows what the model computed.
    return out, code if mask is None else code.where(mask)


def _zeroed(x: Tensor, mask: Tensor) -> Tensor:
    return x.where(mask.to(x.device).unsqueeze(-1), 0)


def _spliced(
    site: str,
    inputs: _Inputs,
    settings: SiteSettings,
    window: Window,
    edits: tuple[Edit, ...],
    points: Points,
) -> tuple[Tensor, SparseCode]:
    """The output and the code of ``spliced_activation``, on the SAE's device."""
    sae = settings.sae
    assert sae is not None
    assert not isinstance(settings.k, UntilKL)
    device = sae.W_enc.device
    source = inputs.source
    if source is not None:
        source = source.to(device)
    try:
        # The SAE computes in its own dtype, also under the model's autocast.
        with torch.autocast(device.type, enabled=False):
            return spliced_activation(
                inputs.x.to(device),
                sae,
                settings.k,
                error_term=settings.error_term,
                edits=edits,
                window=window,
                site=site,
                points=points,
                extrapolate=settings.extrapolate,
                source=source,
            )
    except NonFinite as error:
        raise NonFinite(f"at {site}: {error}") from error
