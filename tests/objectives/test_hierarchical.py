"""HierarchicalTopK is a weighted mean of TopK over levels, which have to fit k."""

import pytest
import tiny

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK, TopK


def test_hierarchical_is_the_mean_over_levels_of_topk(u):
    sae = tiny.sae()
    topk = {k: TopK()(sae, u, k).value.item() for k in range(1, 9)}
    all_levels = HierarchicalTopK()(sae, u, 8).value.item()
    assert all_levels == pytest.approx(sum(topk.values()) / 8)

    weighted = HierarchicalTopK(levels=[2, 8], weights=[3.0, 1.0])
    expected = (3 * topk[2] + topk[8]) / 4
    assert weighted(sae, u, 8).value.item() == pytest.approx(expected)


def test_levels_end_in_k():
    assert HierarchicalTopK().levels_at(3) == (1, 2, 3)
    assert HierarchicalTopK(levels=[1, 4]).levels_at(4) == (1, 4)


@pytest.mark.parametrize("levels", [(1, 2), (4, 1), (0, 4), ()])
def test_rejects_levels_that_do_not_rise_to_k(levels):
    with pytest.raises(sle.InvalidK, match="levels must rise from at least 1 to k=4"):
        HierarchicalTopK(levels=levels).levels_at(4)


@pytest.mark.parametrize("levels", [{}, {"levels": [1, 2]}])
def test_rejects_weights_without_one_level_each(levels):
    message = "weights must have one number per level, and levels must be listed; got "
    with pytest.raises(sle.InvalidArgument, match=message):
        HierarchicalTopK(**levels, weights=[1.0])


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 5}, "levels must be 'all' or a list of integers; got 5"),
        (
            {"levels": "every"},
            "levels must be 'all' or a list of integers; got 'every'",
        ),
        ({"levels": [1, 2.5]}, "levels must be 'all' or a list of integers"),
        (
            {"levels": [1, 2], "weights": 3},
            "weights must be a list of numbers, one per level; got 3",
        ),
        (
            {"levels": [1, 2], "weights": "12"},
            "weights must be a list of numbers, one per level; got '12'",
        ),
    ],
)
def test_rejects_levels_and_weights_of_the_wrong_kind(options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        HierarchicalTopK(**options)
