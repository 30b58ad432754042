"""What effects were computed of, which it takes to run a circuit of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from sae_lens_ext.circuits.prompts import Prompts
from sae_lens_ext.interventions.positions import Positions
from sae_lens_ext.interventions.sites import Placement, SiteName
from sae_lens_ext.sae import SAE


@dataclass(frozen=True, eq=False)
class Setting:
    """The SAEs whose features are nodes, and the rows that nodes were seen in.

    Attributes:
        saes: the SAEs by site, as ``splice`` takes them.
        lengths: the number of tokens of each row.
        positions: the user's choice of positions whose nodes are looked at.
    """

    saes: Mapping[SiteName, SAE]
    lengths: tuple[int, ...]
    positions: Positions

    @classmethod
    def of(
        cls, placed: Mapping[str, Placement], prompts: Prompts, positions: Positions
    ) -> "Setting":
        """The setting of an analysis."""
        saes: dict[SiteName, SAE] = {}
        for name, place in placed.items():
            assert place.sae is not None
            key = name if place.source is None else (place.source.name, name)
            saes[key] = place.sae
        return cls(saes, tuple(prompts.clean.lengths.tolist()), positions)


def written_site(key: SiteName) -> str:
    """The site that an SAE writes, by which its nodes are called.

    >>> written_site(("blocks.5.hook_mlp_in", "blocks.5.hook_mlp_out"))
    'blocks.5.hook_mlp_out'
    """
    return key if isinstance(key, str) else key[1]
