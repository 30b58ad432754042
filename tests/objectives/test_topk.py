"""TopK has one level."""

from sae_lens_ext.objectives import TopK


def test_levels_are_k_alone():
    assert TopK().levels_at(7) == (7,)
