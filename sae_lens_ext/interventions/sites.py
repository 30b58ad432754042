"""From what a user gives to SAEs at places in a model."""

from collections.abc import Mapping

from sae_lens_ext.errors import InvalidArgument, ShapeMismatch, UnknownSite
from sae_lens_ext.hosts import Host, Site
from sae_lens_ext.sae import SAE


def saes_by_site(sae: SAE | Mapping[str, SAE]) -> dict[str, SAE]:
    """SAEs by site name, from one SAE that knows its own or from such a mapping."""
    if isinstance(sae, Mapping):
        if not sae:
            raise InvalidArgument(
                "no SAE to splice: the mapping from site to SAE is empty"
            )
        for name, one in sae.items():
            if not isinstance(name, str) or not isinstance(one, SAE):
                raise InvalidArgument(
                    f"the mapping must go from site names to SAEs; it holds {name!r}: a {type(one).__name__}"
                )
        return dict(sae)
    if not isinstance(sae, SAE):
        raise InvalidArgument(
            f"sae must be an SAE, or a mapping from site names to SAEs; got a {type(sae).__name__}"
        )
    # SAEs that were trained on a Hugging Face model may know only the path of the module there.
    name = sae.config.hook_name or sae.config.metadata.get("hf_hook_name")
    if name is None:
        raise UnknownSite(
            "this SAE does not say where it belongs (config.hook_name is None); pass {'blocks.12.hook_resid_post': sae}"
        )
    return {str(name): sae}


def checked_sites(host: Host, saes: Mapping[str, SAE | None]) -> dict[str, Site]:
    """The places of these names, where these SAEs fit, and no two of them one place."""
    sites = {name: checked_site(host, name, one) for name, one in saes.items()}
    if len({site.key for site in sites.values()}) < len(sites):
        raise InvalidArgument(
            f"two of these names are one place in the model, and one SAE goes to one place: {', '.join(sites)}"
        )
    return sites


def checked_site(host: Host, name: str, sae: SAE | None) -> Site:
    """The site called ``name``, where this SAE fits."""
    site = host.site(name)
    width = host.width(site)
    if sae is not None and width is not None and width != sae.config.d_model:
        raise ShapeMismatch(
            f"{name} is {width} wide in this model, and the SAE for it has d_model={sae.config.d_model}"
        )
    return site
