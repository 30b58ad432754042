"""What the features did in a run of the model, kept so that another run can be given the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_ext.errors import FormatError, ShapeMismatch, UnknownSite, closest
from sae_lens_ext.hosts import capture, host_for, token_rows
from sae_lens_ext.interventions.positions import Positions, SplicedPositions
from sae_lens_ext.interventions.sites import checked_sites, saes_by_site
from sae_lens_ext.sae import SAE, SparseCode


@dataclass(frozen=True, eq=False)
class Run:
    """The codes of a run by site name, each ``[batch, pos, k]``; a source for ``Ablate`` and ``Patch``.

    Two runs are equal when all their numbers are.
    """

    codes: Mapping[str, SparseCode]

    @classmethod
    def capture(cls, model: Any, tokens: Any, sae: SAE | Mapping[str, SAE], k: int | None = None, *, positions: Positions = None) -> "Run":
        """Run ``tokens`` (ids or text) on the model as it is and keep the features.

        Arguments and errors are those of ``splice``, and so is what is kept: by default features of the special tokens that the SAE
        was not trained on are zero, because they would be numbers without meaning, and large ones.
        """
        host, saes = host_for(model).plain(), saes_by_site(sae)
        sites = checked_sites(host, saes)
        tokens = token_rows(host, tokens)
        masks = {name: SplicedPositions.of(host, one, positions).mask_of(tokens) for name, one in saes.items()}
        with torch.no_grad():
            found = capture(host, tokens, set(sites.values()))
            return cls({name: _code(one, found[sites[name]], masks[name], k) for name, one in saes.items()})

    def activations(self, site: str, features: Sequence[int]) -> Float[Tensor, "batch pos features"]:
        """What these features did at a site; 0 where one was not among the k strongest.

        Raises:
            UnknownSite: this run was not captured there.
        """
        if site not in self.codes:
            raise UnknownSite(f"this run was not captured at {site!r}; it was at: {closest(site, self.codes)}")
        return activations_of(self.codes[site], features)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            site: {"d_sae": code.d_sae, "indices": code.indices.tolist(), "values": code.values.tolist()}
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
                site: SparseCode(torch.tensor(code["values"]), torch.tensor(code["indices"], dtype=torch.int64), code["d_sae"])
                for site, code in content.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError, ShapeMismatch) as error:
            raise FormatError(f"a run is written as d_sae, indices and values by site; this is not ({error})") from error
        return cls(codes)

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
    return sae.encode(x.where(mask.to(x.device).unsqueeze(-1), 0).to(sae.W_enc.device), k).where(mask)


def activations_of(code: SparseCode, features: Sequence[int]) -> Float[Tensor, "*batch features"]:
    """Columns of the dense code, without building it: the activation of each of these features, 0 where it is not in the code."""
    column = code.indices.new_full((code.d_sae,), len(features))
    column[torch.as_tensor(features, device=column.device)] = torch.arange(len(features), device=column.device)
    # Every other feature goes to one column more, which is dropped.
    found = code.values.new_zeros(*code.values.shape[:-1], len(features) + 1)
    return found.scatter_add(-1, column[code.indices], code.values)[..., :-1]
