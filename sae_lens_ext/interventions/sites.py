"""The places of SAEs in a model: where each writes, and where a transcoder reads."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch, UnknownSite
from sae_lens_ext.hosts import Host, Site
from sae_lens_ext.sae import SAE

SiteName = str | tuple[str, str]
"""Name of a site; for a transcoder, the names of the sites that it reads and writes."""

SAEs = SAE | Sequence[SAE] | Mapping[SiteName, SAE]
"""An SAE that knows its own site, a list of those, or SAEs by site name."""


@dataclass(frozen=True)
class Placement:
    """An SAE, or none, at its place in a model.

    Attributes:
        site: where it writes.
        sae: the SAE; None where only directions are added.
        source: where a transcoder reads; None for an autoencoder, which reads where it
            writes.
    """

    site: Site
    sae: SAE | None
    source: Site | None = None

    @property
    def reads(self) -> Site:
        """Where it reads."""
        return self.site if self.source is None else self.source

    @property
    def sites(self) -> list[Site]:
        """Where it reads and writes, in that order."""
        return [self.site] if self.source is None else [self.source, self.site]


def placements(
    host: Host,
    sae: SAE | Sequence[SAE] | Mapping[SiteName, SAE | None],
    *,
    sae_needed: bool = True,
) -> dict[str, Placement]:
    """Where SAEs go in a model, by the name of the site that each writes.

    Args:
        host: the model.
        sae: an SAE that knows its own site, a list of those, or SAEs by site name.
        sae_needed: whether every site needs an SAE, instead of None.

    Raises:
        InvalidArgument: none of the three, no SAE at all, or two names of one place in
            the model.
        UnknownSite: the model has no site of that name, or an SAE does not say where it
            belongs.
        ShapeMismatch: an SAE has another width than its site.
    """
    pairs = _named(sae, sae_needed=sae_needed)
    placed = [_placement(host, name, value) for name, value in pairs]
    _check_distinct(placed)
    return {placement.site.name: placement for placement in placed}


def saes_by_site(saes: SAEs) -> dict[SiteName, SAE]:
    """SAEs by the names of their sites, without a model in which to look for them.

    Raises:
        InvalidArgument: as in ``placements``.
        UnknownSite: an SAE does not say where it belongs.
    """
    by_site: dict[SiteName, SAE] = {}
    for name, sae in _named(saes):
        assert sae is not None
        if name is None:
            (name, *_) = _own_names(sae, "hook_name", "hf_hook_name")
            if sae.config.is_transcoder:
                (writes, *_) = _own_names(sae, "hook_name_out", "hf_hook_name_out")
                name = (name, writes)
        by_site[name] = sae
    return by_site


def _named(
    sae: Any, *, sae_needed: bool = True
) -> list[tuple[SiteName | None, SAE | None]]:
    """SAEs with the names that a mapping gives them; None for those of their own."""
    if isinstance(sae, Mapping):
        _check_mapping(sae, sae_needed)
        return list(sae.items())
    if isinstance(sae, SAE):
        return [(None, sae)]
    if _are_saes(sae):
        return [(None, each) for each in sae]
    raise InvalidArgument(
        "sae must be an SAE, a list of SAEs, or a mapping from site names to SAEs; "
        f"got {_described(sae)}"
    )


def _placement(host: Host, name: SiteName | None, sae: SAE | None) -> Placement:
    """The place of one SAE, by its name in a mapping or, without one, by its config."""
    if sae is None or not sae.config.is_transcoder:
        names = [name]
        if isinstance(name, tuple):
            raise InvalidArgument(
                f"{name} is the name of two sites, as for a transcoder; an autoencoder "
                "writes where it reads: give one name"
            )
        if name is None and sae is not None:
            names = _own_names(sae, "hook_name", "hf_hook_name")
        site = _first_known(host, names)
        _check_width(host, site, sae, "d_model")
        return Placement(site, sae)

    if isinstance(name, tuple):
        sources = [name[0]]
        sites = [name[1]]
    else:
        sources = _own_names(sae, "hook_name", "hf_hook_name")
        sites = [name]
        if name is None:
            sites = _own_names(sae, "hook_name_out", "hf_hook_name_out")
    source = _first_known(host, sources)
    site = _first_known(host, sites)
    if site.key == source.key:
        raise InvalidArgument(
            f"{site.name} is where this transcoder reads, and one name says where it "
            "writes: pass {(reads, writes): transcoder}, or the transcoder alone, "
            "where its config names both"
        )
    _check_width(host, source, sae, "d_model")
    _check_width(host, site, sae, "d_out")
    return Placement(site, sae, source)


def check_order(placed: Iterable[Placement], order: Iterable[Site]) -> None:
    """Check that transcoders read before they write.

    Args:
        placed: SAEs in a model.
        order: sites in the order in which the model computes them.

    Raises:
        UnknownSite: a transcoder writes before it has read.
    """
    keys = [site.key for site in order]
    for place in placed:
        if place.source is None:
            continue
        if keys.index(place.source.key) > keys.index(place.site.key):
            raise UnknownSite(
                f"{place.source.name} does not fire before {place.site.name} in a run "
                "of this model, and a transcoder writes what it has read; choose an "
                "earlier site to read, or a later one to write"
            )


def _own_names(sae: SAE, field: str, fact: str) -> list[str]:
    """The names of a site in an SAE's config, the one to prefer first.

    SAEs of Hugging Face models may know the path of a module beside the TransformerLens
    name, or instead of it.
    """
    names = [getattr(sae.config, field), sae.config.metadata.get(fact)]
    names = [str(name) for name in names if name is not None]
    if names:
        return names
    if sae.config.is_transcoder:
        raise UnknownSite(
            f"this transcoder does not say where it belongs (config.{field} is None); "
            "pass {('blocks.5.hook_mlp_in', 'blocks.5.hook_mlp_out'): transcoder}"
        )
    raise UnknownSite(
        f"this SAE does not say where it belongs (config.{field} is None); "
        "pass {'blocks.12.hook_resid_post': sae}"
    )


def _first_known(host: Host, names: Iterable[Any]) -> Site:
    """The site of the first name that the model knows; the error is of the first."""
    errors = []
    for name in names:
        try:
            return host.site(name)
        except UnknownSite as error:
            errors.append(error)
    raise errors[0]


def _check_width(host: Host, site: Site, sae: SAE | None, field: str) -> None:
    width = host.width(site)
    if sae is None or width is None:
        return
    expected = getattr(sae.config, field)
    if width != expected:
        raise ShapeMismatch(
            f"{site.name} is {width} wide in this model, and the SAE for it has "
            f"{field}={expected}"
        )


def _are_saes(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(isinstance(item, SAE) for item in value)


def _described(value: Any) -> str:
    if not isinstance(value, list | tuple):
        return f"an object of type {type(value).__name__}"
    kinds = [type(item).__name__ for item in value]
    return f"a list of {', '.join(kinds) or 'nothing'}"


def _check_distinct(placed: list[Placement]) -> None:
    keys = {placement.site.key for placement in placed}
    if len(keys) < len(placed):
        names = ", ".join(placement.site.name for placement in placed)
        raise InvalidArgument(
            "two of these names are one place in the model, and one SAE goes to one "
            f"place: {names}"
        )


def _check_mapping(saes: Mapping[Any, Any], sae_needed: bool) -> None:
    if not saes:
        raise InvalidArgument("no SAE to splice: the mapping from site to SAE is empty")
    for name, sae in saes.items():
        is_pair = (
            isinstance(name, tuple)
            and len(name) == 2
            and all(isinstance(part, str) for part in name)
        )
        is_sae = isinstance(sae, SAE) or (sae is None and not sae_needed)
        if not (isinstance(name, str) or is_pair) or not is_sae:
            raise InvalidArgument(
                "the mapping must go from site names to SAEs; "
                f"it holds {name!r}: an object of type {type(sae).__name__}"
            )
