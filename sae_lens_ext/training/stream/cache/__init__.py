"""Activations on disk: collected once, read many times, also while they come in.

=========== ======================================================================
writer      ``cache_activations``: runs the model and writes shards
reader      ``CacheStream``: reads them, shuffled
folder      ``ActivationCache``: what both know of a folder
----------- ----------------------------------------------------------------------
existing    what is there before it is written
index       ``index.json``: the shards, their digests, the position in the text
shards      the files
lock        who writes
=========== ======================================================================
"""

from sae_lens_ext.training.stream.cache.folder import ActivationCache
from sae_lens_ext.training.stream.cache.reader import CacheStream
from sae_lens_ext.training.stream.cache.writer import cache_activations

__all__ = ["ActivationCache", "CacheStream", "cache_activations"]
