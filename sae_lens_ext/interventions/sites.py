"""Pairs of an SAE and the site in a model that it belongs to."""

from collections.abc import Mapping

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch, UnknownSite
from sae_lens_ext.hosts import Host, Site
from sae_lens_ext.sae import SAE


def saes_by_site(sae: SAE | Mapping[str, SAE]) -> dict[str, SAE]:
    """SAEs by site name, from one SAE that knows its own site or from such a mapping.

    Raises:
        InvalidArgument: neither of the two, or an empty mapping.
        UnknownSite: the config of the SAE names no site.
    """
    if isinstance(sae, Mapping):
        _check_mapping(sae)
        return dict(sae)
    if not isinstance(sae, SAE):
        raise InvalidArgument(
            "sae must be an SAE, or a mapping from site names to SAEs; "
            f"got an object of type {type(sae).__name__}"
        )

    # SAEs trained on a Hugging Face model may know only the path of the module there.
    name = sae.config.hook_name or sae.config.metadata.get("hf_hook_name")
    if name is None:
        raise UnknownSite(
            "this SAE does not say where it belongs (config.hook_name is None); "
            "pass {'blocks.12.hook_resid_post': sae}"
        )
    return {str(name): sae}


def spliced_sites(
    host: Host, sae: SAE | Mapping[str, SAE | None]
) -> tuple[dict[str, Site], dict[str, SAE]]:
    """The sites of a splice, and the SAEs at those that have one, by site name.

    Raises:
        InvalidArgument, UnknownSite, ShapeMismatch: as in ``saes_by_site`` and
            ``checked_sites``.
    """
    if isinstance(sae, Mapping):
        names = list(sae)
        present = {name: value for name, value in sae.items() if value is not None}
        # Sites without any SAE are fine, for directions; an empty mapping is an error.
        saes = saes_by_site(present) if present or not names else {}
    else:
        saes = saes_by_site(sae)
        names = list(saes)
    return checked_sites(host, {name: saes.get(name) for name in names}), saes


def checked_sites(host: Host, saes: Mapping[str, SAE | None]) -> dict[str, Site]:
    """The sites of these names, each of them once and as wide as its SAE.

    Raises:
        InvalidArgument: two names are of one place in the model.
        UnknownSite: the model has no site of that name.
        ShapeMismatch: an SAE has another width than its site.
    """
    sites = {name: _checked_site(host, name, sae) for name, sae in saes.items()}
    if len({site.key for site in sites.values()}) < len(sites):
        raise InvalidArgument(
            "two of these names are one place in the model, and one SAE goes to one "
            f"place: {', '.join(sites)}"
        )
    return sites


def _checked_site(host: Host, name: str, sae: SAE | None) -> Site:
    site = host.site(name)
    width = host.width(site)
    if sae is not None and width is not None and width != sae.config.d_model:
        raise ShapeMismatch(
            f"{name} is {width} wide in this model, and the SAE for it has "
            f"d_model={sae.config.d_model}"
        )
    return site


def _check_mapping(saes: Mapping[str, SAE]) -> None:
    if not saes:
        raise InvalidArgument("no SAE to splice: the mapping from site to SAE is empty")
    for name, sae in saes.items():
        if not isinstance(name, str) or not isinstance(sae, SAE):
            raise InvalidArgument(
                "the mapping must go from site names to SAEs; "
                f"it holds {name!r}: an object of type {type(sae).__name__}"
            )
