"""Every published layout and option computes what the library that made it computes.

The folders in ``fixtures`` were written by SAELens 3 to 6, sparsify,
dictionary_learning and circuit-tracer themselves, or have the published names and
shapes and were computed by SAELens' loaders; the numbers are theirs.
"""

import checkpoints
import pytest
import torch

from sae_lens_ext.formats import locate, read_sae, write_saelens

CASES = checkpoints.cases()


def _named(case):
    maker, name, _, _ = case
    return f"{maker}/{name}"


@pytest.fixture(params=CASES, ids=_named)
def case(request):
    maker, name, folder, subfolder = request.param
    return locate(folder, subfolder=subfolder), checkpoints.expected(maker, name)


def test_computes_what_its_library_computes(case):
    place, (x, recons, acts) = case
    checkpoint = read_sae(place)
    torch.testing.assert_close(
        checkpoints.encoded(checkpoint, x), acts, rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        checkpoints.reconstructed(checkpoint, x), recons, rtol=0, atol=1e-5
    )
    # Some features are active, and not all.
    assert 0 < (acts > 0).float().mean() < 1


def test_what_is_written_again_is_read_back_unchanged(case, tmp_path):
    place, _ = case
    checkpoint = read_sae(place)
    again = read_sae(write_saelens(tmp_path, checkpoint))
    assert again.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(again.tensors[name], tensor), name
    for field in ("kind", "k", "d_out", "token_norm", "apply_b_dec_to_input"):
        assert getattr(again, field) == getattr(checkpoint, field), field
    assert dict(again.metadata) == dict(checkpoint.metadata)
