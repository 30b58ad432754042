"""The function that a splice attaches at one site, and the codes that it keeps."""

from collections.abc import Callable

import torch
from torch import Tensor

from sae_lens_ext.errors import NonFinite, ShapeMismatch, UnknownSite
from sae_lens_ext.hosts import PassTracker, Points
from sae_lens_ext.interventions.arithmetic import spliced_activation, with_directions
from sae_lens_ext.interventions.controls import Controls
from sae_lens_ext.interventions.positions import Window
from sae_lens_ext.sae import SparseCode


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
    """Replaces the activation at one site of a splice, by its controls at that time."""

    def __init__(
        self,
        name: str,
        controls: Controls,
        codes: Codes,
        *,
        tracker: PassTracker,
        points: Points,
        at_reach: Callable[[str], object],
    ) -> None:
        """Keep what a run needs.

        Args:
            name: of the site.
            controls: k, edits, the error term and positions of the splice.
            codes: where to keep the code of each run.
            tracker: knows the tokens and the positions of the run in progress.
            points: where listeners can read and change what is computed.
            at_reach: called with ``name`` whenever a run reaches the site.
        """
        self._name = name
        self._controls = controls
        self._codes = codes
        self._tracker = tracker
        self._points = points
        self._at_reach = at_reach

    def __call__(self, x: Tensor) -> Tensor:
        """The activation to put in the place of ``x``.

        Raises:
            ShapeMismatch: the SAE, or a control, does not fit the activation.
            NonFinite: the activation holds NaN or infinity.
        """
        self._at_reach(self._name)
        self._check_shape(x)
        changed_input = self._points.passed("hook_sae_input", lambda: x)
        if changed_input is not None:
            x = changed_input[1]

        window = Window(x.shape[0], x.shape[1], self._tracker.start)
        positions = self._controls.positions_at(self._name)
        mask = positions.mask(window, self._tracker.tokens)
        out = self._everywhere(x, window.within(mask))
        # An SAE may be in another dtype than the model, and on another device.
        out = out.to(device=x.device, dtype=x.dtype)
        if mask is not None:
            token_mask = mask.to(x.device)
            out = out.where(token_mask.unsqueeze(-1), x)

        changed_output = self._points.passed("hook_sae_output", lambda: out)
        if changed_output is None:
            return out
        return changed_output[1]

    def _everywhere(self, x: Tensor, window: Window) -> Tensor:
        """The output at every position, of which those in the window's mask count."""
        sae = self._controls.saes.get(self._name)
        edits = self._controls.edits_at(self._name)
        if sae is None:
            return with_directions(x, edits, window)

        # Left-out positions are zeroed on the way in: their values must not be checked,
        # nor come out as features.
        mask = window.mask
        if mask is not None:
            token_mask = mask.to(x.device)
            x = x.where(token_mask.unsqueeze(-1), 0)

        device = sae.W_enc.device
        k = self._controls.k_at(self._name)
        try:
            # The SAE computes in its own dtype, also under the model's autocast.
            with torch.autocast(device.type, enabled=False):
                out, code = spliced_activation(
                    x.to(device),
                    sae,
                    k,
                    error_term=self._controls.error_term,
                    edits=edits,
                    window=window,
                    site=self._name,
                    points=self._points,
                    extrapolate=self._controls.extrapolate,
                )
        except NonFinite as error:
            raise NonFinite(f"at {self._name}: {error}") from error

        # Before edits: ``Splice.codes`` shows what the model computed.
        if mask is not None:
            code = code.where(mask)
        self._codes[self._name] = code
        return out

    def _check_shape(self, x: Tensor) -> None:
        """Check that the SAE fits the activation.

        Not every width is known before the model runs.
        """
        sae = self._controls.saes.get(self._name)
        if x.ndim == 3 and (sae is None or x.shape[-1] == sae.config.d_model):
            return
        expected = "[batch, pos, d]"
        if sae is not None:
            expected = f"the SAE spliced there has d_model={sae.config.d_model}"
        raise ShapeMismatch(
            f"the activation at {self._name} is {list(x.shape)}; {expected}"
        )
