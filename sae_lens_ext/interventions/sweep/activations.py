"""The bare model's activations at one site of a sweep, and the SAE's error on them."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

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
        k: int,
        *,
        extrapolate: bool,
    ) -> None:
        """Encode ``x`` at ``k``, the largest of the sweep."""
        self.sae = sae
        self.x = x
        self.mask = mask
        self._extrapolate = extrapolate

        # Zeroed on the way in: positions outside must not be checked for NaN.
        masked = x.where(mask.unsqueeze(-1), 0)
        self.code = self.encode(masked, k)
        self.mean = x[mask].mean(0)

        norms = x.float().norm(dim=-1)
        median = norms[mask].median()
        is_usual = norms <= _OUTLIER_NORM * median
        self.is_inlier = mask & is_usual

    @property
    def n_spliced(self) -> int:
        """The number of tokens that are spliced."""
        return int(self.mask.sum())

    @property
    def n_outliers(self) -> int:
        """The number of spliced tokens whose norm is above 3 times the median."""
        n_inliers = int(self.is_inlier.sum())
        return self.n_spliced - n_inliers

    def encode(self, x: Float[Tensor, "batch pos d_model"], k: int) -> SparseCode:
        """The code of other activations at this site, on the device of ``x``."""
        x_on_device = x.to(self.sae.W_enc.device)
        code = self.sae.encode(x_on_device, k, extrapolate=self._extrapolate)
        return code.to(x.device)

    def fidelity(self, k: int) -> Fidelity:
        """How well the SAE reconstructs the bare model's activations at this k."""
        code = self.code.prefix(k)
        recons = self.sae.decode(code)
        l0_per_token = code.l0()[self.mask]
        l0 = l0_per_token.double().mean().item()

        fvu = FVU()
        fvu.update(self.x[self.mask], recons[self.mask])

        x_of_inliers = self.x[self.is_inlier]
        recons_of_inliers = recons[self.is_inlier]
        fvu_of_inliers = FVU()
        fvu_of_inliers.update(x_of_inliers, recons_of_inliers)
        return Fidelity(l0, fvu.value(), fvu_of_inliers.value())
