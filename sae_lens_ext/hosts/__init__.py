"""Where a model's activations can be read and replaced.

``host_for(model)`` wraps a model of any supported library in a ``Host``; everything above this layer is written against that
protocol, once. No host library is imported until one of its models arrives.
"""

from typing import Any

from sae_lens_ext.errors import UnsupportedHost
from sae_lens_ext.hosts.base import Host, Points, Site, TracingHost
from sae_lens_ext.hosts.names import spellings
from sae_lens_ext.hosts.partial import capture, next_token_logits, resume
from sae_lens_ext.hosts.tokens import token_rows
from sae_lens_ext.hosts.tracking import PassTracker

__all__ = [
    "Host",
    "Points",
    "PassTracker",
    "Site",
    "TracingHost",
    "capture",
    "host_for",
    "next_token_logits",
    "resume",
    "spellings",
    "token_rows",
]


def host_for(model: Any) -> Host:
    """The adapter for ``model``, chosen by the library that its class, or a class it inherits from, comes from.

    Raises:
        UnsupportedHost: no adapter knows this kind of object.
    """
    libraries = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    if "transformer_lens" in libraries:
        from sae_lens_ext.hosts.lens import (
            LensHost,
        )  # loads TransformerLens, which is loaded when one of its models arrives

        return LensHost(model)
    if "nnsight" in libraries:
        from sae_lens_ext.hosts.nnsight import NNsightHost

        return NNsightHost(model)
    if "torch" in libraries:
        from sae_lens_ext.hosts.torch import TorchHost

        return TorchHost(model)
    raise UnsupportedHost(
        f"cannot read activations of a {type(model).__module__}.{type(model).__qualname__}; give a TransformerLens model, an nnsight "
        "model, or a torch module"
    )
