"""Activations as they come: from a model, from a cache on disk, from tensors.

=========== ======================================================================
base        the interface of every stream
model       ``ModelStream``: a model reads a text
iterable    ``IterableStream``: pieces that people bring
tensors     ``TensorStream``: all of them in memory
cache       ``cache_activations``, ``CacheStream``: all of them on disk
----------- ----------------------------------------------------------------------
buffered    what the first two share: outliers, constants, a shuffle buffer
buffer      the buffer
lazy        batches of the last two, read as they are asked for
length      when a stream ends
states      what states have in common
----------- ----------------------------------------------------------------------
rows        tokens for the model
chunks      activations of a few rows
ahead       chunks made ahead, in a thread
shared      chunks made by several processes together
checks      of streams that people write
options     options that several streams have
fingerprint what tells one model from another
=========== ======================================================================
"""

from sae_lens_ext.training.stream.base import (
    ActivationStream,
    Pausable,
    RemembersFirst,
    SiteStatistics,
    StreamState,
)
from sae_lens_ext.training.stream.cache import (
    ActivationCache,
    CacheStream,
    cache_activations,
)
from sae_lens_ext.training.stream.iterable import IterableStream
from sae_lens_ext.training.stream.model import ModelStream
from sae_lens_ext.training.stream.tensors import TensorStream

__all__ = [
    "ActivationCache",
    "ActivationStream",
    "CacheStream",
    "IterableStream",
    "ModelStream",
    "Pausable",
    "RemembersFirst",
    "SiteStatistics",
    "StreamState",
    "TensorStream",
    "cache_activations",
]
