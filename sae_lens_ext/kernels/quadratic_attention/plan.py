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
    if pos > _WHOLE_UP_TO:
        return False

    # The sum of the weights is one more value.
    cost_per_feature = d_v + 1 + _FEATURE_COST
    state_cost = n_features(d, feature_map.c) * cost_per_feature

    # One product for the score, one for the value.
    cost_per_score = d + d_v
    n_states = 2 - n_ends
    whole_cost = pos * cost_per_score
    chunked_cost = CHUNK * cost_per_score + n_states * state_cost
    return whole_cost <= chunked_cost


def split_tokens(pos: int, chunk: int) -> list[slice]:
    """Chunks of ``chunk`` tokens, the last one smaller; 0 is one chunk of all tokens.

    >>> split_tokens(5, 2), split_tokens(5, 0), split_tokens(0, 2)
    ([slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)], [slice(0, 5, None)], [])
    """
    # At least 1, because range takes no step of 0.
    size = chunk or max(pos, 1)
    starts = range(0, pos, size)
    return [slice(start, min(start + size, pos)) for start in starts]


def group_sequences(x: Tensor, chunks: list[slice], n_features: int) -> list[slice]:
    """Groups of the sequences of ``x`` [n, pos, d], each to be worked on at a time."""
    lengths = [tokens.stop - tokens.start for tokens in chunks]
    longest = max(lengths, default=1)

    if x.device.type == "cpu":
        n_scores = longest**2
        size = _SCORES // n_scores
    else:
        # A token has as many scores as the chunk has tokens.
        widest = max(longest, n_features)
        size = _FEATURES_ON_GPU // (longest * widest)

    # A sequence is never divided between groups.
    return split_tokens(len(x), max(1, size))
