"""Batches have the examples, the numbers of pairs and the order that a recipe says."""

from dataclasses import replace

import pytest
import quick_recall
import torch

from sae_lens_ext.experiments.recall import MQAR, UNLABELLED
from sae_lens_ext.experiments.recall.batches import batches, training_tasks


def test_epoch_has_every_example_once_in_an_order_of_the_seed():
    def epochs(seed):
        recipe = replace(
            quick_recall.RECIPE, seed=seed, train_examples=11, batch_size=5, steps=4
        )
        tokens = [tokens for tokens, _ in batches(recipe, MQAR(16, 4, 100))]
        return [torch.cat(tokens[start : start + 2]) for start in (0, 2)]

    for epoch in epochs(1):
        assert len(epoch.unique(dim=0)) == len(epoch) == 10, (
            "two batches of 11, none twice; the eleventh waits for another epoch"
        )
    first, second = [set(map(tuple, torch.cat(epochs(s)).tolist())) for s in (1, 2)]
    assert len(first | second) == 11, "the seed does not change the set"
    assert not torch.equal(epochs(1)[0], epochs(1)[1])
    assert not torch.equal(epochs(1)[0], epochs(2)[0])


@pytest.mark.parametrize(
    ("fewest", "pairs"), [(None, [8]), (8, [8]), (2, [2, 4, 8]), (3, [3, 6, 8])]
)
@pytest.mark.parametrize("train_examples", [None, 12])
def test_each_batch_has_one_of_the_numbers_of_pairs_from_the_fewest_on(
    fewest, pairs, train_examples
):
    recipe = replace(
        quick_recall.RECIPE,
        fewest_pairs=fewest,
        steps=300,
        batch_size=4,
        train_examples=train_examples,
    )
    task = MQAR(32, 8, 64)
    assert training_tasks(recipe, task) == [replace(task, pairs=n) for n in pairs]

    pairs_of_batches = []
    for tokens, labels in batches(recipe, task):
        assert tokens.shape == (4, 32)
        (n,) = {int(row) for row in (labels != UNLABELLED).sum(1)}
        pairs_of_batches.append(n)
    assert len(pairs_of_batches) == 300
    assert sorted(set(pairs_of_batches)) == pairs
    assert all(pairs_of_batches.count(n) > 300 / len(pairs) / 2 for n in pairs)
