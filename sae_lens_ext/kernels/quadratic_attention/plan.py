"""How ``chunked.py`` divides its work: tokens into chunks, sequences into groups."""

from torch import Tensor

from sae_lens_ext.kernels.quadratic_attention.features import n_features
from sae_lens_ext.kernels.quadratic_attention.reference import FeatureMap

# Tokens in a chunk. With fewer the state is read more often, with more there are more
# scores.
CHUNK = 128
# Above so many tokens there is more than one chunk, even where one would multiply less,
# because scores take memory quadratic in the tokens of a chunk.
_WHOLE_UP_TO = 4096
# The cost of computing a feature, in multiplications of a matrix product; measured.
_FEATURE_COST = 4
# Numbers to work on at a time, which are passed over more than once: scores in main
# memory, few enough to stay in the cache; features on a GPU, enough to keep it busy.
_SCORES = 1 << 18
_FEATURES_ON_GPU = 1 << 27


def is_short(
    pos: int,
    d: int,
    d_v: int,
    feature_map: FeatureMap,
    n_ends: int,
) -> bool:
    """Whether one chunk for all tokens needs fewer multiplications than more chunks.

    Per token, more chunks multiply for the scores with a chunk, to read a state and to
    write one.

    Args:
        pos: the number of tokens.
        d: the width of queries and keys.
        d_v: the width of values.
        feature_map: of the weights.
        n_ends: how many of these are done in any case: to read a state from before,
            and to write one for later.
    """
    state_cost = n_features(d, feature_map.c) * (d_v + 1 + _FEATURE_COST)
    chunked_cost = CHUNK * (d + d_v) + (2 - n_ends) * state_cost
    return pos <= _WHOLE_UP_TO and pos * (d + d_v) <= chunked_cost


def split_tokens(pos: int, chunk: int) -> list[slice]:
    """Chunks of ``chunk`` tokens, the last one smaller; 0 is one chunk of all tokens.

    >>> split_tokens(5, 2), split_tokens(5, 0), split_tokens(0, 2)
    ([slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)], [slice(0, 5, None)], [])
    """
    size = chunk or max(pos, 1)
    return [slice(start, min(start + size, pos)) for start in range(0, pos, size)]


def group_sequences(x: Tensor, chunks: list[slice], n_features: int) -> list[slice]:
    """Groups of the sequences of ``x`` [n, pos, d], each to be worked on at a time."""
    longest = max((tokens.stop - tokens.start for tokens in chunks), default=1)
    if x.device.type == "cpu":
        size = _SCORES // longest**2
    else:
        size = _FEATURES_ON_GPU // (longest * max(longest, n_features))
    return split_tokens(len(x), max(1, size))
