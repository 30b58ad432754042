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
from sae_lens_ext.interventions.sites import SiteName
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True)
class SiteSettings:
    """What a run does at one site, from its beginning to its end.

    Attributes:
        sae: the SAE; None where there is none.
        k: the features to keep; None for every active one, and without an SAE.
        edits: what to do to features, and directions to add.
        error_term: whether to add back what the SAE leaves out.
        positions: where to act.
        extrapolate: whether k may exceed the k that the SAE was trained at.
    """

    sae: SAE | None
    k: CheckedK
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


def _zeroed(x: Tensor, mask: Tensor) -> Tensor:
    return x.where(mask.to(x.device).unsqueeze(-1), 0)


class Codes(dict[str, SparseCode]):
    """Codes by site name, in either spelling; the error says why one is missing."""

    def __init__(self, name_of: Callable[[SiteName], str]) -> None:
        """Start empty; ``name_of`` gives the name of a site from any spelling of it."""
        super().__init__()
        self._name_of = name_of

    def __missing__(self, site: SiteName) -> SparseCode:
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
        points: Points | None = None,
        at_reach: Callable[[str], object] = lambda _: None,
        has_source: bool = False,
    ) -> None:
        """Keep what every run needs.

        Args:
            name: of the site.
            codes: where to keep the code of each run.
            tracker: knows the run in progress, whose settings are ``SiteSettings`` by
                site name.
            points: where listeners can read and change what is computed; None without
                any.
            at_reach: called with ``name`` whenever a run reaches the site.
            has_source: whether the SAE is a transcoder, which encodes the activation
                that ``read`` was called with.
        """
        self._name = name
        self._codes = codes
        self._tracker = tracker
        self._points = Points() if points is None else points
        self._at_reach = at_reach
        self._has_source = has_source
        self._source: Tensor | None = None

    def read(self, source: Tensor) -> None:
        """Remember the activation at the input of a transcoder until its output."""
        self._source = source

    def __call__(self, x: Tensor) -> Tensor:
        """The activation to put in the place of ``x``.

        Raises:
            ShapeMismatch: the SAE, or a control, does not fit the activation.
            InvalidArgument: the text of a row is interrupted by padding.
            UnknownSite: a transcoder's input was not reached before its output.
            NonFinite: the activation holds NaN or infinity.
        """
        run = self._tracker.current()
        settings: SiteSettings = run.settings[self._name]
        self._at_reach(self._name)
        check_activation(self._name, x, settings.sae, is_output=True)
        source = self._taken_source(settings.sae)
        encoded = x if source is None else source
        changed_input = self._points.passed("hook_sae_input", lambda: encoded)
        if changed_input is not None and source is None:
            x = changed_input[1]
        elif changed_input is not None:
            source = changed_input[1]

        window = Window(run.text(x.shape[0], x.shape[1]))
        mask = settings.positions.mask(window, run.tokens)
        out = self._everywhere(x, source, settings, window.within(mask))
        # An SAE may be in another dtype than the model, and on another device.
        out = out.to(device=x.device, dtype=x.dtype)
        if mask is not None:
            token_mask = mask.to(x.device)
            out = out.where(token_mask.unsqueeze(-1), x)

        changed_output = self._points.passed("hook_sae_output", lambda: out)
        if changed_output is None:
            return out
        return changed_output[1]

    def _taken_source(self, sae: SAE | None) -> Tensor | None:
        """The activation at a transcoder's input, in this run; None without one."""
        if not self._has_source:
            return None
        source = self._source
        # Not to be taken for the source of another run.
        self._source = None
        if source is None:
            raise UnknownSite(
                f"the input of the transcoder at {self._name} did not fire before its "
                "output; choose an input that the model computes earlier in every run"
            )
        check_activation(f"the input of {self._name}", source, sae)
        return source

    def _everywhere(
        self,
        x: Tensor,
        source: Tensor | None,
        settings: SiteSettings,
        window: Window,
    ) -> Tensor:
        """The output at every position, of which those in the window's mask count."""
        if settings.sae is None:
            return with_directions(x, settings.edits, window)

        # Left-out positions are zeroed on the way in: their values must not be checked,
        # nor come out as features.
        mask = window.mask
        inputs = _Inputs(x, source)
        points = self._points
        if mask is not None:
            # Tokens that are left alone are not checked: they may hold NaN.
            is_finite = inputs.are_finite()
            finite = inputs.where(is_finite)
            points = PointsOfAllTokens(
                points,
                mask,
                is_finite,
                lambda recorder: self._spliced(
                    finite, settings, window.within(None), (), recorder
                ),
            )
            inputs = inputs.where(mask)

        out, code = self._spliced(inputs, settings, window, settings.edits, points)
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
        inputs: "_Inputs",
        settings: SiteSettings,
        window: Window,
        edits: tuple[Edit, ...],
        points: Points,
    ) -> tuple[Tensor, SparseCode]:
        """The output and the code of ``spliced_activation``, on the SAE's device."""
        sae = settings.sae
        assert sae is not None
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
                    site=self._name,
                    points=points,
                    extrapolate=settings.extrapolate,
                    source=source,
                )
        except NonFinite as error:
            raise NonFinite(f"at {self._name}: {error}") from error
