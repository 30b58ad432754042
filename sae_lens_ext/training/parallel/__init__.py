"""Training by several processes, which ``torchrun`` starts.

=========== ======================================================================
launched    ``joined``: from processes to those that share a training
ranks       ``Ranks``: what a training asks of its processes; one of them
data        each with the whole SAE and a share of every batch
dictionary  each with a slice of the dictionary
----------- ----------------------------------------------------------------------
gathered    an SAE in slices, for a share of a batch
merging     the first k features of a token among those of all slices
group       exchanges, by torch.distributed
roll_call   who is still there after an exchange has failed
=========== ======================================================================
"""

from sae_lens_ext.training.parallel.ranks import (
    ALONE,
    Ranks,
    Share,
    copy_into,
    is_distributed,
    local,
)

__all__ = ["ALONE", "Ranks", "Share", "copy_into", "is_distributed", "local"]
