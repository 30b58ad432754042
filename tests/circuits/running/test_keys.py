"""Weights of the nodes of a batch, looked up by number."""

import torch

from sae_lens_ext.circuits.running.keys import (
    EMPTY,
    BatchWeights,
    KeySpace,
    NodeSet,
    SiteWeights,
)

SPACE = KeySpace(n_slots=3, n_features=5)


def keys(*nodes):
    return torch.tensor([SPACE.key(*node) for node in nodes])


def test_every_node_has_a_number_of_its_own():
    nodes = [(slot, feature) for slot in range(3) for feature in range(-1, 5)]
    numbers = [SPACE.key(*node) for node in nodes]
    assert numbers == list(range(SPACE.size))
    assert [SPACE.node(number) for number in numbers] == nodes
    slots, features = torch.tensor(nodes).T
    assert SPACE.keys(slots, features).tolist() == numbers


def test_a_node_counts_in_its_slot_or_everywhere_in_its_circuit():
    sets = [
        NodeSet({"site": keys((1, 4), (0, 2), (2, -1))}),
        EMPTY,
        NodeSet({"site": keys((1, 4))}).complement(),
    ]
    weights = SiteWeights.of(sets, "site", SPACE, torch.device("cpu"))
    slots = torch.tensor([[1, 2], [1, 2], [1, 2]])
    batch = BatchWeights(weights, torch.arange(3), slots, torch.zeros(3).long())
    features = torch.tensor([4, 2, 0]).expand(3, 2, 3)
    assert batch.features(features).tolist() == [
        [[1, 1, 0], [0, 1, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 1, 1], [1, 1, 1]],
    ]
    assert batch.errors().tolist() == [[0, 1], [0, 0], [1, 1]]

    by_slot = batch.by_slot(torch.tensor([4, 2, 0]))
    assert torch.equal(batch.of_tokens(by_slot), batch.features(features))
    errors = batch.errors_by_slot()
    assert torch.equal(batch.of_tokens(errors), batch.errors())


def test_a_site_without_nodes_has_none():
    weights = SiteWeights.of([EMPTY], "site", SPACE, torch.device("cpu"))
    assert weights.at(
        torch.tensor([0]), torch.tensor([1]), torch.tensor([[3, -1]])
    ).tolist() == [[0, 0]]
