"""The function that a splice attaches at one site, and the codes that it keeps."""

from collections.abc import Callable

from torch import Tensor

from sae_lens_ext.errors import UnknownSite
from sae_lens_ext.hosts import PassTracker, Points
from sae_lens_ext.interventions.positions import Window
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.interventions.site_splice import SiteSettings, spliced_at
from sae_lens_ext.interventions.sites import SiteName
from sae_lens_ext.sae import SAE, SparseCode


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
        self._at_reach(self._name)
        settings: SiteSettings | None = run.settings.get(self._name)
        if settings is None:
            # A run by which ``until_kl`` chooses k, and in which it acts in our place.
            return x
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
        out, code = spliced_at(
            self._name,
            x,
            source,
            settings,
            window.within(mask),
            self._points,
        )
        # After every operation: a repetition must save what the run has saved. It is
        # of an earlier run than the last, whose codes are asked for.
        if code is not None and not self._tracker.is_repeating:
            self._codes[self._name] = code

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
