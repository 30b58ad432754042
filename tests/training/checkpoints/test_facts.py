"""Two runs are the same run if their facts are."""

from small_training import CONFIG, SITE, MemoryStream

from sae_lens_ext.objectives import HierarchicalTopK, TopK
from sae_lens_ext.training import TrainConfig
from sae_lens_ext.training.checkpoints.facts import differences, run_facts


def facts(**changes):
    config = TrainConfig(**{"d_sae": 32, "k": 4, **changes})
    return run_facts(config, MemoryStream(), (SITE,))


def test_equal_settings_have_no_differences():
    assert differences(facts(), facts()) == []
    levels = facts(objective=HierarchicalTopK(levels=[1, 4]))
    assert differences(levels, facts(objective=HierarchicalTopK((1, 4)))) == []


def test_every_difference_is_named():
    assert differences(facts(), facts(lr=0.5, seed=3)) == [
        "lr is 0.008 there and 0.5 here",
        "seed is 0 there and 3 here",
    ]
    assert differences(facts(), facts(objective=TopK())) == [
        "objective.type is 'HierarchicalTopK' there and 'TopK' here",
        "objective.levels is 'all' there and None here",
        "objective.weights is 'half_on_largest' there and None here",
        "objective.stride is 1 there and None here",
        "objective.decay is 0.99 there and None here",
        "objective.seed is 0 there and None here",
    ]


def test_the_stream_counts():
    shorter = run_facts(CONFIG, MemoryStream(n_tokens=9), (SITE,))
    longer = run_facts(CONFIG, MemoryStream(n_tokens=10), (SITE,))
    assert differences(shorter, longer) == ["n_tokens is 9 there and 10 here"]
