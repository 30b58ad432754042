"""What the features did in a run of the model, kept so that another run can be given the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_ext import _arguments as arguments
from sae_lens_ext._arguments import mask_length
from sae_lens_ext.errors import (
    FormatError,
    InvalidArgument,
    ShapeMismatch,
    UnknownSite,
    closest,
)
from sae_lens_ext.hosts import capture, host_for, spellings, token_rows
from sae_lens_ext.interventions.positions.window import Positions, SplicedPositions
from sae_lens_ext.interventions.sites import checked_sites, saes_by_site
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True, eq=False)
class Run:
    """The codes of a run by site name, each ``[batch, pos, k]``; a source for ``Ablate`` and ``Patch``.

    Two runs are equal when all their numbers are.

    Attributes:
        codes: the features of every token, zeros where none were kept.
        kept: where features were kept, ``[batch, pos]`` by site name; a site that is not named was kept everywhere.
    """

    codes: Mapping[str, SparseCode]
    kept: Mapping[str, Bool[Tensor, "batch pos"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no code ``[batch, pos, k]`` by site."""
        codes = self.codes.values() if isinstance(self.codes, Mapping) else [None]
        if not all(
            isinstance(code, SparseCode) and code.values.ndim == 3 for code in codes
        ):
            raise InvalidArgument(
                "a run is made of codes [batch, pos, k] by site name; Run.capture(model, tokens, sae) makes one"
            )

    @classmethod
    def capture(
        cls,
        model: Any,
        tokens: Any,
        sae: SAE | Mapping[str, SAE],
        k: int | None = None,
        *,
        positions: Positions = None,
    ) -> "Run":
        """Run ``tokens`` and keep the features, by default of all but the special tokens that the SAE was not trained on.

        The model runs as it stands: splices and hooks that are active take part.

        Args:
            model: as in ``splice``.
            tokens: token ids ``[batch, pos]``, a text, or texts of one length. No padding: what is in a row is read as text.
            sae: as in ``splice``.
            k: how many features to keep per token; None means what the SAE was trained at.
            positions: where to keep features, as in ``splice``.

        Raises:
            UnknownSite, ShapeMismatch, InvalidK, InvalidArgument, NonFinite: as in ``splice``.
        """
        host, saes = host_for(model).plain(), saes_by_site(sae)
        sites = checked_sites(host, saes)
        tokens = token_rows(host, tokens)
        kept = {
            name: SplicedPositions.of(host, one, positions).mask_of(tokens)
            for name, one in saes.items()
        }
        with torch.no_grad():
            found = capture(host, tokens, set(sites.values()))
            return cls(
                {
                    name: _code(one, found[sites[name]], kept[name], k)
                    for name, one in saes.items()
                },
                kept,
            )

    def activations(
        self, site: str, features: int | Sequence[int] | Tensor
    ) -> Float[Tensor, "batch pos features"]:
        """What these features did at a site; 0 where one was not among the k strongest, and where none were kept.

        Raises:
            UnknownSite: this run was not captured there.
            InvalidArgument: a feature that the SAE there does not have.
            ShapeMismatch: a mask over another number of features than it has.
        """
        numbers = arguments.features(features)
        if mask_length(features) not in (None, self.d_sae(site)):
            raise ShapeMismatch(
                f"the mask is over {mask_length(features)} features; the SAE at {site} has {self.d_sae(site)} of them"
            )
        if max(numbers) >= self.d_sae(site):
            raise InvalidArgument(
                f"the SAE at {site} has features 0 to {self.d_sae(site) - 1}; got {max(numbers)}"
            )
        return activations_of(self.codes[self._name(site)], numbers)

    def mean_activations(
        self, site: str, features: int | Sequence[int] | Tensor
    ) -> Float[Tensor, " features"]:
        """The mean of each of these features over the tokens whose features were kept.

        Raises:
            InvalidArgument: no features were kept at the site; and as in ``activations``.
        """
        activations, mask = self.activations(site, features), self.mask(site)
        if not mask.any():
            raise InvalidArgument(
                f"this run kept no features at {site}, so they have no mean; capture it with other positions="
            )
        return activations[mask.to(activations.device)].mean(0)

    def d_sae(self, site: str) -> int:
        """How many features the SAE at a site has; errors as in ``activations``."""
        return self.codes[self._name(site)].d_sae

    def mask(self, site: str) -> Bool[Tensor, "batch pos"]:
        """Where features were kept at a site; errors as in ``activations``."""
        name = self._name(site)
        return (
            self.kept[name]
            if name in self.kept
            else torch.ones(self.codes[name].values.shape[:-1], dtype=torch.bool)
        )

    def _name(self, site: str) -> str:
        """The name this run has for a site, whichever of its spellings was given."""
        found = next((name for name in spellings(site) if name in self.codes), None)
        if found is None:
            raise UnknownSite(
                f"this run was not captured at {site!r}; it was at: {closest(site, self.codes)}"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            site: {
                "d_sae": code.d_sae,
                "indices": code.indices.tolist(),
                "values": code.values.tolist(),
                "kept": self.mask(site).tolist(),
            }
            for site, code in self.codes.items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Run":
        """The inverse of ``to_dict``.

        Raises:
            FormatError: something else.
        """
        try:
            codes = {
                site: SparseCode(
                    torch.tensor(code["values"]),
                    torch.tensor(code["indices"], dtype=torch.int64),
                    code["d_sae"],
                )
                for site, code in content.items()
            }
            kept = {
                site: torch.tensor(code["kept"], dtype=torch.bool)
                for site, code in content.items()
            }
            return cls(codes, kept)
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            ShapeMismatch,
        ) as error:
            raise FormatError(
                f"a run is written as d_sae, indices, values and kept by site; this is not ({error})"
            ) from error

    def __eq__(self, other: object) -> bool:
        """Whether all numbers are equal."""
        return isinstance(other, Run) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """By shape, which equal runs share."""
        return hash(repr(self))

    def __repr__(self) -> str:
        """Sites and shapes."""
        return f"Run({', '.join(f'{site}: {code!r}' for site, code in self.codes.items())})"


def _code(sae: SAE, x: Tensor, mask: Tensor, k: int | None) -> SparseCode:
    # Zeroed on the way in, too: what is left out must not be checked.
    return sae.encode(
        x.where(mask.to(x.device).unsqueeze(-1), 0).to(sae.W_enc.device), k
    ).where(mask)


def activations_of(
    code: SparseCode, features: Sequence[int]
) -> Float[Tensor, "*batch features"]:
    """Columns of the dense code, without building it: the activation of each of these features, 0 where it is not in the code."""
    column = code.indices.new_full((code.d_sae,), len(features))
    column[torch.as_tensor(features, device=column.device)] = torch.arange(
        len(features), device=column.device
    )
    # Every other feature goes to one column more, which is dropped.
    found = code.values.new_zeros(*code.values.shape[:-1], len(features) + 1)
    return found.scatter_add(-1, column[code.indices], code.values)[..., :-1]
