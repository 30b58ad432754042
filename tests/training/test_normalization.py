"""A trained transcoder does on activations what it did on normalised ones."""

import pytest
import torch

import sae_lens_ext as sle
from sae_lens_ext.training.normalization import Normalization
from sae_lens_ext.training.stream import SiteStatistics

NO_LIMIT = torch.tensor(torch.inf)
SOURCE = SiteStatistics(torch.tensor([50.0, 0, -2]), torch.tensor(0.25), NO_LIMIT)
TARGET = SiteStatistics(torch.tensor([7.0, -9]), torch.tensor(3.0), NO_LIMIT)
BATCH = {
    "in": torch.tensor([50.0, 0, -2]) + torch.randn(9, 3) * 4,
    "out": torch.tensor([7.0, -9]) + torch.randn(9, 2) / 3,
}


def transcoder(kind, skip):
    config = sle.SAEConfig(
        d_model=3,
        d_sae=8,
        kind=kind,
        k=2 if kind == "topk" else None,
        d_out=2,
        skip_connection=skip,
    )
    sae = sle.SAE(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in sae.parameters():
            weight += 0.1 * torch.rand(weight.shape)
    return sae


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_folding_keeps_the_function_of_a_transcoder(kind, skip):
    sae = transcoder(kind, skip)
    normalization = Normalization("in", "out", {"in": SOURCE, "out": TARGET})
    u, target = normalization.pair(BATCH, "cpu")
    with torch.no_grad():
        expected = sae(u, 2) / TARGET.scale + TARGET.mean

    folded = normalization.finished(sae)
    assert torch.equal(target, (BATCH["out"] - TARGET.mean) * TARGET.scale)
    torch.testing.assert_close(folded(BATCH["in"], 2), expected)
    assert torch.equal(folded.W_dec, sae.W_dec)
    assert torch.equal(folded.encode(BATCH["in"], 2).indices, sae.encode(u, 2).indices)


def test_an_sae_carries_its_constants():
    sae = sle.SAE(sle.SAEConfig(d_model=3, d_sae=8, k=2))
    normalization = Normalization("in", None, {"in": SOURCE})
    assert normalization.installed(sae) is sae
    u, target = normalization.pair({"in": BATCH["in"].bfloat16()}, "cpu")
    assert target is None
    assert u.dtype == torch.float32
    assert torch.equal(u, sae.normalized(BATCH["in"].bfloat16().float()))
    assert normalization.finished(sae) is sae
