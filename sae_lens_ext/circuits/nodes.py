"""Effects of the nodes of one site at every k, on tensors.

Models are not known here. With x the activation at a token and g the gradient of the
metric by it, the features of rank below k are the code at k, and a feature of rank r
has the effect v_r <w_r, g>, whatever k is. What they leave of x is the error node:

    error at k = <x - x_0, g> - (sum of the effects of rank below k)

So one tensor of effects by rank, and its running sum, hold every k. Without a corrupted
run, x_0 is what the SAE writes without any feature. With one, it is the corrupted
activation, and features of the corrupted code count with the other sign, each from its
own rank on.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from sae_lens_ext.circuits.encoded import Encoded, padded_code
from sae_lens_ext.circuits.projections import feature_gradients
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True, eq=False)
class SiteEffects:
    """Effects at one site, by position of the text; zeros outside of ``mask``.

    Attributes:
        mask: where nodes are looked at.
        code: the features of the clean run at the largest k.
        features: the part that each of them has in the effect of its feature.
        totals: the sum of the effects of all nodes of a token, the same at every k.
        corrupted_code: the features of the corrupted run, or None without one.
        corrupted_features: the part of each of those, with its sign.
        is_whole: whether the codes hold every active feature, so that every larger k
            has the same nodes.
        between: of effects along a path of runs, the features of each of these runs and
            the part of each feature.
    """

    mask: Bool[Tensor, "batch pos"]
    code: SparseCode
    features: Float[Tensor, "batch pos k"]
    totals: Float[Tensor, "batch pos"]
    corrupted_code: SparseCode | None = None
    corrupted_features: Float[Tensor, "batch pos k"] | None = None
    is_whole: bool = False
    between: tuple[tuple[SparseCode, Float[Tensor, "batch pos k"]], ...] = ()

    @property
    def k(self) -> int:
        """The largest k."""
        return self.code.k

    def errors(self) -> Float[Tensor, "batch pos k"]:
        """The effect of the error node of every token at k = 1, 2, ..."""
        features = torch.stack([parts for _, parts in self.by_run()]).sum(dim=0)
        return self.totals.unsqueeze(-1) - features.cumsum(-1)

    def by_run(self) -> list[tuple[SparseCode, Float[Tensor, "batch pos k"]]]:
        """The features of every run, and the part of each: clean, corrupted, others."""
        runs = [(self.code, self.features)]
        if self.corrupted_code is not None:
            assert self.corrupted_features is not None
            runs.append((self.corrupted_code, self.corrupted_features))
        return [*runs, *self.between]

    def padded(self, k: int) -> "SiteEffects":
        """The same with codes of at least this width, which end in zeros."""
        n_missing = max(0, k - self.k)
        if not n_missing:
            return self
        corrupted_code = self.corrupted_code
        corrupted_features = self.corrupted_features
        if corrupted_code is not None and corrupted_features is not None:
            corrupted_code = padded_code(corrupted_code, n_missing)
            corrupted_features = F.pad(corrupted_features, (0, n_missing))
        return replace(
            self,
            code=padded_code(self.code, n_missing),
            features=F.pad(self.features, (0, n_missing)),
            corrupted_code=corrupted_code,
            corrupted_features=corrupted_features,
        )


def baseline(
    clean: Encoded, corrupted: Encoded | None
) -> Float[Tensor, "batch pos d_out"]:
    """The activation at which no node is active: x_0 above."""
    return clean.constants if corrupted is None else corrupted.x


def site_effects(
    sae: SAE,
    mask: Bool[Tensor, "batch pos"],
    clean: Encoded,
    corrupted: Encoded | None,
    gradient: Float[Tensor, "batch pos d_out"],
    *,
    is_whole: bool,
) -> SiteEffects:
    """Effects at a site from the gradient of the metric there.

    Args:
        sae: the SAE of the site.
        mask: where nodes are looked at.
        clean: the activations of the clean run.
        corrupted: those of the corrupted run, or None.
        gradient: of the metric by the activation.
        is_whole: see ``SiteEffects``.
    """
    mask = mask.to(clean.x.device)
    gradient = gradient.to(clean.x.device)
    gradient = gradient.to(torch.promote_types(gradient.dtype, clean.x.dtype))
    gradient = gradient.where(mask.unsqueeze(-1), 0)

    # Where no feature is active anywhere, a whole code is empty.
    width = max(1, clean.code.k)
    if corrupted is not None:
        width = max(width, corrupted.code.k)
    clean = clean.padded(width)
    totals = torch.linalg.vecdot(
        (clean.x - baseline(clean, corrupted)).to(gradient.dtype), gradient
    )
    features = clean.code.values * feature_gradients(sae, clean.code, gradient)
    effects = SiteEffects(mask, clean.code, features, totals, is_whole=is_whole)
    if corrupted is None:
        return effects

    corrupted = corrupted.padded(width)
    taken = corrupted.code.values * feature_gradients(sae, corrupted.code, gradient)
    return replace(effects, corrupted_code=corrupted.code, corrupted_features=-taken)
