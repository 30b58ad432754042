"""HierarchicalTopK is a weighted mean of TopK over levels, which have to fit k."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import HierarchicalTopK, TopK


def topk_losses(sae, u, levels):
    return {level: TopK()(sae, u, level).value.item() for level in levels}


def test_hierarchical_is_the_mean_over_levels_of_topk(u):
    sae = tiny.sae()
    topk = topk_losses(sae, u, range(1, 9))
    all_levels = HierarchicalTopK()(sae, u, 8).value.item()
    assert all_levels == pytest.approx(sum(topk.values()) / 8)

    weighted = HierarchicalTopK(levels=[2, 8], weights=[3.0, 1.0])
    expected = (3 * topk[2] + topk[8]) / 4
    assert weighted(sae, u, 8).value.item() == pytest.approx(expected)


def test_levels_follow_k():
    assert HierarchicalTopK().levels_at(3) == (1, 2, 3)
    assert HierarchicalTopK(stride=4).levels_at(10) == (4, 8, 10)
    assert HierarchicalTopK(levels=[1, 4]).levels_at(4) == (1, 4)
    with pytest.raises(sle.InvalidK, match="levels must rise from at least 1 to k=5"):
        HierarchicalTopK(levels=[1, 4]).levels_at(5)


def test_relative_weights_are_one_over_the_errors_of_batches_before(u):
    sae = tiny.sae()
    levels = (1, 4, 8)
    objective = HierarchicalTopK(levels=levels, weights="relative", decay=0.5)
    topk = topk_losses(sae, u, levels)

    # All alike at first, and as long as the weights of the SAE have not changed.
    for _ in range(2):
        loss, code = objective(sae, u, 8)
        assert loss.item() == pytest.approx(sum(topk.values()) / 3)

    objective.after_step(sae, code)
    for before, now in zip(objective.weights_at(8), levels, strict=True):
        assert before * topk[now] == pytest.approx(objective.weights_at(8)[0] * topk[1])
    value = objective(sae, u, 8).value.item()
    assert value == pytest.approx(3 / sum(1 / error for error in topk.values()))


def test_relative_weights_follow_the_running_mean(u):
    sae = tiny.sae()
    objective = HierarchicalTopK(levels=(2, 8), weights="relative", decay=0.5)
    topk = [topk_losses(sae, scale * u, (2, 8)) for scale in (1, 3)]
    for scale in (1, 3):
        objective.after_step(sae, objective(sae, scale * u, 8).code)
    means = {level: (topk[0][level] + topk[1][level]) / 2 for level in (2, 8)}
    first, second = objective.weights_at(8)
    assert second / first == pytest.approx(means[2] / means[8])


@pytest.mark.parametrize("weights", ["uniform", "inverse"])
def test_sampled_levels_are_unbiased(u, weights):
    """The mean loss and the mean gradient of many draws are those of all levels."""
    sae = tiny.sae()
    full = HierarchicalTopK(weights=weights)(sae, u, 8).value
    (gradient,) = torch.autograd.grad(full, sae.b_dec)

    sampled = HierarchicalTopK(weights=weights, sampled=2)
    values = []
    gradients = []
    for _ in range(150):
        value = sampled(sae, u, 8).value
        values.append(value.detach())
        gradients += torch.autograd.grad(value, sae.b_dec)
    for draws, expected in ((values, full.detach()), (gradients, gradient)):
        stacked = torch.stack(draws).double()
        error = stacked.mean(0) - expected
        assert (error.abs() <= 5 * stacked.std(0) / 150**0.5 + 1e-7).all()
        assert stacked.std(0).min() > 0


def test_sampled_levels_are_a_mean_over_the_drawn_ones(u):
    sae = tiny.sae()
    topk = topk_losses(sae, u, range(1, 9))
    objective = HierarchicalTopK(sampled=1, seed=3)
    values = {round(objective(sae, u, 8).value.item(), 5) for _ in range(60)}
    assert values == {round(value, 5) for value in topk.values()}
    assert objective(sae, u, 8).code.k == 8


def test_draws_depend_on_the_seed_alone(u):
    sae = tiny.sae()
    runs = [
        [objective(sae, u, 8).value.item() for _ in range(6)]
        for objective in (HierarchicalTopK(sampled=1, seed=seed) for seed in (1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_sampled_levels_learn_the_errors_of_the_drawn_ones(u):
    sae = tiny.sae()
    objective = HierarchicalTopK(weights="relative", sampled=1)
    objective.after_step(sae, objective(sae, u, 8).code)
    (errors,) = [
        value for value in objective.state_dict().values() if value.is_floating_point()
    ]
    assert errors.isfinite().sum() == 1


@pytest.mark.parametrize(
    "levels", [{}, {"levels": [1, 2]}, {"levels": "powers_of_two"}]
)
def test_rejects_weights_without_one_level_each(levels):
    message = "weights must have one number per level, and levels must be listed; got "
    with pytest.raises(sle.InvalidArgument, match=message):
        HierarchicalTopK(**levels, weights=[1.0])


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 5}, "levels must be 'all', 'powers_of_two' or a list of integers"),
        (
            {"levels": [1, 2], "weights": "12"},
            "weights must be one of uniform, half_on",
        ),
        ({"levels": [1, 2], "stride": 2}, "stride=2 is for levels='all'; got levels="),
        ({"stride": 0}, "stride must be a positive integer; got 0"),
        ({"sampled": 0}, "sampled must be a positive integer; got 0"),
        ({"decay": 1}, "decay must be a number of at least 0 and below 1; got 1"),
        ({"seed": -1, "decay": 2}, "decay must be .*; seed must be a non-negative"),
    ],
)
def test_rejects_invalid_options(options, message):
    with pytest.raises(sle.InvalidArgument, match=message):
        HierarchicalTopK(**options)


def test_equal_objectives_are_equal_and_can_be_keys():
    assert HierarchicalTopK(levels=[1, 2]) == HierarchicalTopK(levels=(1, 2))
    assert len({HierarchicalTopK(levels=[1, 2]), HierarchicalTopK(levels=(1, 2))}) == 1
