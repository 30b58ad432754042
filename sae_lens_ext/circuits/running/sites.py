"""The activation at a site of which only some nodes are kept.

With x the activation, x_0 the one of which every node is ablated, v_f what feature f
writes and u_f what it writes with its ablated value, m_f the share of the feature in a
circuit, from 0 to 1, and m_e that of the error:

    x_0 + m_e (x - x_0) + sum over features of (m_f - m_e) (v_f - u_f)

The first two terms are x, to the bit, where the error is in the circuit, and x_0 where
it is not. So where all nodes are in it, nothing changes, and where no node is, every
value is the ablated one.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext.circuits.encoded import Encoded
from sae_lens_ext.circuits.running.ablated import Ablated
from sae_lens_ext.circuits.running.keys import BatchWeights
from sae_lens_ext.errors import ShapeMismatch
from sae_lens_ext.hosts import Site
from sae_lens_ext.interventions.sites import Placement


@runtime_checkable
class SiteNodes(Protocol):
    """The nodes of one site, in the rows of some prompts."""

    @property
    def mask(self) -> Bool[Tensor, "rows pos"]:
        """Where nodes are looked at."""
        ...

    @property
    def site(self) -> Site:
        """Whose activation is replaced."""
        ...

    @property
    def source(self) -> Site | None:
        """What is read besides; None where it is only the activation."""
        ...

    @property
    def n_features(self) -> int:
        """The number of nodes of a token, the error not counted."""
        ...

    @property
    def device(self) -> torch.device:
        """Where weights are needed."""
        ...

    def replaced(
        self,
        x: Float[Tensor, "batch pos d"],
        source: Float[Tensor, "batch pos d_in"] | None,
        weights: BatchWeights,
    ) -> Float[Tensor, "batch pos d"]:
        """The activation with the share of every node that it has in its circuit."""
        ...


@dataclass(frozen=True, eq=False)
class FeatureNodes:
    """Features of an SAE, and its error.

    Attributes:
        place: the SAE, without gradients of its weights, and its site.
        mask: where nodes are looked at.
        k: the k of the code; None for every active feature.
        ablated: the values outside of a circuit.
    """

    place: Placement
    mask: Bool[Tensor, "rows pos"]
    k: int | None
    ablated: Ablated

    @classmethod
    def of(
        cls, place: Placement, mask: Tensor, k: int | None, ablated: Ablated
    ) -> "FeatureNodes":
        """The nodes of an SAE that may have gradients of its weights."""
        assert place.sae is not None
        frozen = place.sae.with_config().requires_grad_(False)
        return cls(replace(place, sae=frozen), mask, k, ablated)

    @property
    def site(self) -> Site:
        """Where the SAE writes."""
        return self.place.site

    @property
    def source(self) -> Site | None:
        """Where a transcoder reads."""
        return self.place.source

    @property
    def n_features(self) -> int:
        """Features of the SAE."""
        assert self.place.sae is not None
        return self.place.sae.config.d_sae

    @property
    def device(self) -> torch.device:
        """That of the SAE."""
        assert self.place.sae is not None
        return self.place.sae.W_dec.device

    def replaced(
        self, x: Tensor, source: Tensor | None, weights: BatchWeights
    ) -> Tensor:
        """See ``SiteNodes.replaced``."""
        sae = self.place.sae
        assert sae is not None
        mask = self.mask[weights.rows.to(self.mask.device)]
        activations = {self.place.site: x}
        if self.place.source is not None and source is not None:
            activations[self.place.source] = source
        encoded = Encoded.of(
            self.place,
            activations,
            mask,
            self.k,
            extrapolate=True,
            with_gradients=torch.is_grad_enabled(),
        ).padded(1)

        # An SAE may be in a wider dtype than the model.
        x_0 = self.ablated.x(encoded, weights.rows)
        wide = torch.promote_types(x_0.dtype, encoded.x.dtype)
        of_error = weights.errors().to(wide)
        out = torch.lerp(x_0.to(wide), encoded.x.to(wide), of_error.unsqueeze(-1))

        code = encoded.code
        shares = weights.features(code.indices) - of_error.unsqueeze(-1)
        written = sae.contribution(replace(code, values=code.values * shares))
        out = out + (written - self.ablated.written(sae, weights))
        return _where(mask, out, x)


@dataclass(frozen=True, eq=False)
class CoordinateNodes:
    """Coordinates of an activation, of which nothing is left over.

    Attributes:
        site: the site.
        mask: where nodes are looked at.
        x_0: the activation with every coordinate ablated, of all rows.
    """

    site: Site
    mask: Bool[Tensor, "rows pos"]
    x_0: Float[Tensor, "rows pos d"]

    @property
    def source(self) -> None:
        """Nothing else is read."""
        return

    @property
    def n_features(self) -> int:
        """The width of the activation."""
        return self.x_0.shape[-1]

    @property
    def device(self) -> torch.device:
        """That of the activation."""
        return self.x_0.device

    def replaced(
        self, x: Tensor, source: Tensor | None, weights: BatchWeights
    ) -> Tensor:
        """See ``SiteNodes.replaced``."""
        x_0 = self.x_0[weights.rows].to(x)
        if x_0.shape != x.shape:
            raise ShapeMismatch(
                f"the activation at {self.site.name} is {list(x.shape)} in one run and "
                f"{list(x_0.shape)} in another of the same rows"
            )
        coordinates = torch.arange(x.shape[-1], device=self.device)
        # All coordinates of a slot, which are far fewer than those of all tokens.
        shares = weights.of_tokens(weights.by_slot(coordinates))
        mask = self.mask[weights.rows.to(self.mask.device)]
        return _where(mask, torch.lerp(x_0, x, shares.to(x)), x)


def _where(mask: Tensor, out: Tensor, x: Tensor) -> Tensor:
    """The new activation at the tokens of a mask, as the model computes it."""
    token_mask = mask.to(x.device).unsqueeze(-1)
    return out.to(device=x.device, dtype=x.dtype).where(token_mask, x)
