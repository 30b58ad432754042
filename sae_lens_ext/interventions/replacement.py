"""The function that a splice attaches at one site, and the codes that it keeps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_lens_ext.errors import NonFinite, UnknownSite
from sae_lens_ext.hosts import PassTracker, Points
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
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True)
class SiteSettings:
    """What a run does at one site, from its beginning to its end.

    Attributes:
        sae: the SAE; None where there is none.
        k: the features to keep; None without an SAE.
        edits: what to do to features, and directions to add.
        error_term: whether to add back what the SAE leaves out.
        positions: where to act.
        extrapolate: whether k may exceed the k that the SAE was trained at.
    """

    sae: SAE | None
    k: CheckedK | None
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


class Codes(dict[str, SparseCode]):
    """Codes by site name, in either spelling; the error says why one is missing."""

    def __init__(self, name_of: Callable[[str], str]) -> None:
        """Start empty; ``name_of`` gives the name of a site from any spelling of it."""
        super().__init__()
        self._name_of = name_of

    def __missing__(self, site: str) -> SparseCode:
        """The code under another spelling of the name.

        Raises:
            UnknownSite: there is no code of that site.
        """
        name = self._name_of(site)
        if name in self:
            return self[name]
        raise UnknownSite(
            f"there is no code of {name}: either it has no SAE, or the model has not "
            "run since the splice became active"
        )


class Replacement:
    """Replaces the activation at one site of a splice, by the settings of the run."""

    def __init__(
        self,
        name: str,
        codes: Codes,
        *,
        tracker: PassTracker,
        points: Points,
        at_reach: Callable[[str], object],
    ) -> None:
        """Keep what every run needs.

        Args:
            name: of the site.
            codes: where to keep the code of each run.
            tracker: knows the run in progress, whose settings are ``SiteSettings`` by
                site name.
            points: where listeners can read and change what is computed.
            at_reach: called with ``name`` whenever a run reaches the site.
        """
        self._name = name
        self._codes = codes
        self._tracker = tracker
        self._points = points
        self._at_reach = at_reach

    def __call__(self, x: Tensor) -> Tensor:
        """The activation to put in the place of ``x``.

        Raises:
            ShapeMismatch: the SAE, or a control, does not fit the activation.
            InvalidArgument: the text of a row is interrupted by padding.
            NonFinite: the activation holds NaN or infinity.
        """
        run = self._tracker.current()
        settings: SiteSettings = run.settings[self._name]
        self._at_reach(self._name)
        check_activation(self._name, x, settings.sae)
        changed_input = self._points.passed("hook_sae_input", lambda: x)
        if changed_input is not None:
            x = changed_input[1]

        window = Window(run.text(x.shape[0], x.shape[1]))
        mask = settings.positions.mask(window, run.tokens)
        out = self._everywhere(x, settings, window.within(mask))
        # An SAE may be in another dtype than the model, and on another device.
        out = out.to(device=x.device, dtype=x.dtype)
        if mask is not None:
            token_mask = mask.to(x.device)
            out = out.where(token_mask.unsqueeze(-1), x)

        changed_output = self._points.passed("hook_sae_output", lambda: out)
        if changed_output is None:
            return out
        return changed_output[1]

    def _everywhere(self, x: Tensor, settings: SiteSettings, window: Window) -> Tensor:
        """The output at every position, of which those in the window's mask count."""
        if settings.sae is None:
            return with_directions(x, settings.edits, window)

        # Left-out positions are zeroed on the way in: their values must not be checked,
        # nor come out as features.
        mask = window.mask
        x_spliced = x
        points = self._points
        if mask is not None:
            token_mask = mask.to(x.device)
            x_spliced = x.where(token_mask.unsqueeze(-1), 0)
            # Tokens that are left alone are not checked: they may hold NaN.
            is_finite = torch.isfinite(x).all(dim=-1)
            finite = x.where(is_finite.unsqueeze(-1), 0)
            points = PointsOfAllTokens(
                points,
                mask,
                is_finite,
                lambda recorder: self._spliced(
                    finite, settings, window.within(None), (), recorder
                ),
            )

        out, code = self._spliced(x_spliced, settings, window, settings.edits, points)
        # Before edits: ``Splice.codes`` shows what the model computed.
        if mask is not None:
            code = code.where(mask)
        # After every operation: a repetition must save what the run has saved. It is
        # of an earlier run than the last, whose codes are asked for.
        if not self._tracker.is_repeating:
            self._codes[self._name] = code
        return out

    def _spliced(
        self,
        x: Tensor,
        settings: SiteSettings,
        window: Window,
        edits: tuple[Edit, ...],
        points: Points,
    ) -> tuple[Tensor, SparseCode]:
        """The output and the code of ``spliced_activation``, on the SAE's device."""
        sae = settings.sae
        assert sae is not None
        assert settings.k is not None
        device = sae.W_enc.device
        try:
            # The SAE computes in its own dtype, also under the model's autocast.
            with torch.autocast(device.type, enabled=False):
                return spliced_activation(
                    x.to(device),
                    sae,
                    settings.k,
                    error_term=settings.error_term,
                    edits=edits,
                    window=window,
                    site=self._name,
                    points=points,
                    extrapolate=settings.extrapolate,
                )
        except NonFinite as error:
            raise NonFinite(f"at {self._name}: {error}") from error
