"""Columns up to a group's end hold the features up to the group's end."""

import pytest
import torch

from sae_lens_ext.objectives.groups import by_group


@pytest.mark.parametrize("ends", [[48], [12, 24, 48], [1, 2, 48], [47, 48]])
def test_prefixes_of_columns_are_prefixes_of_the_dictionary(ends):
    scores = torch.rand(9, 48)
    values, indices = scores.topk(6, dim=1)
    values = values.where(torch.rand(9, 6) > 0.3, 0)
    dense = torch.zeros(9, 48).scatter_add(1, indices, values)

    moved, features, columns = by_group(values, indices, ends)
    assert len(columns) == len(ends)
    assert moved.shape[1] == columns[-1]
    for end, column in zip(ends, columns, strict=True):
        prefix = torch.zeros(9, 48).scatter_add(
            1, features[:, :column], moved[:, :column]
        )
        assert torch.equal(prefix, dense * (torch.arange(48) < end))


def test_groups_without_active_features_have_one_column():
    values = torch.tensor([[2.0, 0.0]])
    moved, _, columns = by_group(values, torch.tensor([[5, 0]]), [1, 4, 8])
    assert columns == [1, 2, 3]
    assert moved.tolist() == [[0.0, 0.0, 2.0]]


def test_order_within_a_group_stays_and_gradients_come_back():
    values = torch.tensor([[4.0, 3.0, 2.0, 1.0]], requires_grad=True)
    moved, features, _ = by_group(values, torch.tensor([[7, 0, 6, 1]]), [4, 8])
    assert moved.tolist() == [[3.0, 1.0, 4.0, 2.0]]
    assert features.tolist() == [[0, 1, 7, 6]]
    (moved * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert values.grad.tolist() == [[100.0, 1.0, 1000.0, 10.0]]
