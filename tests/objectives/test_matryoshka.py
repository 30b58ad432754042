"""Matryoshka nests prefixes of the dictionary; features are chosen once for all."""

import pytest
import tiny
import torch

import sae_lens_ext as sle
from sae_lens_ext.objectives import BatchTopK, Matryoshka


def test_default_prefixes_are_those_of_the_paper():
    assert Matryoshka().sizes(65_536) == (2048, 6144, 14_336, 30_720, 65_536)
    assert Matryoshka().sizes(3) == (1, 3)


def test_with_one_prefix_it_is_batchtopk(u):
    sae = tiny.sae(kind="batchtopk", k=None)
    loss, code = Matryoshka(prefixes=(1.0,))(sae, u, 5)
    expected, expected_code = BatchTopK()(sae, u, 5)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(code.values, expected_code.values)
    assert torch.equal(code.indices, expected_code.indices)


@pytest.mark.parametrize(
    "prefixes", [(), (0.5, 0.25, 1.0), (0.5,), (0.0, 1.0), (0.5, 1.0, 2.0)]
)
def test_rejects_prefixes_that_do_not_rise_to_the_dictionary(prefixes):
    with pytest.raises(sle.InvalidArgument, match="prefixes must be shares of the"):
        Matryoshka(prefixes=prefixes)
