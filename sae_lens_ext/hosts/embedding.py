"""Where the embeddings of a model's tokens are."""

from torch import nn

from sae_lens_ext.errors import UnknownSite, UnsupportedHost
from sae_lens_ext.hosts.base import Host, Site

# Of TransformerLens, on a HookedTransformer and on a bridge.
_NAMES = ("hook_embed", "embed.hook_out")


def embedding_site(host: Host) -> Site:
    """The output of the module that is called with the token ids.

    What a model adds to it (position embeddings) is not part of it.

    Args:
        host: the model, as ``Host.plain`` gives it.

    Raises:
        UnsupportedHost: it is not known which module that is.
    """
    for name in _NAMES:
        try:
            return host.site(name)
        except UnknownSite:
            continue

    module: nn.Module = getattr(host, "module", host.model)
    for path, part in module.named_modules():
        if path and part is host.embed:
            return host.site(path)
    raise UnsupportedHost(
        f"cannot tell which module of a {type(host.model).__name__} embeds its tokens; "
        "give a language model"
    )
