"""The first features of all slices are those of the whole dictionary."""

import pytest
import torch

from sae_lens_ext.kernels import topk_encode
from sae_lens_ext.training.parallel.merging import merged


def offered(pre, bounds, k):
    """What slices of a dictionary offer: the first k of each, padded."""
    values, features = [], []
    for start, end in bounds:
        eye = torch.eye(end - start)
        n = min(k, end - start)
        own, columns = topk_encode(pre[:, start:end], eye, torch.zeros(end - start), n)
        values.append(torch.nn.functional.pad(own, (0, k - n), value=-1))
        features.append(torch.nn.functional.pad(columns + start, (0, k - n)))
    return torch.stack(values), torch.stack(features)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("bounds", [[(0, 11), (11, 13)], [(0, 5), (5, 10), (10, 13)]])
def test_equals_the_code_of_the_whole_dictionary_with_ties(k, bounds):
    generator = torch.Generator().manual_seed(k)
    # Small integers: of most tokens, several features have the largest number.
    pre = torch.randint(-1, 3, (200, 13), generator=generator).float()
    assert (pre == pre.max(dim=1, keepdim=True).values).sum() > 400
    expected = topk_encode(pre, torch.eye(13), torch.zeros(13), k)

    code = merged(*offered(pre, bounds, k), k)
    assert torch.equal(code.values, expected[0])
    is_active = code.values > 0
    assert torch.equal(code.features[is_active], expected[1][is_active])


def test_says_where_every_feature_comes_from():
    values, features = offered(torch.randn(50, 13), [(0, 7), (7, 13)], 4)
    code = merged(values, features, 5)
    tokens = torch.arange(50).unsqueeze(1)
    assert torch.equal(values[code.ranks, tokens, code.columns], code.values)
    assert torch.equal(features[code.ranks, tokens, code.columns], code.features)


def test_nan_comes_first_and_places_without_a_candidate_last():
    values = torch.tensor([[[2.0, -1.0]], [[torch.nan, 0.0]]])
    features = torch.tensor([[[0, 0]], [[1, 2]]])
    code = merged(values, features, 3)
    assert code.features.tolist() == [[1, 0, 2]]
