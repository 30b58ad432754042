"""Where a model's activations can be read and replaced.

``host_for(model)`` wraps a model of any supported library in a ``Host``. Everything
above this layer is written against that protocol, once. No host library is imported
until one of its models arrives.

=========== ======================================================================
base        the protocol, and what a site is
lens        TransformerLens
nnsight     nnsight
torch       torch modules; places: from a site's name to a module
names       names of sites
tokens      from what users pass to token ids
tracking    which tokens and positions the pass in progress covers
watching    when a run of a torch module begins and ends
partial     runs that stop early, or unembed only some positions
skipping    runs that skip the first blocks
eager       compiled code is switched off while there are hooks
devices     where a model takes its tokens
=========== ======================================================================
"""

from typing import Any

from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts.base import Host, Points, Site, TracingHost
from sae_lens_ext.hosts.hooks import has_hooks
from sae_lens_ext.hosts.names import spellings
from sae_lens_ext.hosts.partial import capture, next_token_logits, unembedding_input
from sae_lens_ext.hosts.skipping import RunRecord, recorded, resume, skip_blocks
from sae_lens_ext.hosts.tokens import token_rows
from sae_lens_ext.hosts.tracking import PassTracker

__all__ = [
    "Host",
    "PassTracker",
    "Points",
    "RunRecord",
    "Site",
    "TracingHost",
    "capture",
    "has_hooks",
    "host_for",
    "next_token_logits",
    "recorded",
    "resume",
    "skip_blocks",
    "spellings",
    "token_rows",
    "unembedding_input",
]


def host_for(model: Any) -> Host:
    """The adapter for ``model``, chosen by the library that its class comes from.

    The classes that it inherits from count too, so a user's subclass is recognised.

    Raises:
        UnsupportedHost: no adapter handles this kind of object.
    """
    libraries = {cls.__module__.split(".")[0] for cls in type(model).__mro__}

    # Imported here, because each adapter loads the library it is for. Models of the
    # first two libraries are torch modules as well, so torch comes last.
    if "transformer_lens" in libraries:
        from sae_lens_ext.hosts.lens import LensHost

        return LensHost(model)
    if "nnsight" in libraries:
        from sae_lens_ext.hosts.nnsight import NNsightHost

        return NNsightHost(model)
    if "torch" in libraries:
        from sae_lens_ext.hosts.torch import TorchHost

        return TorchHost(model)

    raise UnsupportedHost(
        "cannot read activations of an object of type "
        f"{type(model).__module__}.{type(model).__qualname__}; give a TransformerLens "
        "model, an nnsight model, or a torch module"
    )
