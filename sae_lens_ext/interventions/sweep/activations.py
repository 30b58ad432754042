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

        self.code = self.encode(x.where(mask.unsqueeze(-1), 0), k)
        self.mean = x[mask].mean(0)
        norms = x.float().norm(dim=-1)
        self.is_inlier = mask & (norms <= _OUTLIER_NORM * norms[mask].median())

    @property
    def n_spliced(self) -> int:
        """The number of tokens that are spliced."""
        return int(self.mask.sum())

    @property
    def n_outliers(self) -> int:
        """The number of spliced tokens whose norm is above 3 times the median."""
        return self.n_spliced - int(self.is_inlier.sum())

    def encode(self, x: Float[Tensor, "batch pos d_model"], k: int) -> SparseCode:
        """The code of other activations at this site, on the device of ``x``."""
        code = self.sae.encode(
            x.to(self.sae.W_enc.device), k, extrapolate=self._extrapolate
        )
        return code.to(x.device)

    def fidelity(self, k: int) -> Fidelity:
        """How well the SAE reconstructs the bare model's activations at this k."""
        code = self.code.prefix(k)
        recons = self.sae.decode(code)
        l0 = code.l0()[self.mask].double().mean().item()

        fvu = FVU()
        fvu.update(self.x[self.mask], recons[self.mask])
        fvu_of_inliers = FVU()
        fvu_of_inliers.update(self.x[self.is_inlier], recons[self.is_inlier])
        return Fidelity(l0, fvu.value(), fvu_of_inliers.value())
