"""Activations as they come: from a model, from a cache on disk, from tensors."""

from sae_lens_ext.training.stream.base import (
    ActivationStream,
    SiteStatistics,
    StreamState,
)

__all__ = ["ActivationStream", "SiteStatistics", "StreamState"]
