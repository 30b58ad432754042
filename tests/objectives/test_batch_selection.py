"""The kept activations are the largest of the batch, however they were searched."""

import pytest
import tiny
import torch

from benchmarks.measure import peak_extra_bytes
from objectives import cases, oracles
from sae_lens_ext.objectives.batch_selection import BatchSelection


def dense(values, indices):
    zeros = torch.zeros(len(values), 48, dtype=values.dtype)
    return zeros.scatter_add(1, indices, values)


def expected_and_found(select, sae, u, k):
    with torch.no_grad():
        expected = oracles.top_of_batch(oracles.pre_activations(sae, u), k)
        return expected, dense(*select(sae, u, k))


@pytest.mark.parametrize("k", [1, 2, 7, 30, 48])
@pytest.mark.parametrize("form", cases.FORMS)
def test_the_largest_are_kept_batch_after_batch(k, form):
    """Some tokens are large, so that they hold most of what is kept."""
    sae = cases.sae_for("batchtopk", form)
    select = BatchSelection()
    for scale in (1, 1.1, 0.05, 30):
        u, _ = cases.batch(form)
        u[:3] *= 10
        torch.testing.assert_close(*expected_and_found(select, sae, u * scale, k))


def test_the_bound_of_the_last_batch_changes_no_bit():
    sae = cases.sae_for("batchtopk", "sae").float()
    u = torch.randn(40, 32)
    fresh = BatchSelection()(sae, u, 6)
    for last in (1e-9, 0.5, 3.0, 1e9):
        select = BatchSelection()
        select._smallest = last
        values, indices = select(sae, u, 6)
        assert torch.equal(values, fresh[0])
        assert torch.equal(indices, fresh[1])


def test_equal_activations_are_all_kept():
    sae = tiny.sae_of_kind("batchtopk", d_sae=6).float()
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.copy_(torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5, -1.0]))
    for _ in range(2):
        values, indices = BatchSelection()(sae, torch.randn(4, 32), 2)
        assert values.tolist() == [[3.0, 1.0, 1.0, 1.0]] * 4
        assert indices.tolist() == [[0, 1, 2, 3]] * 4


def test_tokens_without_enough_positive_features_keep_what_they_have():
    sae = tiny.sae_of_kind("batchtopk")
    with torch.no_grad():
        sae.b_enc -= 12
    u, _ = cases.batch("sae")
    expected, found = expected_and_found(BatchSelection(), sae, u, 20)
    assert 0 < (expected > 0).sum() < 20 * len(u)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        sae.b_enc -= 1000
    select = BatchSelection()
    for _ in range(2):
        assert not select(sae, u, 3)[0].any()


def test_nan_does_not_vanish():
    sae = tiny.sae_of_kind("batchtopk")
    u, _ = cases.batch("sae")
    u[2, 3] = torch.nan
    select = BatchSelection()
    for _ in range(2):
        assert select(sae, u, 4)[0].isnan().any()


def selection():
    """Two selections of 2,048 tokens from 32,768 features, the second with a bound."""
    torch.manual_seed(0)
    sae = tiny.sae(d_model=32, d_sae=32_768, kind="batchtopk", k=None)
    u = torch.randn(2048, 32)
    select = BatchSelection()

    def both():
        for _ in range(2):
            values, _ = select(sae, u, 16)
            values.sum().backward()

    return (lambda: select(sae, u[:8], 16)), both


def test_memory_is_not_that_of_all_pre_activations():
    # All of them would take 268 MB; a chunk of the encoder, and its gate, take 67 MB.
    assert peak_extra_bytes(selection) < 200e6
