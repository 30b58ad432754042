"""Dead features are those that were not active for long."""

import torch

from sae_lens_ext.sae import SparseCode
from sae_lens_ext.training.activity import FeatureActivity


def code(rows):
    """Codes with one active feature each, and a zero for feature 0."""
    indices = torch.tensor([[row, 0] for row in rows])
    values = torch.tensor([[1.0, 0.0]] * len(rows))
    return SparseCode(values, indices, d_sae=4)


def test_counts_tokens_since_a_feature_was_active():
    activity = FeatureActivity(4, dead_after=5)
    activity.update(code([1, 2, 1]))
    assert activity.idle.tolist() == [8, 0, 0, 8]
    activity.update(code([2, 2]))
    assert activity.idle.tolist() == [10, 2, 0, 10]
    assert activity.n_tokens == 5
    assert activity.is_dead().tolist() == [True, False, False, True]
    assert activity.dead_share() == 0.5


def test_nothing_is_known_to_be_dead_before_enough_tokens():
    activity = FeatureActivity(4, dead_after=5)
    activity.update(code([1, 2, 1]))
    assert activity.known_dead() is None
    assert activity.dead_share() == 0.5
    activity.update(code([3, 3]))
    assert activity.known_dead().tolist() == [True, False, False, False]


def test_revived_features_count_anew():
    activity = FeatureActivity(4, dead_after=5)
    activity.revived(torch.tensor([True, False, False, True]))
    assert activity.idle.tolist() == [0, 5, 5, 0]


def test_zeros_of_a_code_are_not_active():
    activity = FeatureActivity(4, dead_after=2)
    zeros = SparseCode(torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.int64), d_sae=4)
    activity.update(zeros)
    assert activity.dead_share() == 1.0
