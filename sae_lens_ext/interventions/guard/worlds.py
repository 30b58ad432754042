"""The rows of a search: the reference, and the same rows at every candidate k.

The reference is the model with nothing left out of it: the activation itself, with what
edits do to the code at the largest k. So edits act on both sides of a divergence, which
then says what the reconstruction does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.hosts import Points
from sae_lens_ext.interventions.guard.part import Part
from sae_lens_ext.interventions.positions import Window
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.interventions.site_splice import SiteSettings, spliced_at
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True, eq=False)
class GivenK:
    """A rule that gives every token a k known beforehand, as far as a code has it."""

    ks: Int[Tensor, "rows pos"]

    def choose(
        self, sae: SAE, x: Float[Tensor, "*batch d_model"], code: SparseCode
    ) -> Int[Tensor, "*batch"]:
        """See ``KRule.choose``."""
        return self.ks.to(code.values.device).clamp(1, code.k)


class Worlds:
    """Replaces activations in runs whose rows are the reference and every candidate.

    ``begin`` says which columns of the user's run the next run is of.
    """

    def __init__(
        self,
        settings: Mapping[str, SiteSettings],
        guarded: frozenset[str],
        window: Window,
        ids: Int[Tensor, "batch pos"],
    ) -> None:
        """Keep what the whole run of the user does.

        Args:
            settings: what it does at every site; k at guarded sites does not count.
            guarded: names of the sites whose k is chosen.
            window: its positions.
            ids: its token ids.
        """
        self._settings = settings
        self._guarded = guarded
        self._window = window
        self._masks = {
            name: site.positions.mask(window, ids) for name, site in settings.items()
        }
        self._columns = slice(0, 0)
        self._ks: Tensor = torch.empty(0)
        self._limit: Tensor | None = None
        self._read: dict[str, Tensor] = {}

    @property
    def largest_k(self) -> int:
        """The largest k that a guarded site can have."""
        saes = [self._settings[name].sae for name in self._guarded]
        return max(sae.config.k or sae.config.d_sae for sae in saes if sae is not None)

    def is_chosen(self) -> Bool[Tensor, "batch pos"]:
        """The tokens that any guarded site splices, which are those that need a k."""
        is_text = self._window.is_text
        chosen = torch.zeros_like(is_text)
        for name in self._guarded:
            mask = self._masks[name]
            chosen = chosen | (is_text if mask is None else mask.to(is_text))
        return chosen

    def begin(self, columns: slice, ks: Int[Tensor, "candidates_batch pos"]) -> None:
        """The next run is of these columns, with these k of all candidates."""
        self._columns = columns
        self._ks = ks
        self._limit = None
        self._read.clear()

    def kept(
        self, ks: Int[Tensor, " batch"], rows: Int[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """How many features the last column of the last run keeps at some k.

        Less than k only where k stands for every active feature: where it is as large
        as an SAE that was not trained at a k.

        Args:
            ks: the k of some candidates.
            rows: their rows, counted from the first candidate's.
        """
        if self._limit is None:
            return ks
        return torch.minimum(ks, self._limit.to(ks.device)[rows])

    def read(self, name: str, source: Tensor) -> None:
        """Remember the activation at the input of a transcoder until its output."""
        self._read[name] = source

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """The activation at one site, in all rows."""
        settings = self._settings[name]
        check_activation(name, x, settings.sae, is_output=True)
        n_columns = self._columns.stop - self._columns.start
        if x.shape[1] != n_columns:
            raise ShapeMismatch(
                f"the activation at {name} has {x.shape[1]} positions in a run of "
                f"{n_columns} tokens, and until_kl chooses a k for every token; choose "
                "a site whose activations are [batch, pos, d]"
            )
        source = self._read.pop(name, None)
        n_rows = self._window.batch
        if len(x) == n_rows:
            # The blocks below have run one row for all.
            x = x.repeat(1 + len(self._ks) // n_rows, 1, 1)
        spliced = partial(self._spliced, name, x, source)

        reference = x[:n_rows]
        if settings.edits:
            whole = replace(settings, error_term=True, k=_largest(settings.sae))
            reference, _ = spliced(whole, slice(0, n_rows), 1)
        if name in self._guarded:
            settings = replace(settings, k=GivenK(self._ks))
        n_candidates = len(self._ks) // n_rows
        candidates, code = spliced(settings, slice(n_rows, None), n_candidates)
        if name in self._guarded and code is not None:
            self._add_limit(settings, code)
        return torch.cat([reference, candidates])

    def _add_limit(self, settings: SiteSettings, code: SparseCode) -> None:
        """Take in how many features a guarded site can keep at the last column."""
        assert settings.sae is not None
        config = settings.sae.config
        n_active = code.l0()[:, -1].clamp(min=1)
        is_all = self._ks[:, -1].to(n_active.device) >= config.d_sae
        limit = n_active.where(is_all, config.d_sae)
        if config.k is not None:
            limit = torch.full_like(limit, config.k)
        if self._limit is not None:
            limit = torch.maximum(limit, self._limit.to(limit.device))
        self._limit = limit

    def _spliced(
        self,
        name: str,
        x: Tensor,
        source: Tensor | None,
        settings: SiteSettings,
        rows: slice,
        n_copies: int,
    ) -> tuple[Tensor, SparseCode | None]:
        part = Part.of(self._window, self._columns, n_copies)
        mask = self._masks[name]
        window = part.within(None if mask is None else part.cut(mask))
        own_source = None if source is None else source[rows]
        return spliced_at(name, x[rows], own_source, settings, window, Points())


def _largest(sae: SAE | None) -> int | None:
    return None if sae is None else sae.config.k
