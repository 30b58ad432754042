"""The bare model's activations at one site of a sweep, and the SAE's error on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.hosts import Site
from sae_lens_ext.interventions.encoding import encode_at
from sae_lens_ext.interventions.shapes import check_activation
from sae_lens_ext.interventions.sites import Placement
from sae_lens_ext.sae import FVU, SAE, SparseCode

# A token this many times the median norm is an outlier: a handful of them can carry
# most of the squared error.
_OUTLIER_NORM = 3.0


@dataclass(frozen=True)
class Fidelity:
    """How well an SAE reconstructs the activations at one site, at one k.

    Attributes:
        l0: mean number of active features per token.
        fvu: fraction of variance unexplained.
        fvu_without_outliers: the same over the tokens that are not outliers.
    """

    l0: float
    fvu: float
    fvu_without_outliers: float


class SiteActivations:
    """The bare model's activations at one site, encoded once at the largest k.

    Every smaller k is a prefix of that code.

    Attributes:
        sae: the SAE of the site.
        x: the activations.
        source: those that a transcoder encodes; None for an autoencoder, which encodes
            ``x``.
        mask: the positions that are spliced.
        code: the code of ``x``, zeros outside of ``mask``.
        mean: the mean activation over ``mask``.
        is_inlier: ``mask`` without outliers.
    """

    def __init__(
        self,
        sae: SAE,
        x: Float[Tensor, "batch pos d_model"],
        mask: Bool[Tensor, "batch pos"],
        ks: Sequence[int | None],
        *,
        extrapolate: bool,
        source: Float[Tensor, "batch pos d_in"] | None = None,
    ) -> None:
        """Encode at the largest k of the sweep."""
        self.sae = sae
        self.x = x
        self.source = source
        self.mask = mask
        self._extrapolate = extrapolate

        encoded = x if source is None else source
        self.code = self.encode(encoded, mask, self._largest(ks))
        self.mean = x[mask].mean(0)

        norms = x.float().norm(dim=-1)
        median = norms[mask].median()
        is_usual = norms <= _OUTLIER_NORM * median
        self.is_inlier = mask & is_usual

    @classmethod
    def of(
        cls,
        place: Placement,
        captured: Mapping[Site, Tensor],
        mask: Bool[Tensor, "batch pos"],
        ks: Sequence[int | None],
        extrapolate: bool,
    ) -> "SiteActivations":
        """Those of the places of an SAE, among captured activations.

        Raises:
            ShapeMismatch: the SAE has another width.
        """
        assert place.sae is not None
        x = captured[place.site]
        check_activation(place.site.name, x, place.sae, is_output=True)
        source = None
        if place.source is not None:
            source = captured[place.source]
            check_activation(place.source.name, source, place.sae)
        return cls(place.sae, x, mask, ks, extrapolate=extrapolate, source=source)

    @property
    def n_spliced(self) -> int:
        """The number of tokens that are spliced."""
        return int(self.mask.sum())

    @property
    def n_outliers(self) -> int:
        """The number of spliced tokens whose norm is above 3 times the median."""
        n_inliers = int(self.is_inlier.sum())
        return self.n_spliced - n_inliers

    def _largest(self, ks: Sequence[int | None]) -> int | None:
        """The largest k; None where that is every active feature."""
        numbers = [self.sae.config.checked_k(k, extrapolate=True) for k in ks]
        if None in numbers:
            return None
        return max(k for k in numbers if k is not None)

    def code_at(self, k: int | None) -> SparseCode:
        """The bare model's code at this k."""
        return self.code.at_most(self.sae.config.checked_k(k, extrapolate=True))

    def encode(
        self,
        x: Float[Tensor, "batch pos d_in"],
        mask: Bool[Tensor, "batch pos"],
        k: int | None,
    ) -> SparseCode:
        """The code of activations that are spliced at ``mask``, on their device."""
        x_on_device = x.to(self.sae.W_enc.device)
        code = encode_at(self.sae, x_on_device, mask, k, extrapolate=self._extrapolate)
        return code.to(x.device)

    def reconstruct(
        self, code: SparseCode, source: Float[Tensor, "batch pos d_in"] | None
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the SAE writes, from a code and what a transcoder encoded."""
        recons = self.sae.decode(code)
        if source is None:
            return recons
        added = self.sae.skip(source.to(recons.device))
        return recons if added is None else recons + added

    def fidelity(self, k: int | None) -> Fidelity:
        """How well the SAE reconstructs the bare model's activations at this k."""
        code = self.code_at(k)
        recons = self.reconstruct(code, self.source)
        l0_per_token = code.l0()[self.mask]
        l0 = l0_per_token.double().mean().item()

        fvu = FVU()
        fvu.update(self.x[self.mask], recons[self.mask])

        x_of_inliers = self.x[self.is_inlier]
        recons_of_inliers = recons[self.is_inlier]
        fvu_of_inliers = FVU()
        fvu_of_inliers.update(x_of_inliers, recons_of_inliers)
        return Fidelity(l0, fvu.value(), fvu_of_inliers.value())
